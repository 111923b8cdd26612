"""The models themselves, compared with scapy: an error that both a model and the engine have
would otherwise be seen by nobody (W47).
"""

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.reference import checksum
from tests.reference.frame import Layers
from tests.reference.header import parse
from tests.reference.memory import GUARD_LEN, Memory

ETHER = Ether(src="02:00:00:00:00:00", dst="02:00:00:00:00:01")
V4 = IP(src="192.0.2.1", dst="192.0.2.2", id=7)
V6 = IPv6(src="2001:db8::1", dst="2001:db8::2")
BODY = Raw(bytes(range(77)))

PACKETS = {
    "udp": ETHER / V4 / UDP(sport=4000, dport=4001) / BODY,
    "tcp": ETHER / V4 / TCP(sport=4000, dport=4001, options=[("MSS", 1460)]) / BODY,
    "udp6": ETHER / V6 / UDP(sport=4000, dport=4001) / BODY,
    "tcp6": ETHER / V6 / TCP(sport=4000, dport=4001) / BODY,
    "tagged": ETHER / Dot1Q(vlan=5) / V4 / UDP() / BODY,
    "twice tagged": ETHER / Dot1AD(vlan=5) / Dot1Q(vlan=6) / V6 / TCP() / BODY,
    "hop by hop": ETHER / V6 / IPv6ExtHdrHopByHop() / UDP() / BODY,
    "destination": ETHER / V6 / IPv6ExtHdrDestOpt() / TCP() / BODY,
    "arrived": ETHER / V6 / IPv6ExtHdrRouting(addresses=["2001:db8::9"], segleft=0) / UDP() / BODY,
    "fragment6": ETHER / V6 / IPv6ExtHdrFragment(m=1) / UDP() / BODY,
    "fragment": ETHER / IP(src="192.0.2.1", dst="192.0.2.2", flags="MF") / UDP() / BODY,
    "dhcp": ETHER / V4 / UDP(sport=68, dport=67) / BODY,
}


@pytest.mark.parametrize("name", PACKETS)
def test_parser(name: str) -> None:
    """The model finds the layers where scapy put them, and the sum right where scapy made it."""
    packet = PACKETS[name]
    data = bytes(packet)
    found = parse(data)
    layer: Packet = packet[UDP] if packet.haslayer(UDP) else packet[TCP]
    start = len(data) - len(bytes(layer))
    assert ("fragment" in name) == found.fragment
    assert ("dhcp" in name) == found.dhcp
    if found.fragment:
        assert 0 == found.l4_off
        return
    assert (start, len(data)) == (found.l4_off, found.end)
    assert found.verifiable(data)
    assert found.right(data)
    assert not found.right(data[:-1] + b"\xff")


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("length", [0, 1, 2, 33, 1000])
def test_builder(version: int, length: int) -> None:
    """The frames that tests send are those that scapy would build."""
    payload = bytes(i & 0xFF for i in range(length))
    ip = V4.copy() if version == 4 else V6.copy()
    if version == 4:
        ip.flags = 0
    udp = ETHER / ip / UDP(sport=4000, dport=4001) / Raw(payload)
    assert bytes(udp) == Layers(version).udp(payload).data
    tcp = TCP(sport=4000, dport=4001, seq=1000, ack=2000, flags="PA", window=65535)
    assert bytes(ETHER / ip / tcp / Raw(payload)) == Layers(version).tcp(payload).data


@pytest.mark.parametrize("version", [4, 6])
def test_partial_is_finished_to_the_same_frame(version: int) -> None:
    """The seed in the field, summed to the end, is the frame again."""
    for frame in (Layers(version).udp(b"abc"), Layers(version).tcp(b"abcd")):
        assert frame.data == checksum.finish(frame.partial, frame.csum_start, frame.csum_offset)


def test_rfc_1071() -> None:
    """The example of RFC 1071, section 3."""
    assert 0xDDF2 == checksum.ones_sum(bytes.fromhex("0001f203f4f5f6f7"))


def test_memory_sees_each_change() -> None:
    """The canaries catch a write outside what is allowed, in memory and in the guards."""
    memory = Memory([(0, 100), (100, 50)])
    memory.freeze()
    memory.write(95, b"0123456789")
    assert [] == memory.changed([(95, 10)])
    assert 2 == len(memory.changed([(96, 8)]))
    assert b"0123456789" == memory.read(95, 10)
    memory.block[GUARD_LEN - 1] ^= 1
    assert [GUARD_LEN - 1] == memory.changed([(95, 10)])
