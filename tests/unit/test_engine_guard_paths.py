"""Ports locked to IP addresses, and the service port: how a frame comes, and where it goes.

What is refused by itself is in `test_engine_guard`; here it is one frame that passes, one that does
not, and one that asks for an address.
"""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from tests.reference.frame import MACS, Layers
from tests.reference.guest import Guest
from tests.reference.locked import ASKS, DATA, KEPT4, LOCKED, RA, v4, v6
from tests.reference.plug import FULL, GUEST_CSUM, HOST_GSO, RING_PACKED
from tests.reference.stream import SocketStream, StreamNetwork, packed
from tests.reference.tap import SocketTap
from vionet.engine.status import FabricKind

UNLOCKED = replace(LOCKED, ip=(), keep_off=(), reach=())
GOOD, FORGED, DISCOVER = v4(DATA), v4(DATA, KEPT4), ASKS["discover"]
FINISHED = FULL & ~GUEST_CSUM
OWN = bytes([100, 64, 0, 3]), bytes([203, 0, 113, 1])
LAYERS = Layers(addresses=OWN)


def sent(network: StreamNetwork, source: Any, *frames: bytes) -> None:
    """Have a port of any kind send."""
    if isinstance(source, Guest):
        for frame in frames:
            source.send(frame)
        network.run(source)
    elif isinstance(source, SocketTap):
        for frame in frames:
            source.give(frame)
        network.run_tap(source)
    else:
        source.give(packed(*frames))
        network.run_stream(source)


def heard(guest: Guest) -> list[bytes]:
    """What a guest has received."""
    return [one.frame for one in guest.received()]


def served(network: StreamNetwork) -> SocketStream:
    """A service port."""
    service = network.stream()
    service.record.service = 1
    return service


@pytest.mark.parametrize("kind", list(FabricKind))
@pytest.mark.parametrize("make", ["guest", "tap", "stream"])
def test_every_kind_of_port(kind: FabricKind, make: str) -> None:
    """A tap and a stream are locked as a guest is, on a switch and on a wire."""
    with StreamNetwork(kind) as network:
        source = getattr(network, make)(options=LOCKED)
        sink = network.guest(FINISHED)
        for _ in range(3):
            sink.post(2000)
        sent(network, source, GOOD, FORGED, GOOD)
        assert [GOOD, GOOD] == heard(sink)
        assert {"source_ip_locked": 1} == source.drops


@pytest.mark.parametrize("features", [FULL, FULL | RING_PACKED])
def test_straight_path_is_for_others(features: int) -> None:
    """A burst that would go straight from a port locked to its MAC address goes the long way from
    one locked to IP addresses, and the forged frame in it does not slip through."""
    frames = [LAYERS.udp(bytes(100)).data] * 20
    forged = Layers(addresses=(bytes([100, 64, 0, 9]), OWN[1])).udp(bytes(100)).data
    straight = []
    for options in (UNLOCKED, LOCKED):
        with StreamNetwork() as network:
            source, sink = network.guest(features, options=options), network.guest(FINISHED)
            for _ in range(30):
                sink.post(2000)
            sent(network, sink, replace(LAYERS, src=MACS[1], dst=MACS[0]).udp(b"here").data)
            sent(network, source, *frames[:1])
            sent(network, source, *frames, forged, *frames[:5])
            straight.append(int(network.work.passed_bytes))
            found = heard(sink)
            assert (26 if options is LOCKED else 27) == len(found)
            assert (forged in found) == (options is UNLOCKED)
    assert straight[0] > 20 * len(frames[0]) and straight[1] == 0


def test_large_frames_are_judged_once() -> None:
    """A frame that is still to be cut up has the headers of all its segments."""
    with StreamNetwork() as network:
        source = network.guest(FULL | HOST_GSO, options=LOCKED)
        sink = network.guest(FINISHED, data_len=1 << 19)
        for _ in range(20):
            sink.post(2000)
        for ends in (OWN, (bytes([100, 64, 0, 9]), OWN[1])):
            frame = Layers(addresses=ends).tcp(bytes(10_000))
            source.send(frame.partial, frame.gso(1000))
        assert 2 == network.run(source)
        assert LAYERS.tcp(bytes(10_000)).segments(1000) == heard(sink)
        assert {"source_ip_locked": 1} == source.drops


