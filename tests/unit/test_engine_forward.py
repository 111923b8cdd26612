"""Who gets a frame: a switch's learning and flooding, a wire's patience, locks and isolation."""

import pytest

from tests.reference.frame import BROADCAST, MACS, Layers
from tests.reference.guest import Guest
from tests.reference.network import Network
from tests.reference.plug import CSUM, FULL, GUEST_CSUM, MRG_RXBUF, VERSION_1, Options
from vionet.engine.layout import FDB_PORT_MAX
from vionet.engine.status import FabricKind, Policy

PAYLOAD = bytes(range(250))
NUMBERS = [int.from_bytes(mac, "big") for mac in MACS]
COMPLETE_ONLY = FULL & ~GUEST_CSUM


def frame(src: int, dst: int | bytes = BROADCAST) -> bytes:
    """A frame between two of the known addresses."""
    to = dst if isinstance(dst, bytes) else MACS[dst]
    return Layers(src=MACS[src], dst=to).datagram(PAYLOAD, 50)


def trio(network: Network, **options: Options) -> list[Guest]:
    """Three guests with buffers."""
    guests = [network.guest(options=options.get(f"port{i}", Options())) for i in range(3)]
    for guest in guests:
        for _ in range(20):
            guest.post(1000)
    return guests


def reached(network: Network, guests: list[Guest], sender: int, data: bytes) -> list[int]:
    """Who receives one frame."""
    guests[sender].send(data)
    assert 1 == network.run(guests[sender])
    found = []
    for i, guest in enumerate(guests):
        received = guest.received()
        assert [data] * len(received) == [r.frame for r in received]
        found += [i] * len(received)
    return found


def test_learning() -> None:
    """Unknown: flooded; known: to its port alone; same port: nowhere."""
    with Network() as network:
        guests = trio(network)
        assert [1, 2] == reached(network, guests, 0, frame(0, 1))
        assert [0] == reached(network, guests, 1, frame(1, 0))
        assert [1] == reached(network, guests, 0, frame(0, 1))
        assert [] == reached(network, guests, 0, frame(2, 0))
        assert {"same_port": 1} == guests[0].drops


GROUPS = ("ffffffffffff", "01005e000001", "333300000001", "0180c2000010")


@pytest.mark.parametrize("dst", [bytes.fromhex(group) for group in GROUPS])
def test_groups_are_flooded(dst: bytes) -> None:
    """Broadcast and every multicast reach all others."""
    with Network() as network:
        guests = trio(network)
        assert [0, 2] == reached(network, guests, 1, frame(1, dst))


def test_zero_destination_is_flooded() -> None:
    """The address 0 is known to nobody."""
    with Network() as network:
        guests = trio(network)
        assert [0, 1] == reached(network, guests, 2, frame(2, bytes(6)))


def test_moved_guest_is_followed() -> None:
    """An address seen at another port is delivered there from then on."""
    with Network() as network:
        guests = trio(network)
        reached(network, guests, 0, frame(5))
        reached(network, guests, 1, frame(5))
        assert [1] == reached(network, guests, 2, frame(2, 5))
        reached(network, guests, 0, frame(5))
        assert [0] == reached(network, guests, 2, frame(2, 5))


def test_port_that_is_down_is_flooded_around() -> None:
    """Frames for a guest that has gone go to whoever has its address now."""
    with Network() as network:
        guests = trio(network)
        reached(network, guests, 0, frame(0))
        guests[0].record.up = 0
        assert [2] == reached(network, guests, 1, frame(1, 0))


def test_w14_flood_gives_each_its_own_form() -> None:
    """One frame to receivers of every kind: each in its own form, the sender's bytes unchanged
    (SG-19, W14); `Network.run` looks at every byte of the sender's memory."""
    with Network() as network:
        source = network.guest()
        features = [FULL, COMPLETE_ONLY, FULL, FULL, CSUM | VERSION_1, GUEST_CSUM | MRG_RXBUF]
        policies = [Policy.UNIFORM, Policy.UNIFORM, Policy.NATURAL, Policy.COMPLETE] * 2
        sinks = [network.guest(f, policy=p) for f, p in zip(features, policies, strict=False)]
        for sink in sinks:
            for _ in range(40):
                sink.post(100 if sink.features & MRG_RXBUF else 700)
        expected = [1, 0, 1, 0, 0, 1]
        tcp = Layers(6, dst=BROADCAST).tcp(PAYLOAD)
        tunnel = Layers(dst=BROADCAST).vxlan(Layers().udp(PAYLOAD))
        for sent in (tcp, tunnel, tcp):
            source.send(sent.partial, sent.header)
        assert 3 == network.run(source)
        for sink, flags in zip(sinks, expected, strict=True):
            first, second, third = sink.received()
            assert flags == first.header.flags == third.header.flags
            assert (tcp.partial if flags else tcp.data) == first.frame == third.frame
            natural = sink.record.accepts == 2
            assert (0 if natural else flags) == second.header.flags
            if not second.header.flags:
                assert tunnel.data == second.frame


