"""What the stories share: guests of the tester's table in a simulated network, and scapy as judge.

`Actor` is a driver double that negotiates what its profile would, posts buffers of that profile's
shape, and concludes from each delivery what that profile concludes.
"""

from collections.abc import Sequence
from typing import Final

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tests.reference.guest import DATA_GPA, Guest
from tests.reference.network import Network
from tests.reference.plug import FULL, GUEST_GSO, HOST_GSO, MRG_RXBUF, NO_OPTIONS, PLAIN, Options
from tests.reference.receiver import obeys
from vionet.check.profile.guest import GUESTS, Reading, read
from vionet.engine.status import Policy
from vionet.spec.virtio_net import NetHeader

EVERYTHING: Final = FULL | HOST_GSO | GUEST_GSO
BODY: Final = bytes((i * 13 + (i >> 8)) & 0xFF for i in range(70_000))
Found = list[tuple[NetHeader, bytes]]


def plug(
    network: Network,
    features: int = EVERYTHING,
    *,
    policy: Policy = Policy.UNIFORM,
    options: Options = NO_OPTIONS,
    buffers: int = 64,
) -> Guest:
    """A guest that agreed to exactly `features`, with buffers for a large frame."""
    room = 1 << (18 if buffers <= 64 else 20)  # half of it for buffers, half for what is sent
    guest = network.guest(features, policy=policy, options=options, size=256, data_len=room)
    assert features == guest.record.features, "what is believed to be negotiated is"
    for _ in range(buffers):
        guest.post(2048)
    return guest


def say(network: Network, source: Guest, data: bytes, header: NetHeader = PLAIN) -> None:
    """One frame from a guest, whose buffer comes back unwritten."""
    source.next_gpa = (DATA_GPA + source.end_gpa) // 2
    source.send(data, header)
    assert 1 == network.run(source)
    assert [0] == [used.length for used in source.tx.take_used()]


def taken(guest: Guest) -> Found:
    """What was delivered since the last call, each delivery found to obey the rules.

    The buffers are posted again.
    """
    posted = dict(guest.posted)
    found = guest.received()
    for head in (head for one in found for head in one.heads):
        guest.posted[guest.rx.add(posted[head], True)] = posted[head]
    for one in found:
        obeys(guest.features, one.header, one.frame)
    return [(one.header, one.frame) for one in found]


class Actor:
    """A guest of the table."""

    def __init__(self, network: Network, name: str, policy: Policy = Policy.UNIFORM) -> None:
        self.profile = GUESTS[name]
        features = self.profile.features & EVERYTHING
        self.guest = network.guest(features, policy=policy, size=256, data_len=1 << 20)
        assert features == self.guest.record.features
        large = features & MRG_RXBUF and sum(self.profile.shape) < 2000
        for _ in range(min(self.profile.buffers, 8)):
            self.guest.post(*((2000,) if large else self.profile.shape))

    def read(self, count: int = 1) -> list[Reading]:
        """What it concludes of everything that came."""
        found = taken(self.guest)
        assert count == len(found)
        return [read(self.profile, *one) for one in found]


def right_by_scapy(frame: bytes) -> bool:
    """Whether scapy would put the very same checksums there, in the outermost IP datagram."""
    packet: Packet = Ether(frame)
    for layer in (IP, IPv6, UDP, TCP):
        if (found := packet.getlayer(layer)) is not None and layer is not IPv6:
            del found.chksum
    return bytes(packet) == frame


def chopped(length: int, pieces: int) -> Sequence[int]:
    """Where to cut so many bytes into pieces of about one size."""
    return [length * i // pieces for i in range(1, pieces)]
