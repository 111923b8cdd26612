"""One ring as the front-end has described it, and whether that makes a usable one.

How it works: a `Ring` is a value; each request that concerns it makes a new one.  `located` finds
its three parts in the mapped memory.  The data path may touch a ring only while it is `ready`:
its parts are mapped, and a kick can come (or need not).  Started and stopped are the data path's
(spec VU-22 to VU-25): ready is as far as messages alone can bring a ring.

Whether rings are split or packed is known with SET_FEATURES, which may come after size and base;
so those are judged once when they come, as far as can be known, and again by `located`.

Trust: size and addresses are the front-end's.  Each part must lie in one region as a whole.
"""

from dataclasses import dataclass, replace
from typing import Final

from vionet.spec import virtio
from vionet.vhost_user.memory import MemoryMap
from vionet.vhost_user.request import Refusal

SPLIT_BASE_MAX: Final = 0xFFFF  # a split ring's index is 16 bits (spec VU-32)
_SLOT: Final = 0x7FFF


@dataclass(frozen=True, slots=True)
class Ring:
    """Everything that is known of one ring.  Descriptors are -1 where there is none.

    A packed ring has the driver's event structure in the place of the available ring, and the
    device's in that of the used ring.
    """

    size: int = 0
    packed: bool = False  # RING_PACKED is negotiated
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


def check_size(size: int, *, packed: bool) -> None:
    """Raise `Refusal` unless a ring that may be `packed` can have `size` entries (VU-40, PK-01)."""
    if not 0 < size <= virtio.VRING_SIZE_MAX:
        raise Refusal(f"ring size {size}, expected 1 to {virtio.VRING_SIZE_MAX}")
    if not packed and size & (size - 1):
        raise Refusal(f"ring size {size}, expected a power of two; RING_PACKED is not negotiated")


def check_base(base: int, *, packed: bool) -> None:
    """Raise `Refusal` unless a ring that may be `packed` can begin at `base`."""
    if not packed and base > SPLIT_BASE_MAX:
        raise Refusal(f"base {base:#x}, a split ring has 16 bits")


def sound(ring: Ring) -> bool:
    """Size and base are possible in the ring's format."""
    if ring.packed:
        return (ring.base & _SLOT) < ring.size and (ring.base >> 16 & _SLOT) < ring.size
    return not ring.size & (ring.size - 1) and ring.base <= SPLIT_BASE_MAX


def parts(ring: Ring) -> tuple[tuple[str, int, int, int], ...]:
    """Name, user address, bytes and alignment of the ring's three parts (spec SP-01, PK-01)."""
    desc_len = virtio.vring_desc_len(ring.size)
    if ring.packed:
        event = virtio.VRING_PACKED_EVENT_LEN, virtio.VRING_PACKED_EVENT_ALIGN
        return (
            ("descriptor ring", ring.desc_uva, desc_len, virtio.VRING_DESC_ALIGN),
            ("driver's event structure", ring.avail_uva, *event),
            ("device's event structure", ring.used_uva, *event),
        )
    avail_len, used_len = virtio.vring_avail_len(ring.size), virtio.vring_used_len(ring.size)
    return (
        ("descriptor table", ring.desc_uva, desc_len, virtio.VRING_DESC_ALIGN),
        ("available ring", ring.avail_uva, avail_len, virtio.VRING_AVAIL_ALIGN),
        ("used ring", ring.used_uva, used_len, virtio.VRING_USED_ALIGN),
    )


def located(ring: Ring, memory: MemoryMap) -> Ring:
    """The ring with host addresses; with none where its parts are not all mapped."""
    missing = replace(ring, desc_hva=0, avail_hva=0, used_hva=0)
    if not ring.size or not ring.addressed or not sound(ring):
        return missing
    found = []
    for _, uva, length, align in parts(ring):
        hva = memory.hva_of_uva(uva, length)
        if hva is None or hva % align:
            return missing
        found.append(hva)
    return replace(ring, desc_hva=found[0], avail_hva=found[1], used_hva=found[2])


def check_place(ring: Ring, memory: MemoryMap) -> None:
    """Raise `Refusal` if the addresses of SET_VRING_ADDR can already be seen to be wrong."""
    for name, uva, _, align in parts(ring):
        if uva % align:
            raise Refusal(f"{name} at {uva:#x}, expected a multiple of {align}")
    if ring.size and sound(ring) and memory.regions and not located(ring, memory).desc_hva:
        raise Refusal(
            f"ring of {ring.size} at {ring.desc_uva:#x}, {ring.avail_uva:#x}, {ring.used_uva:#x}"
            " does not lie in the memory table"
        )
