"""What a back-end drives: the device behind it, and what that device offers.

The session calls a `Device` as soon as a request has been found right, and before it is
acknowledged; when a call returns, what it asked for has happened.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vionet.vhost_user.memory import MappedRegion
from vionet.vhost_user.ring import Ring


@dataclass(frozen=True, slots=True)
class Offer:
    """What a device offers to one front-end."""

    features: int  # virtio feature bits; bit 30 is added by the session
    protocol_features: int
    queue_pairs: int = 1
    config: bytes = b""  # struct virtio_net_config as far as it is filled; zeros follow
    mtu: int = 0  # the largest that NET_SET_MTU may ask for; 0: any


class Device(Protocol):
    """The data path of one port, seen from its back-end.  All calls come from one thread."""

    def offer(self) -> Offer:
        """What the next session offers; asked once for each, before `opened`."""

    def opened(self) -> None:
        """A front-end is connected."""

    def set_features(self, features: int) -> None:
        """The negotiated features, bit 30 included; rings may be running (spec VU-36)."""

    def set_mtu(self, mtu: int) -> None:
        """The front-end has told the driver's MTU."""

    def set_memory(self, regions: Sequence[MappedRegion]) -> None:
        """Replace the whole memory map.  The former one is unmapped after the return.

        Where rings are running, `set_ring` with their new addresses follows at once.
        """

    def set_ring(self, index: int, ring: Ring) -> None:
        """Something about a ring changed.

        While `ring.ready` is false it is not to be touched.  When it becomes true, for the first
        time or after `stop_ring`, the ring begins at `ring.base`; from then on `base` means
        nothing.  The ring is started when its kick is readable, or at once if it is `polled`.
        """

    def stop_ring(self, index: int) -> int:
        """Let go of the ring, for good; return its next available index."""

    def closed(self, reason: str) -> None:
        """The session is over: let go of all rings, memory and descriptors before returning."""
