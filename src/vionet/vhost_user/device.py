"""What a back-end drives: the device behind it, and what that device offers.

The session calls a `Device` as soon as a request has been found right, and before it is
acknowledged; when a call returns, what it asked for has happened.  While a front-end is connected
the device has it as a `FrontEnd`, and may tell it of changes that begin here.
"""

from collections.abc import Callable, Sequence
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


class FrontEnd(Protocol):
    """A connected front-end, as far as a device has to do with it."""

    @property
    def reads_config(self) -> bool:
        """It takes the configuration space from here (CONFIG was negotiated)."""

    def show_config(self, config: bytes, *, changed: bool) -> None:
        """What is read from now on; `changed`: the driver is to be interrupted for it."""

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Callable[[], None]:
        """Have the device called on its thread in a while; *returns* what calls that off.

        The device calls it off at the latest when it is `closed`.
        """

    def end(self, reason: str) -> None:
        """End its session; `Device.closed` is called before the return."""


class Device(Protocol):
    """The data path of one port, seen from its back-end.  All calls come from one thread."""

    sent_away: int  # the process whose session ended last for want of a link; its connections' own

    @property
    def link_down(self) -> bool:
        """A person has taken the link down.

        Only a front-end that reads the configuration can be told so; others lose their session,
        and get none before the link is up again (spec FE-09).  The first one of a process lasts
        until its driver starts.
        """

    def offer(self) -> Offer:
        """What the next session offers; asked once for each, before `opened`."""

    def opened(self, front_end: FrontEnd) -> None:
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

    @property
    def control_kicked(self) -> bool:
        """There may be commands in the control queue."""

    def serve_control(self) -> bool:
        """Answer them; true where it has to be called again in a moment."""

    def closed(self, reason: str) -> None:
        """The session is over: let go of all rings, memory and descriptors before returning."""