def test_full_table_is_counted_and_floods() -> None:
    """An address that is not learnt is counted; its frames go their way."""
    with Network() as network:
        guests = trio(network)
        guests[0].record.fdb_count = FDB_PORT_MAX
        assert [1, 2] == reached(network, guests, 0, frame(0))
        assert [1, 2] == reached(network, guests, 0, frame(3))
        assert {"fdb_full": 2} == guests[0].drops
        assert [0, 2] == reached(network, guests, 1, frame(1, 0))


def test_w41_locked_port_sends_its_own_address_only() -> None:
    """A foreign source is dropped by name, whatever the header's size (W41)."""
    for features in (CSUM, CSUM | MRG_RXBUF, CSUM | VERSION_1):
        with Network() as network:
            locked = network.guest(features, options=Options(mac=NUMBERS[1], locked=True))
            sink = network.guest()
            for _ in range(3):
                sink.post(1000)
            for src in (1, 2, 1):
                locked.send(frame(src), cuts=[src])
            network.run(locked)
            assert {"source_mac_locked": 1} == locked.drops
            assert [frame(1)] * 2 == [received.frame for received in sink.received()]


def test_locked_port_receives_its_own_address_only() -> None:
    """Unicast for others is kept from it, also when flooded; groups reach it."""
    with Network() as network:
        guests = trio(network, port1=Options(mac=NUMBERS[1], locked=True))
        assert [2] == reached(network, guests, 0, frame(0, 9))
        assert {"destination_mac_locked": 1} == guests[1].drops
        assert [1] == reached(network, guests, 0, frame(0, 1))
        assert [1, 2] == reached(network, guests, 0, frame(0))


def test_locked_address_cannot_be_stolen() -> None:
    """Nobody else may use a locked port's address."""
    with Network() as network:
        guests = trio(network, port1=Options(mac=NUMBERS[1], locked=True))
        assert [] == reached(network, guests, 2, frame(1))
        assert {"source_mac_locked": 1} == guests[2].drops
        assert [1] == reached(network, guests, 0, frame(0, 1))


def test_isolated_ports() -> None:
    """They reach the others, and not one another."""
    with Network() as network:
        isolated = Options(isolated=True)
        guests = trio(network, port0=isolated, port1=isolated)
        assert [2] == reached(network, guests, 0, frame(0))
        assert {"isolated": 1} == guests[1].drops
        assert [0, 1] == reached(network, guests, 2, frame(2))
        reached(network, guests, 1, frame(1))
        assert [] == reached(network, guests, 0, frame(0, 1))


def test_mtu_of_the_receiver() -> None:
    """Nothing larger than its MTU is delivered; tags do not count (CF-09)."""
    with Network() as network:
        source = network.guest()
        sink = network.guest(options=Options(mtu=500))
        for _ in range(4):
            sink.post(2000)
        for tags in ((), ((0x8100, 1),)):
            for length in (480, 481):
                source.send(Layers(tags=tags).datagram(bytes(length), 50))
        network.run(source)
        assert [14 + 500, 18 + 500] == [len(received.frame) for received in sink.received()]
        assert {"mtu_exceeded": 2} == sink.drops


def test_wire_holds_what_does_not_fit() -> None:
    """A wire leaves frames in the sender's ring until there are buffers; none is lost or twice."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(), network.guest(FULL | 1 << 29)
        sent = [frame(0, 9) + bytes([i]) for i in range(6)]
        for data in sent:
            source.send(data)
        sink.post(1000)
        sink.post(100)
        assert 1 == network.run(source)
        assert 0 == network.run(source)
        assert sent[:1] == [received.frame for received in sink.received()]
        assert 1 == source.tx.used_idx
        assert {} == sink.drops and {} == source.drops
        assert (1, 1) == (sink.record.queues[0].starved, source.record.queues[1].held)
        for _ in range(8):
            sink.post(1000)
        assert 5 == network.run(source)
        assert sent[1:] == [received.frame for received in sink.received()]
        assert 6 == source.ledger["tx_frames"] == sink.ledger["rx_frames"]
        assert sum(map(len, sent)) == source.ledger["tx_bytes"] == sink.ledger["rx_bytes"]


def test_wire_drops_what_can_never_fit() -> None:
    """A frame larger than all buffers of the receiver's ring together does not block the wire."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(), network.guest(size=4)
        for _ in range(4):
            sink.post(100)
        source.send(Layers().datagram(bytes(1000), 50))
        source.send(frame(0)[:80])
        assert 2 == network.run(source)
        assert [frame(0)[:80]] == [received.frame for received in sink.received()]
        assert {"rx_buffer_too_small": 1} == sink.drops


