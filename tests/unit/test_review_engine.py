"""States that outlive the frame or the session they belong to, and counters that must not grow
with retries: a held frame, an address that cannot be learnt, a ring or a port set up anew.
"""

import tempfile
from dataclasses import replace

import pytest

from tests.reference import checksum
from tests.reference.frame import BROADCAST, Layers
from tests.reference.network import Network
from tests.reference.plug import FULL, Options
from tests.unit.test_engine_worker import running
from vionet.engine.burst import from_guest
from vionet.engine.fdb import find, learn
from vionet.engine.layout import FDB_PORT_MAX
from vionet.engine.status import Accepts, FabricKind
from vionet.engine.worker import arm_all
from vionet.fabric import Fabric

TCP = Layers().tcp(bytes(range(200)))
RETRIES = 5


def test_held_frame_is_counted_once() -> None:
    """However often a wire tries, what it leaves in the ring is not counted before it goes."""
    with Network(FabricKind.WIRE) as network:
        source, sink = network.guest(), network.guest()
        wrong_seed = checksum.put(TCP.data, TCP.field, 7)
        source.send(wrong_seed + b"trailer", TCP.header)
        for _ in range(RETRIES):
            assert 0 == network.run(source)
        assert {} == source.ledger
        sink.post(2000)
        assert 1 == network.run(source)
        assert 1 == source.ledger["pseudo_header_repaired"]
        assert len(wrong_seed + b"trailer") == source.ledger["tx_bytes"]
        assert [TCP.partial] == [received.frame for received in sink.received()]


def test_flood_to_nobody_is_counted() -> None:
    """A frame for which a switch has no other port at all goes nowhere, and says so."""
    with Network() as network:
        source = network.guest()
        source.send(Layers(dst=BROADCAST).tcp(b"").data)
        source.send(TCP.data)
        network.run(source)
        assert {"no_other_port": 2} == source.drops


def test_trimmed_frame_counts_what_arrives() -> None:
    """Padding that a frame loses when it becomes partial was not delivered (SG-04)."""
    with Network() as network:
        source, sink = network.guest(), network.guest()
        frame = Layers().tcp(b"")
        source.send(frame.data + bytes(6))
        sink.post(2000)
        network.run(source)
        (received,) = sink.received()
        assert frame.partial == received.frame
        assert len(frame.partial) == sink.ledger["rx_bytes"]


def test_full_tap_elides_nothing() -> None:
    """A partial frame that a tap did not take saved nobody a checksum."""
    with Network() as network:
        source, tap = network.guest(), network.tap()
        while not tap.drops:
            source.send(TCP.partial, TCP.header)
            network.run(source)
            source.tx.take_used()
            source.next_gpa -= 12 + len(TCP.partial)
        assert tap.ledger["rx_frames"] == tap.ledger["csum_elided"]


def test_refused_address_does_not_age_a_learnt_one() -> None:
    """A port at its limit that sends from known and unknown addresses in turn keeps the known."""
    with Network() as network:
        source = network.guest()
        network.guest()
        state, work = network.state, network.work
        known, unknown = Layers(src=bytes.fromhex("020000000001")), Layers(src=bytes(5) + b"\6")
        key = 0x020000000001
        learn(state, work, key, source.index)
        source.record.last_seen_ns = work.now_ns
        source.record.fdb_count = FDB_PORT_MAX
        source.record.swept_ns = work.now_ns + state.ageing_ns
        half_second = 500_000_000
        for _ in range(8):
            for layers in (unknown, known):
                work.now_ns += half_second
                source.send(layers.tcp(b"").data)
                from_guest(state, work, source.index, 1)
                source.tx.take_used()
        entry = state.fdb[find(state, key, work.now_ns)]
        assert work.now_ns - entry.seen_ns <= 2_000_000_000


def test_ring_that_loses_its_kick_is_polled() -> None:
    """A ready ring whose kick is taken back for polling is started and polled (VU-26)."""
    with running(FabricKind.SWITCH, FULL, FULL) as (source, sink):
        for _ in range(4):
            sink.post(1000)
        sink.kick(0)
        sink.until_kicks(1)
        source.send(TCP.data)
        described = source.described(source.tx, 0)
        source.port.set_ring(1, replace(described, kick_fd=-1, polled=True))
        sink.wait()
        source.send(TCP.data)
        sink.wait()
        assert 2 == len(sink.received())


def test_next_session_begins_without_features() -> None:
    """What one front-end negotiated is not taken for the word of the next."""
    with Network() as network:
        guest = network.guest()
        assert (12, Accepts.UNIFORM) == (guest.record.header_len, guest.record.accepts)
        guest.port.closed("gone")
        record = guest.record
        assert (10, Accepts.COMPLETE) == (record.header_len, record.accepts)
        assert [0] * 4 == [record.features, record.mergeable, record.indirect,
                           record.offers_partial]  # fmt: skip


def test_kick_that_cannot_be_watched() -> None:
    """A kick descriptor that epoll refuses does not keep the session from ending."""
    fabric = Fabric()
    try:
        port = fabric.add_guest(Options())
        port.opened()
        with tempfile.TemporaryFile() as file, Network() as network:
            other = network.guest()
            ring = replace(other.described(other.tx, 0), polled=False, kick_fd=file.fileno())
            with pytest.raises(PermissionError):
                port.set_ring(1, ring)
            port.closed("its kick cannot be watched")
            assert "waiting" == port.state
    finally:
        fabric.close()


def test_no_sleep_once_asked_to_stop() -> None:
    """The wake-up may have been taken by a look that did not block: the last look sees `stop`."""
    with Network() as network:
        network.guest()
        assert 0 == arm_all(network.state, network.work)
        network.state.stop = 1
        assert 1 == arm_all(network.state, network.work)


def test_kick_ends_starvation() -> None:
    """A receiver that was short of buffers once is not asked to kick for ever after."""
    with running(FabricKind.WIRE, FULL, FULL) as (source, sink):
        sink.kick(0)
        source.kick(1)
        sink.until_kicks(1)
        source.until_kicks(1)
        source.send(TCP.data)
        source.kick(1)
        source.until_kicks(2)
        for _ in range(4):
            sink.post(1000)
        sink.kick(0)
        sink.until_kicks(2)
        sink.wait()
        with sink.fabric._workers.hold():
            assert 0 == sink.record.queues[0].starved
