"""Checksums on their way through: every length, zero sums, padding, tunnels, DHCP, routing
headers, SCTP.  What arrives is compared with what a sender without offload would have sent.
"""

import pytest

from tests.reference import checksum
from tests.reference.device import NEEDS_CSUM
from tests.reference.frame import HOME_ADDRESS, Frame, Layers, options, routing
from tests.reference.guest import DATA_GPA, Guest, Received
from tests.reference.network import Network
from tests.reference.plug import FULL, GUEST_CSUM, PLAIN
from vionet.engine.checksum import fold
from vionet.engine.status import Policy
from vionet.spec.virtio_net import NetHeader

PAYLOAD = bytes((7 * i + i // 256) & 0xFF for i in range(3000))


class Line:
    """A sender and one receiver of each kind."""

    def __init__(self, network: Network, policy: Policy = Policy.UNIFORM) -> None:
        self.network = network
        self.source = network.guest()
        self.takes = network.guest(policy=policy)
        self.not_takes = network.guest(FULL & ~GUEST_CSUM)
        self.source.record.mtu = 0

    def send(self, data: bytes, header: NetHeader = PLAIN) -> tuple[Received, Received]:
        """What both receivers find."""
        for guest in self.network.guests:
            guest.next_gpa = DATA_GPA
        for sink in (self.takes, self.not_takes):
            sink.post(*([17, 33, 8000] if len(data) % 2 else [8000]))
        self.source.send(data, header)
        assert 1 == self.network.run(self.source)
        self.source.tx.take_used()
        (a,), (b,) = self.takes.received(), self.not_takes.received()
        assert NetHeader(num_buffers=1) == b.header
        return a, b

    def check(self, frame: Frame) -> None:
        """Partial stays partial and complete becomes partial; or both are complete."""
        for data, header in ((frame.partial, frame.header), (frame.data, NetHeader())):
            a, b = self.send(data, header)
            assert (frame.partial, frame.header._replace(num_buffers=1)) == (a.frame, a.header)
            assert frame.data == b.frame
        a, b = self.send(frame.bad)
        assert (frame.bad, frame.bad, 0) == (a.frame, b.frame, a.header.flags)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_w55_every_length(version: int, protocol: str) -> None:
    """Payloads of every length up to 65 bytes and some longer ones (W55)."""
    with Network() as network:
        line = Line(network)
        build = Layers(version).udp if protocol == "udp" else Layers(version).tcp
        for length in [*range(66), *range(66, 160, 7), *range(90, 110), 161, 1001, 1472, 2999]:
            line.check(build(PAYLOAD[:length]))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("length", [2, 3, 200, 201])
@pytest.mark.parametrize("protocol", ["udp", "tcp"])
def test_w52_w53_sum_of_zero(version: int, length: int, protocol: str) -> None:
    """A sum that comes out as 0 is sent as 0xffff by UDP and as 0 by TCP (SG-03, W52, W53)."""
    build = Layers(version).udp if protocol == "udp" else Layers(version).tcp
    payload = bytes(2) + PAYLOAD[: length - 2]
    value = checksum.word((first := build(payload)).data, first.field)
    frame = build(value.to_bytes(2, "big") + payload[2:])
    assert (0xFFFF if protocol == "udp" else 0) == checksum.word(frame.data, frame.field)
    with Network() as network:
        line = Line(network)
        for data, header in ((frame.partial, frame.header), (frame.data, NetHeader())):
            a, b = line.send(data, header)
            assert (frame.partial, frame.data) == (a.frame, b.frame)


def test_w54_udp_without_a_sum() -> None:
    """IPv4 UDP with 0 carries none and is left alone; IPv6 UDP with 0 is just wrong (W54)."""
    with Network() as network:
        line = Line(network)
        for version, bad in ((4, 0), (6, 1)):
            frame = Layers(version).udp(PAYLOAD[:300])
            data = checksum.put(frame.data, frame.field, 0)
            a, b = line.send(data)
            assert (data, data, 0) == (a.frame, b.frame, a.header.flags)
            assert bad == line.takes.ledger.get("csum_bad", 0)


@pytest.mark.parametrize("protocol", ["udp", "tcp"])
@pytest.mark.parametrize("length", [0, 5, 18, 400])
def test_w57_padding_is_no_payload(protocol: str, length: int) -> None:
    """Bytes behind the datagram are neither summed nor delivered where they would be (SG-04)."""
    with Network() as network:
        line = Line(network)
        layers = Layers()
        frame = (layers.udp if protocol == "udp" else layers.tcp)(PAYLOAD[:length])
        a, b = line.send(frame.partial + b"junk!", frame.header)
        assert (frame.partial, frame.data) == (a.frame, b.frame)
        a, b = line.send(frame.data + b"junk!")
        assert frame.data + b"junk!" == b.frame
        if a.header.flags:
            assert frame.partial == a.frame
        else:
            assert frame.data + b"junk!" == a.frame


def test_w63_wrong_seed_is_repaired() -> None:
    """The pseudo-header sum is ours: a guest's wrong one is replaced and counted (W63, SG-07)."""
    with Network() as network:
        line = Line(network)
        frame = Layers(6).tcp(PAYLOAD[:700])
        for seed in (0, 0xFFFF, frame.seed ^ 0x100):
            a, b = line.send(checksum.put(frame.data, frame.field, seed), frame.header)
            assert (frame.partial, frame.data) == (a.frame, b.frame)
        assert 3 == line.source.ledger["pseudo_header_repaired"]
        line.send(frame.partial, frame.header)
        assert 3 == line.source.ledger["pseudo_header_repaired"]


@pytest.mark.parametrize("policy", [Policy.UNIFORM, Policy.NATURAL])
@pytest.mark.parametrize("outer_sum", [True, False])
@pytest.mark.parametrize("versions", [(4, 4), (4, 6), (6, 4)])
def test_w59_w60_tunnel_built_by_the_guest(
    policy: Policy, outer_sum: bool, versions: tuple[int, int]
) -> None:
    """An inner partial sum is finished; the outer one is right, or absent (SG-16, W59, W60)."""
    with Network() as network:
        line = Line(network, policy)
        outer = Layers(versions[0])
        for length in (0, 1, 60, 61, 1300, 1301):
            frame = outer.vxlan(Layers(versions[1]).udp(PAYLOAD[:length]), outer_sum)
            a, b = line.send(frame.partial, frame.header)
            assert frame.data == b.frame
            absent = not outer_sum
            if policy is Policy.NATURAL or absent:
                assert (frame.data, 0) == (a.frame, a.header.flags)
            else:
                assert NEEDS_CSUM == a.header.flags
                start, offset = a.header.csum_start, a.header.csum_offset
                assert (outer.udp(b"").csum_start, 6) == (start, offset)
                assert frame.data == checksum.finish(a.frame, start, offset)


def test_tunnel_with_a_trailer() -> None:
    """Bytes behind a tunnel's datagram are inside the inner sum, as the header asks (SG-02)."""
    with Network() as network:
        line = Line(network)
        frame = Layers().vxlan(Layers().tcp(PAYLOAD[:500]))
        data = frame.partial + b"trailer"
        done = checksum.finish(data, frame.csum_start, frame.csum_offset)
        a, b = line.send(data, frame.header)
        assert (done, done, 0) == (a.frame, b.frame, a.header.flags)


def test_wrong_outer_sum_of_a_tunnel() -> None:
    """The inner sum is finished all the same, and the frame passes as it is."""
    with Network() as network:
        line = Line(network)
        frame = Layers().vxlan(Layers().tcp(PAYLOAD[:500]))
        spoilt = checksum.put(frame.partial, 40, checksum.word(frame.partial, 40) ^ 0x0101)
        a, b = line.send(spoilt, frame.header)
        expected = checksum.put(frame.data, 40, checksum.word(spoilt, 40))
        assert (expected, expected, 0) == (a.frame, b.frame, a.header.flags)
        assert 1 == line.takes.ledger["csum_bad"]


@pytest.mark.parametrize("ports", [(67, 68), (68, 67), (546, 547), (547, 546), (1000, 67)])
@pytest.mark.parametrize("policy", [Policy.UNIFORM, Policy.NATURAL])
def test_w1_w2_w3_w4_dhcp_is_complete(ports: tuple[int, int], policy: Policy) -> None:
    """Raw readers see a finished checksum and flags 0 (SG-17, W1 to W4)."""
    with Network() as network:
        line = Line(network, policy)
        for version in (4, 6):
            for length in (240, 301, 1400):
                frame = Layers(version).udp(PAYLOAD[:length], ports)
                for data, header in ((frame.partial, frame.header), (frame.data, NetHeader())):
                    a, b = line.send(data, header)
                    assert (frame.data, frame.data, 0) == (a.frame, b.frame, a.header.flags)


@pytest.mark.parametrize(
    "extension", [(43, routing(1)), (43, routing(2, 3)), (60, options(HOME_ADDRESS))]
)
def test_w49_pseudo_header_that_is_not_ours(extension: tuple[int, bytes]) -> None:
    """Under a routing header with segments left, or a home address, the guest's seed stands, and
    a complete sum is never unfilled (W49)."""
    with Network() as network:
        line = Line(network)
        frame = Layers(6, extensions=(extension,)).tcp(PAYLOAD[:500])
        seed = frame.seed ^ 0x1234  # of the last destination, which is not in the header
        data = checksum.put(frame.data, frame.field, seed)
        a, b = line.send(data, frame.header)
        assert (data, NEEDS_CSUM) == (a.frame, a.header.flags)
        assert checksum.finish(data, frame.csum_start, frame.csum_offset) == b.frame
        assert "pseudo_header_repaired" not in line.source.ledger
        a, b = line.send(frame.data)
        assert (frame.data, frame.data, 0) == (a.frame, b.frame, a.header.flags)


@pytest.mark.parametrize("version", [4, 6])
def test_w48_w58_w64_untouched(version: int) -> None:
    """SCTP, fragments, ICMP errors and unknown protocols pass as they are (W48, W58, W64)."""
    with Network() as network:
        line = Line(network)
        layers = Layers(version)
        inner = layers.udp(PAYLOAD[:40]).bad[14:]
        cases = [layers.datagram(PAYLOAD[:200], protocol) for protocol in (132, 1, 58, 47, 253)]
        cases += [layers.datagram(b"\3\0\0\0\0\0\0\0" + inner, 1)]
        cases += [layers.ethernet(PAYLOAD[:200], 0x88CC), layers.ethernet(b"", 0x0800)]
        if version == 4:
            cases += [Layers(fragment=f).udp(PAYLOAD[:99]).bad for f in (0x2000, 0x2001, 1)]
        for data in cases:
            a, b = line.send(data)
            assert (data, data, 0) == (a.frame, b.frame, a.header.flags)


def test_other_sums_run_to_the_end_of_the_frame() -> None:
    """A marked sum that is not the outermost TCP's or UDP's covers all from its start (SG-02)."""
    with Network() as network:
        line = Line(network)
        base = Layers().datagram(PAYLOAD[:301], 1)  # ICMP, as a stack might offload it
        for start, offset in ((34, 2), (34, 16), (35, 2), (130, 0), (129, 5), (200, 133)):
            header = NetHeader(flags=1, csum_start=start, csum_offset=offset)
            done = checksum.finish(base, start, offset)
            a, b = line.send(base, header)
            assert (done, done, 0) == (a.frame, b.frame, a.header.flags)


def summed(guest: Guest) -> tuple[int, int]:
    """Bytes copied and summed so far."""
    return guest.ledger.get("payload_bytes_copied", 0), guest.ledger.get("payload_bytes_summed", 0)


def test_natural_sums_nothing() -> None:
    """Neither partial nor unknown frames are summed for a receiver with policy natural."""
    with Network() as network:
        line = Line(network, Policy.NATURAL)
        frame = Layers().tcp(PAYLOAD[:1400])
        line.send(frame.partial, frame.header)
        a, _ = line.send(frame.data)
        assert (frame.data, 0) == (a.frame, a.header.flags)
        assert (2 * (len(frame.data) - 128), 0) == summed(line.takes)


@pytest.mark.parametrize("total", [0, 1, 0xFFFF, 0x10000, 0x1FFFF, 0xFFFF0000FFFF, (1 << 46) - 1])
def test_fold(total: int) -> None:
    """Folding keeps the value modulo 0xffff, and 0 only for 0."""
    assert total % 0xFFFF == fold(total) % 0xFFFF
    assert (total == 0) == (fold(total) == 0)
    assert 0 <= fold(total) <= 0xFFFF
