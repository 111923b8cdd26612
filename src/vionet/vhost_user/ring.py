"""One ring as the front-end has described it, and whether that makes a usable split ring.

How it works: a `Ring` is a value; each request that concerns it makes a new one.  `located` finds
its three parts in the mapped memory.  The data path may touch a ring only while it is `ready`:
its parts are mapped, and a kick can come (or need not).  Started and stopped are the data path's
(spec VU-22 to VU-25): ready is as far as messages alone can bring a ring.

Trust: size and addresses are the front-end's.  Each part must lie in one region as a whole.
"""

from dataclasses import dataclass, replace
from typing import Final

from vionet.spec import virtio
from vionet.vhost_user.memory import MemoryMap
from vionet.vhost_user.request import Refusal

BASE_MAX: Final = 0xFFFF  # a split ring's index is 16 bits (spec VU-32)


@dataclass(frozen=True, slots=True)
class Ring:
    """Everything that is known of one ring.  Descriptors are -1 where there is none."""

    size: int = 0
    desc_uva: int = 0
    avail_uva: int = 0
    used_uva: int = 0
    desc_hva: int = 0  # 0, all three, while they are not mapped
    avail_hva: int = 0
    used_hva: int = 0
    base: int = 0
    kick_fd: int = -1
    call_fd: int = -1
    err_fd: int = -1
    polled: bool = False  # no kick will ever come (spec VU-26)
    enabled: bool = False

    @property
    def ready(self) -> bool:
        """The data path may touch the ring."""
        return bool(self.desc_hva) and self.kicked

    @property
    def kicked(self) -> bool:
        """A kick can come, or need not."""
        return self.polled or self.kick_fd >= 0

    @property
    def addressed(self) -> bool:
        """SET_VRING_ADDR has come."""
        return bool(self.desc_uva or self.avail_uva or self.used_uva)

    @property
    def fds(self) -> set[int]:
        """The descriptors that the ring uses."""
        return {fd for fd in (self.kick_fd, self.call_fd, self.err_fd) if fd >= 0}


def check_size(size: int) -> None:
    """Raise `Refusal` unless a split ring may have `size` entries (spec VU-40)."""
    if not 0 < size <= virtio.VRING_SIZE_MAX or size & (size - 1):
        raise Refusal(f"ring size {size}, expected a power of two up to {virtio.VRING_SIZE_MAX}")


def located(ring: Ring, memory: MemoryMap) -> Ring:
    """The ring with host addresses; with none where its parts are not all mapped."""
    missing = replace(ring, desc_hva=0, avail_hva=0, used_hva=0)
    if not ring.size or not ring.addressed:
        return missing
    desc = memory.hva_of_uva(ring.desc_uva, virtio.vring_desc_len(ring.size))
    avail = memory.hva_of_uva(ring.avail_uva, virtio.vring_avail_len(ring.size))
    used = memory.hva_of_uva(ring.used_uva, virtio.vring_used_len(ring.size))
    if desc is None or avail is None or used is None:
        return missing
    if (
        desc % virtio.VRING_DESC_ALIGN
        or avail % virtio.VRING_AVAIL_ALIGN
        or used % virtio.VRING_USED_ALIGN
    ):
        return missing
    return replace(ring, desc_hva=desc, avail_hva=avail, used_hva=used)


def check_place(ring: Ring, memory: MemoryMap) -> None:
    """Raise `Refusal` if the addresses of SET_VRING_ADDR can already be seen to be wrong."""
    for name, uva, align in (
        ("descriptor table", ring.desc_uva, virtio.VRING_DESC_ALIGN),
        ("available ring", ring.avail_uva, virtio.VRING_AVAIL_ALIGN),
        ("used ring", ring.used_uva, virtio.VRING_USED_ALIGN),
    ):
        if uva % align:
            raise Refusal(f"{name} at {uva:#x}, expected a multiple of {align}")
    if ring.size and memory.regions and not located(ring, memory).desc_hva:
        raise Refusal(
            f"ring of {ring.size} at {ring.desc_uva:#x}, {ring.avail_uva:#x}, {ring.used_uva:#x}"
            " does not lie in the memory table"
        )
