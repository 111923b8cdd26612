"""A frame leaves for a network unfinished: W13 to W21 of docs/field.md."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

from tests.reference.frame import BROADCAST, Layers
from tests.reference.network import Network
from tests.reference.plug import CSUM, FULL, GUEST_CSUM, GUEST_GSO, HOST_GSO, Options
from tests.reference.receiver import stream
from tests.reference.stream import SocketStream, StreamNetwork
from tests.reference.tap import SocketTap
from tests.stories.scene import BODY, EVERYTHING, Actor, plug, right_by_scapy, say, taken
from vionet.check.profile.guest import read
from vionet.engine.status import Policy

ALL = Layers(dst=BROADCAST)
ALL6 = Layers(6, dst=BROADCAST)
MTU = 1500
LARGE = {
    "tcp": (ALL.tcp(BODY[:9000]), 1460),
    "tcp6": (ALL6.tcp(BODY[:9000]), 1440),
    "udp": (ALL.udp(BODY[:9000]), 1472),
    "udp6": (ALL6.udp(BODY[:9000]), 1452),
}


def bare_tap(network: StreamNetwork) -> SocketTap:
    """A tap that takes neither partial sums nor large frames."""
    return network.tap(takes_partial=False)


def small_tap(network: StreamNetwork) -> SocketTap:
    """One that takes partial sums only."""
    tap = network.tap()
    tap.port.change(Options(features=CSUM | GUEST_CSUM))
    return tap


def peer(network: StreamNetwork) -> SocketStream:
    """A stream."""
    return network.stream()


def frames_of(sink: SocketTap | SocketStream) -> list[bytes]:
    """What left, finished as a kernel would do it."""
    if isinstance(sink, SocketTap):
        found = sink.taken()
        assert {0} == {header.gso_type for header, _ in found}
        return stream(found)
    return sink.taken()


@pytest.mark.parametrize("attach", [bare_tap, small_tap, peer])
@pytest.mark.parametrize("name", LARGE)
def test_w13_nothing_large_or_unfinished_leaves(
    name: str, attach: Callable[[StreamNetwork], SocketTap | SocketStream]
) -> None:
    """A large frame, and a partial one, on their way out by what cannot do either: every frame
    is complete and within the MTU."""
    frame, size = LARGE[name]
    with StreamNetwork() as network:
        source, sink = plug(network), attach(network)
        say(network, source, frame.partial, frame.gso(size))
        say(network, source, ALL.tcp(BODY[:100]).partial, ALL.tcp(BODY[:100]).header)
        left = frames_of(sink)
        assert [*frame.segments(size), ALL.tcp(BODY[:100]).data] == left
        assert MTU + 14 == max(map(len, left))
        assert all(right_by_scapy(one) for one in left)


@pytest.mark.parametrize("policy", [Policy.COMPLETE, Policy.UNIFORM])
def test_w15_a_router_that_takes_partial_for_verified(policy: Policy) -> None:
    """An old FreeBSD that forwards: it leaves the field as it came.  With `policy=complete` what
    it sends on is right; with another the next hop would find the pseudo-header sum."""
    with Network() as network:
        source, router = plug(network), Actor(network, "freebsd-old", policy)
        assert GUEST_CSUM & router.guest.features
        beyond = plug(network, FULL & ~GUEST_CSUM)
        for frame in (ALL.tcp(BODY[:900]), ALL6.udp(BODY[:901])):
            say(network, source, frame.partial, frame.header)
            taken(beyond)
            for found in taken(router.guest):
                for sent in read(router.profile, *found).forwarded:
                    say(network, router.guest, sent)
                    ((header, data),) = taken(beyond)
                    assert 0 == header.flags
                    assert (policy is Policy.COMPLETE) is (frame.data == data)


@pytest.mark.parametrize("outer_sum", [True, False])
@pytest.mark.parametrize("attach", [bare_tap, peer])
def test_w19_a_tunnel_leaves_with_both_sums(
    outer_sum: bool, attach: Callable[[StreamNetwork], SocketTap | SocketStream]
) -> None:
    """A guest's VXLAN with a partial sum inside, out by what offloads nothing: scapy finds both
    sums right, or the outer one absent as it was sent."""
    with StreamNetwork() as network:
        source, sink = plug(network), attach(network)
        frame = ALL.vxlan(Layers().tcp(BODY[:1001]), outer_sum)
        say(network, source, frame.partial, frame.header)
        (left,) = frames_of(sink)
        assert frame.data == left
        inner = bytes(Ether(left)[VXLAN].payload)
        assert inner[14:15] == b"\x45" and right_by_scapy(inner)
        assert outer_sum is (Ether(left)[UDP].chksum != 0)
        assert not outer_sum or right_by_scapy(left)
        assert {IP, TCP} <= set(Ether(inner).layers())


def test_w21_segmentation_is_no_global_switch() -> None:
    """Whatever is switched off at one port stays on at the others, large frames of each kind."""
    everything = CSUM | GUEST_CSUM | HOST_GSO | GUEST_GSO
    with Network() as network:
        source, first, second = (plug(network) for _ in range(3))
        tap = network.tap()
        tap.port.change(Options(features=everything))
        for features in (CSUM | GUEST_CSUM, 0, everything):
            first.port.change(Options(features=features))
            for frame, size in LARGE.values():
                say(network, source, frame.partial, frame.gso(size))
                cut = frame.segments(size)
                found = taken(first)
                assert (1 if features == everything else len(cut)) == len(found)
                assert cut == stream(found)
                for others in (taken(second), tap.taken()):
                    ((header, data),) = others
                    assert frame.partial == data
                    assert frame.gso(size).gso_type == header.gso_type
        assert 0 == second.ledger.get("gso_segmented", 0) == tap.ledger.get("gso_segmented", 0)
        assert EVERYTHING == first.record.features, "the driver's agreement stays as it was"


def test_w14_w21_each_port_its_own_form_of_a_tagged_flood() -> None:
    """One flooded datagram, tagged, to ports of each ability; the sender's bytes are unchanged,
    which `Network.run` looks at."""
    frame = replace(ALL, tags=((0x8100, 7),)).udp(BODY[:5000])
    with StreamNetwork() as network:
        source, whole = plug(network), plug(network)
        partial, plain = plug(network, FULL), plug(network, FULL & ~GUEST_CSUM)
        bare, peer_ = network.tap(takes_partial=False), network.stream()
        say(network, source, frame.partial, frame.gso(1000))
        cut = frame.segments(1000)
        forms = [taken(guest) for guest in (whole, partial, plain)]
        assert [1, 5, 5] == [len(found) for found in forms]
        assert [1, 1, 0] == [found[0][0].flags for found in forms]
        assert [cut] * 3 == [stream(found) for found in forms]
        assert cut == [data for _, data in bare.taken()] == peer_.taken()
