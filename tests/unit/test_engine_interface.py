"""Interfaces in the engine: the slots of a ring, tags put back, and what leaves by one.

The interface is one end of a veth in a namespace of the test's own; the other end is looked at by a
packet socket, which shows what the kernel knows of each frame.
"""

import select
from collections.abc import Callable

import pytest

from tests.reference.frame import BROADCAST, MACS, Frame, Layers
from tests.reference.network import Network
from tests.reference.plug import FULL, GUEST_GSO, HOST_GSO, NO_OPTIONS, Options
from tests.reference.veth import EVERYTHING, NEAR, VethInterface, call, make_veth, ready
from vionet.engine.status import FabricKind
from vionet.ports import interface as interface_module
from vionet.ports import interface_port as port_module
from vionet.ports.interface import SLOTS
from vionet.spec.virtio_net import NetHeader

PAYLOAD = bytes(range(256)) * 4
TCP = Layers(dst=BROADCAST).tcp(PAYLOAD)
LARGE = Layers(dst=BROADCAST).tcp(PAYLOAD * 40)
LARGE6 = Layers(6, dst=BROADCAST).tcp(PAYLOAD * 40)
DATAGRAMS = Layers(dst=BROADCAST).udp(PAYLOAD * 10)
ALL = FULL | HOST_GSO | GUEST_GSO
KINDS = list(FabricKind)
NEEDS_CSUM = 1

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("namespace")]
Plug = Callable[..., VethInterface]


@pytest.fixture
def plug() -> Plug:
    """`plug(network)` plugs a veth's end in."""

    def make(
        network: Network,
        features: int = EVERYTHING,
        options: Options = NO_OPTIONS,
        *,
        mtu: int = 1500,
        header: bool = True,
    ) -> VethInterface:
        make_veth(mtu)
        return VethInterface(network, features, options, header=header)

    return make


def facts(found: list[tuple[NetHeader, bytes]]) -> list[tuple[NetHeader, bytes]]:
    """What a packet socket gave, without the hint hdr_len."""
    return [(header._replace(hdr_len=0), data) for header, data in found]


@pytest.mark.parametrize("kind", KINDS)
def test_w9_w10_guest_to_interface(plug: Plug, kind: FabricKind) -> None:
    """Partial sums and large frames pass, the payload uncopied from the guest's memory (W9)."""
    with Network(kind) as network:
        source, sink = network.guest(ALL, size=256), plug(network)
        large = [(f, f.gso(1000)) for f in (LARGE, LARGE6, DATAGRAMS)]
        cases = [(TCP, TCP.header), *large]
        for frame, header in cases:
            source.send(frame.partial, header, cuts=range(500, len(frame.data), 8000))
        source.send(TCP.data)
        assert 5 == network.run(source)
        wanted = [(h._replace(hdr_len=0), f.partial) for f, h in cases]
        assert [*wanted, (NetHeader(), TCP.data)] == facts(sink.taken())
        assert {} == sink.drops
        assert (4, 3) == (sink.ledger["csum_elided"], sink.ledger["gso_passed"])
        assert 0 == sink.ledger.get("payload_bytes_copied", 0)


@pytest.mark.parametrize(("features", "header"), [(EVERYTHING, False), (0, True), (0, False)])
def test_guest_to_interface_that_takes_nothing(plug: Plug, features: int, header: bool) -> None:
    """Without the header, or where a person switched it off, every frame is complete and within
    the MTU (W13, AP-09)."""
    with Network() as network:
        source, sink = network.guest(ALL, size=256), plug(network, features, header=header)
        source.send(TCP.partial, TCP.header)
        source.send(LARGE.partial, LARGE.gso(1000))
        source.send(LARGE6.partial, LARGE6.gso(1440))
        network.run(source)
        wanted = [TCP.data, *LARGE.segments(1000), *LARGE6.segments(1440)]
        assert [(NetHeader(), data) for data in wanted] == sink.taken()
        assert 1514 == max(map(len, wanted))
        assert {} == sink.drops


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("header", [True, False])
def test_w9_w10_interface_to_guest(plug: Plug, kind: FabricKind, header: bool) -> None:
    """What the kernel has not finished arrives partial, large TCP whole; one copy, one sum
    elided.  Without the kernel's header the frame's own headers tell (W9, W10)."""
    with Network(kind) as network:
        source, sink = plug(network, header=header), network.guest(ALL, size=256)
        for _ in range(80):
            sink.post(2000)
        size = 1000 if header else 1460
        cases = [(TCP.partial, TCP.header), (TCP.data, NetHeader()),
                 (LARGE.partial, LARGE.gso(size)),
                 (LARGE6.partial, LARGE6.gso(1000 if header else 1440))]  # fmt: skip
        for data, told in cases:
            source.give(data, told)
        assert 4 == source.run()
        assert 0 == source.record.readable
        found = [(r.header._replace(num_buffers=0), r.frame) for r in sink.received()]
        wanted = [TCP.header, TCP.header, LARGE.gso(size), cases[3][1]]
        assert [
            (h, f.partial) for h, f in zip(wanted, (TCP, TCP, LARGE, LARGE6), strict=True)
        ] == found
        assert {} == source.drops | sink.drops
        assert 2 == sink.ledger["gso_passed"]
        assert sum(len(data) - 128 for data, _ in cases) == sink.ledger["payload_bytes_copied"]