def test_rules_change_in_use() -> None:
    """Other addresses hold from the next frame on; without any the port is locked as before."""
    with StreamNetwork() as network:
        source, sink = network.guest(options=LOCKED), network.guest(FINISHED)
        for _ in range(6):
            sink.post(2000)
        for ip, passes in (("100.64.0.9/32", [FORGED]), (None, [GOOD, FORGED])):
            networks = () if ip is None else (ip_network(ip),)
            source.port.change(replace(UNLOCKED, ip=networks))
            sent(network, source, GOOD, FORGED)
            assert passes == heard(sink)
        assert {"source_ip_locked": 1} == source.drops


def test_requests_reach_the_service_finished() -> None:
    """Neither a partial sum nor a large frame is left to who answers."""
    discover = Layers(addresses=(bytes(4), b"\xff" * 4)).udp(bytes(300), (68, 67))
    large = LAYERS.udp(bytes(3000), (68, 67))
    with StreamNetwork() as network:
        source, sink = network.guest(FULL | HOST_GSO, options=LOCKED), network.guest()
        tap, service = network.tap(), served(network)
        sink.post(2000)
        source.send(discover.partial, discover.header)
        source.send(large.partial, large.gso(1000))
        assert 2 == network.run(source)
        assert [discover.data, *large.segments(1000)] == service.taken()
        assert ([], [], {}) == (heard(sink), tap.taken(), source.drops)


def test_only_locked_ports_ask_the_service() -> None:
    """The requests of others are what they were: flooded, and the service does not hear them."""
    with StreamNetwork() as network:
        source, tap, service = network.guest(options=UNLOCKED), network.tap(), served(network)
        sent(network, source, DISCOVER)
        assert [DISCOVER] == [frame for _, frame in tap.taken()]
        assert [] == service.taken()


def test_service_that_does_not_read() -> None:
    """What it has no room for is dropped and counted there, and nobody else gets it either."""
    with StreamNetwork() as network:
        source, tap, service = network.guest(options=LOCKED), network.tap(), served(network)
        service.set_send_buffer(1)
        for _ in range(30):
            sent(network, source, DISCOVER, GOOD)
            source.tx.take_used()
            source.next_gpa = source.memory.ranges[1].gpa
        found = [frame for _, frame in tap.taken()]
        assert ([GOOD] * 30, {}) == (found, source.drops)
        lost = service.drops["stream_full"]
        assert (30, {"stream_full": lost}) == (lost + len(service.taken()), service.drops)
        assert lost > 0


def test_service_that_has_gone() -> None:
    """A service whose socket is closed still keeps its requests from others."""
    with StreamNetwork() as network:
        source, tap, service = network.guest(options=LOCKED), network.tap(), served(network)
        service.peer.close()
        for _ in range(3):
            sent(network, source, DISCOVER)
        assert ([], {}) == (tap.taken(), source.drops)
        assert {"stream_error", "stream_full"} >= set(service.drops) != set()


def test_what_the_service_says() -> None:
    """What it floods reaches locked ports only; it learns, is found, and hears no floods."""
    advert = v6(RA, "fe80::1", "ff02::1").replace(MACS[0], MACS[5], 1)
    reply = MACS[5] + GOOD[6:]
    with StreamNetwork() as network:
        source, other = network.guest(FINISHED, options=LOCKED), network.guest(FINISHED)
        tap, service = network.tap(), served(network)
        source.post(2000)
        other.post(2000)
        sent(network, service, advert)
        assert ([advert], [], []) == (heard(source), heard(other), tap.taken())
        sent(network, source, GOOD, reply)
        assert [reply] == service.taken()
        assert ([GOOD], [GOOD]) == (heard(other), [frame for _, frame in tap.taken()])


def test_fabric_without_its_service() -> None:
    """When the service port goes, requests are frames as others again."""
    with StreamNetwork() as network:
        source, tap, service = network.guest(options=LOCKED), network.tap(), served(network)
        sent(network, source, DISCOVER)
        service.record.service = service.record.up = 0
        sent(network, source, DISCOVER)
        assert ([DISCOVER], [DISCOVER]) == (service.taken(), [frame for _, frame in tap.taken()])