def test_wire_without_other_end() -> None:
    """Nobody is there: the frame is dropped by name, the sender's buffer returned."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(), network.guest()
        sink.record.up = 0
        source.send(frame(0))
        assert 1 == network.run(source)
        assert {"no_other_port": 1} == source.drops


def test_wire_does_not_look_at_addresses() -> None:
    """Every frame crosses, whoever it is for; nothing is learnt."""
    with Network(FabricKind.WIRE) as network:
        guests = [network.guest(), network.guest()]
        for guest in guests:
            guest.post(1000)
            guest.post(1000)
        assert [1] == reached(network, guests, 0, frame(0, 0))
        assert [0] == reached(network, guests, 1, frame(0, 0))
        assert [0, 0] == [int(guest.record.fdb_count) for guest in guests]


def test_ledger() -> None:
    """What each counter counts, for one frame that is elided and one that is filled."""
    with Network() as network:
        source = network.guest()
        takes, not_takes = network.guest(), network.guest(COMPLETE_ONLY)
        for sink in (takes, not_takes):
            sink.post(1000)
        udp = Layers(dst=BROADCAST).udp(PAYLOAD)
        source.send(udp.partial, udp.header)
        network.run(source)
        length, rest = len(udp.data), len(udp.data) - 128
        assert {"tx_frames": 1, "tx_bytes": length, "calls": 1} == source.ledger
        common = {"rx_frames": 1, "rx_bytes": length, "header_bytes": 128, "calls": 1,
                  "payload_bytes_copied": rest}  # fmt: skip
        assert common | {"csum_elided": 1} == takes.ledger
        assert common | {"csum_filled": 1, "payload_bytes_summed": rest} == not_takes.ledger


@pytest.mark.parametrize("last", range(17))
def test_w66_reserved_multicast(last: int) -> None:
    """Frames for the next bridge (LACP, LLDP, STP, 802.1X, pause) pass a switch only where it was
    set so, one by one (W66); an address beyond the sixteen is a multicast like any other."""
    dst = (0x0180C2000000 + last).to_bytes(6, "big")
    with Network() as network:
        guests = trio(network)
        passes = [1, 2] if last == 16 else []
        assert passes == reached(network, guests, 0, frame(0, dst))
        network.state.reserved = 0xFFFF & ~(1 << last)
        assert passes == reached(network, guests, 0, frame(0, dst))
        assert ({} if passes else {"reserved_multicast": 2}) == guests[0].drops
        network.state.reserved = 1 << last
        assert [1, 2] == reached(network, guests, 0, frame(0, dst))
        assert [0] == reached(network, guests, 1, frame(1, 0)), "its sender is learnt all the same"


@pytest.mark.parametrize("last", [0, 1, 2, 3, 14, 16])
def test_wire_passes_reserved_multicast(last: int) -> None:
    """A wire is no bridge."""
    dst = (0x0180C2000000 + last).to_bytes(6, "big")
    with Network(FabricKind.WIRE) as network:
        ends = [network.guest(), network.guest()]
        ends[1].post(1000)
        assert [1] == reached(network, ends, 0, frame(0, dst))


@pytest.mark.parametrize("kind", list(FabricKind))
def test_link_down(kind: FabricKind) -> None:
    """With its link set down a port neither gives nor gets a frame; its ring is drained, and what
    it sends is not even learnt.  Up again, all is as before."""
    with Network(kind) as network:
        here, there = network.guest(), network.guest()
        for guest in (here, there):
            for _ in range(4):
                guest.post(1000)
        here.port.change(Options(link_up=False))
        assert [] == reached(network, [here, there], 0, frame(0))
        assert {"link_down": 1} == here.drops
        assert [0] == [used.length for used in here.tx.take_used()]
        assert [] == reached(network, [here, there], 1, frame(1, 0))
        assert ({"link_down": 2}, {}) == (here.drops, there.drops)
        here.port.change(Options())
        assert [1] == reached(network, [here, there], 0, frame(0))
        assert [0] == reached(network, [here, there], 1, frame(1, 0))


@pytest.mark.parametrize("kind", list(FabricKind))
def test_link_of_a_tap_down(kind: FabricKind) -> None:
    """A tap whose link was set down is emptied and its frames dropped; a guest whose link is down
    does not keep a wire's tap from being read."""
    with Network(kind) as network:
        guest, tap = network.guest(), network.tap()
        tap.record.link_down = 1
        tap.give(frame(0))
        assert 1 == network.run_tap(tap)
        assert {"link_down": 1} == tap.drops
        tap.record.link_down, guest.record.link_down = 0, 1
        tap.give(frame(0))
        assert 1 == network.run_tap(tap), "though no buffer was posted"
        assert {"link_down": 1} == guest.drops