def test_datagrams_that_no_header_describes(plug: Plug) -> None:
    """Without the kernel's header a large UDP frame cannot be cut as its sender meant, and an
    unfinished sum of a protocol without a known field cannot be found: both are dropped by name."""
    with Network() as network:
        source, sink = plug(network, header=False), network.guest(ALL)
        sink.post(20000)
        source.give(DATAGRAMS.partial, DATAGRAMS.gso(1000))
        other = Layers(dst=BROADCAST).datagram(bytes(40), 99)
        source.give(other, NetHeader(flags=1, csum_start=34, csum_offset=2))
        assert 2 == source.run()
        assert {"frame_too_long": 1, "interface_error": 1} == source.drops
        assert [] == sink.received()


@pytest.mark.parametrize(("tpid", "tci"), [(0x8100, 0x6005), (0x88A8, 7)])
@pytest.mark.parametrize("case", [TCP, LARGE], ids=["plain", "large"])
def test_tag_is_put_back(plug: Plug, tpid: int, tci: int, case: Frame) -> None:
    """A tag that the kernel took off is in the frame again, and csum_start behind it (AP-04)."""
    with Network() as network:
        source, sink = plug(network), network.guest(ALL, size=256)
        for _ in range(40):
            sink.post(2000)
        tag = tpid.to_bytes(2, "big") + tci.to_bytes(2, "big")
        header = case.header if case is TCP else case.gso(1000)
        header = header._replace(csum_start=header.csum_start + 4)
        tagged = case.partial[:12] + tag + case.partial[12:]
        source.give(tagged, header)
        assert 1 == source.run()
        assert {} == source.drops | sink.drops
        (one,) = sink.received()
        assert tagged == one.frame
        assert (NEEDS_CSUM, 38, 16) == (
            one.header.flags, one.header.csum_start, one.header.csum_offset
        )  # fmt: skip
        assert header.gso_size == one.header.gso_size


def test_many_frames_go_round_the_ring(plug: Plug) -> None:
    """Slots are given back: more frames than the ring has, in order, each burst bounded."""
    with Network() as network:
        source, sink = plug(network), network.guest(size=256, data_len=1 << 21)
        for _ in range(3):
            frames = [Layers(dst=BROADCAST).udp(bytes([n])).data for n in range(200)]
            for data in frames:
                sink.post(100)
                source.give(data)
            assert [64, 64, 64, 8, 0] == [source.run() for _ in range(5)]
            assert [f[42:43] for f in frames] == [r.frame[42:43] for r in sink.received()]
        assert {} == source.drops | sink.drops


def test_what_the_ring_lost_is_counted(plug: Plug) -> None:
    """Where no slot is free the kernel drops, and the number is asked for."""
    with Network() as network:
        source, sink = plug(network), network.tap()
        for _ in range(SLOTS + 45):
            source.give(TCP.data[:60])
        while source.run():
            pass
        source.give(TCP.data[:60])
        source.run()
        assert {"interface_full": 45} == source.drops
        assert SLOTS + 1 == source.ledger["tx_frames"]
        assert SLOTS + 1 == sink.ledger["rx_frames"]


def test_frame_that_does_not_fit_a_slot(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame that the kernel cut off is dropped by name, and its neighbours are not."""
    for module in (interface_module, port_module):
        monkeypatch.setattr(module, "SLOT_LEN", 4096)
    monkeypatch.setattr(interface_module, "_RING_LEN", SLOTS * 4096)
    with Network() as network:
        source, sink = plug(network), network.guest(ALL, size=256)
        sink.post(20000)
        sink.post(20000)
        source.give(TCP.data)
        source.give(DATAGRAMS.partial, DATAGRAMS.gso(1000))
        source.give(TCP.data)
        assert 3 == source.run()
        assert {"interface_truncated": 1} == source.drops
        assert [TCP.partial] * 2 == [r.frame for r in sink.received()]


def test_link_goes_down_comes_up_and_goes_away(plug: Plug) -> None:
    """What cannot leave is counted; after the link is up again all passes; an interface that was
    deleted and made again is another one."""
    with Network(FabricKind.WIRE) as network:
        guest, wire = network.guest(), plug(network)

        def passes() -> None:
            guest.post(2000)
            wire.give(TCP.data)
            guest.send(TCP.data)
            network.run(guest)
            assert 1 == wire.run()
            assert [TCP.partial] == [r.frame for r in guest.received()]
            assert [(NetHeader(), TCP.data)] == wire.taken()

        def refused() -> dict[str, int]:
            guest.send(TCP.data)
            network.run(guest)
            assert 0 == wire.run()
            return wire.drops

        passes()
        call(f"ip link set {NEAR} down")
        assert {"interface_error": 1} == refused()
        call(f"ip link set {NEAR} up")
        ready()
        assert {"interface_error": 2} == refused()  # the socket says once that it was down
        passes()
        call(f"ip link delete {NEAR}")
        make_veth()
        assert {"interface_error": 3} == refused()


def test_wire_leaves_frames_in_the_ring(plug: Plug) -> None:
    """Without buffers a frame stays in its slot; with the next ones it arrives."""
    with Network(FabricKind.WIRE) as network:
        source, sink = plug(network), network.guest()
        source.give(TCP.partial, TCP.header)
        assert 0 == source.run()
        assert (1, 1) == (source.record.readable, sink.record.queues[0].starved)
        sink.post(2000)
        assert 1 == source.run()
        assert [TCP.partial] == [r.frame for r in sink.received()]
        assert {} == source.drops | sink.drops
        assert 1 == source.ledger["tx_frames"]


def test_our_own_frames_do_not_come_back(plug: Plug) -> None:
    """What leaves by the interface is not taken from it again (AP-05)."""
    with Network() as network:
        source, sink = network.guest(), plug(network)
        source.send(TCP.data)
        network.run(source)
        sink.record.readable = 1
        assert 0 == sink.run()
        assert 1 == len(sink.taken())


def test_frames_beyond_the_mtu(plug: Plug) -> None:
    """No frame beyond the interface's MTU leaves, nor one whose segments would be (AP-03): the
    port knows, and where it does not the kernel says so."""
    with Network() as network:
        source, sink = network.guest(ALL), plug(network, mtu=1000)
        source.send(TCP.partial, TCP.header)
        source.send(LARGE.partial, LARGE.gso(1000))
        network.run(source)
        sink.record.mtu = 0
        source.send(TCP.partial, TCP.header)
        network.run(source)
        assert [] == sink.taken()
        assert {"mtu_exceeded": 3} == sink.drops


def test_jumbo_frames(plug: Plug) -> None:
    """An MTU of 9000 lets frames of that size pass both ways."""
    jumbo = Layers(dst=BROADCAST).tcp(bytes(8960))
    with Network() as network:
        source, sink = network.guest(ALL), plug(network, mtu=9000)
        source.send(jumbo.partial, jumbo.header)
        network.run(source)
        assert [(jumbo.header, jumbo.partial)] == facts(sink.taken())
        source.post(9100)
        sink.give(jumbo.partial, jumbo.header)
        assert 1 == sink.run()
        assert [jumbo.partial] == [r.frame for r in source.received()]


def test_interface_that_is_full_or_down(plug: Plug) -> None:
    """A queue that does not move is full; an interface that is down is an error; both are
    counted, and it goes on."""
    with Network() as network:
        source, sink = network.guest(size=512, data_len=1 << 20), plug(network)
        call(f"tc qdisc add dev {NEAR} root tbf rate 8kbit burst 2000 limit 4000")
        for _ in range(100):
            source.send(TCP.data)
        while network.run(source):
            pass
        full = sink.drops["interface_full"]
        assert 90 < full < 100
        call(f"tc qdisc del dev {NEAR} root && ip link set {NEAR} down")
        source.send(TCP.data)
        network.run(source)
        assert {"interface_full": full, "interface_error": 1} == sink.drops
        sink.taken()
        call(f"ip link set {NEAR} up")
        for _ in range(200):  # the kernel's carrier takes its time
            source.send(TCP.data)
            network.run(source)
            if select.select([sink.kernel], [], [], 0.1)[0]:
                break
        assert [TCP.data] == [data for _, data in sink.taken()]


def test_locked_destination_is_filtered_by_the_kernel(plug: Plug) -> None:
    """After the filter only frames to the address and to groups are in the ring."""
    with Network(FabricKind.WIRE) as network:
        source, sink = plug(network), network.guest()
        source.port.filter_destination(int.from_bytes(MACS[3], "big"))
        frames = [Layers(dst=mac).udp(b"x").data for mac in (MACS[2], BROADCAST, MACS[3])]
        for data in frames:
            sink.post(200)
            source.give(data)
        assert 2 == source.run()
        assert [data[:6] for data in frames[1:]] == [r.frame[:6] for r in sink.received()]
