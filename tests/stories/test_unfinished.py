"""A partial checksum reaches somebody who cannot finish it: W1 to W12 of docs/field.md."""

from dataclasses import replace

import pytest

from tests.reference import checksum
from tests.reference.frame import BROADCAST, MACS, Layers
from tests.reference.header import parse
from tests.reference.network import Network
from tests.reference.plug import (
    CSUM,
    FULL,
    GUEST_CSUM,
    GUEST_GSO,
    HOST_GSO,
    PLAIN,
    Options,
)
from tests.reference.receiver import stream
from tests.reference.stream import StreamNetwork, packed
from tests.stories.scene import (
    BODY,
    EVERYTHING,
    Actor,
    chopped,
    plug,
    right_by_scapy,
    say,
    taken,
)
from vionet.check.profile.guest import GUESTS, read
from vionet.engine.status import FabricKind, Policy

ALL = Layers(dst=BROADCAST)
ALL6 = Layers(6, dst=BROADCAST)
TALK = {
    "tcp": ALL.tcp(BODY[:333]),
    "tcp6": ALL6.tcp(BODY[:400], b"\1" * 12),
    "udp": ALL.udp(BODY[:1]),
    "udp6": ALL6.udp(BODY[:1001]),
    "tagged": Layers(dst=BROADCAST, tags=((0x8100, 5),)).tcp(BODY[:99]),
}


@pytest.mark.parametrize("name", GUESTS)
@pytest.mark.parametrize("kernel", [False, True])
def test_w1_w2_w3_w4_a_lease_reaches_every_guest(name: str, kernel: bool) -> None:
    """An offer of a server that leaves the sum to its device, of any length and in any number of
    descriptors, from a guest and from a kernel: every guest's raw reader finds it finished."""
    with Network() as network:
        client = Actor(network, name)
        server = network.guest()
        tap = network.tap()
        for size in (300, 548, 1023, 1400):
            for pieces in (1, 2, 7):
                offer = ALL.udp(BODY[:size], (67, 68))
                if kernel:
                    tap.give(offer.partial, offer.header)
                    assert 1 == network.run_tap(tap)
                else:
                    cuts = chopped(12 + len(offer.data), pieces)
                    server.send(offer.partial, offer.header, cuts=cuts)
                    assert 1 == network.run(server)
                    server.tx.take_used()
                ((header, data),) = taken(client.guest)
                assert (0, offer.data) == (header.flags, data)
                assert right_by_scapy(data)
        assert {} == client.guest.drops


@pytest.mark.parametrize("name", GUESTS)
def test_w1_a_partial_lease_would_be_refused(name: str) -> None:
    """The story is real: each of them throws the same offer away if it comes as it was sent."""
    lease = ALL.udp(BODY[:300], (67, 68))
    assert not read(GUESTS[name], lease.header, lease.partial).accepted


@pytest.mark.parametrize("policy", [Policy.COMPLETE, Policy.UNIFORM])
def test_w5_the_seed_shown_as_the_checksum(policy: Policy) -> None:
    """A guest that hands the field up as it is: with `policy=complete` it never finds the
    pseudo-header sum there; with any other it would."""
    with Network() as network:
        windows, source = Actor(network, "netkvm-seed", policy), network.guest()
        assert GUEST_CSUM & windows.guest.features, "negotiated, and overridden"
        for frame in TALK.values():
            for data, header in ((frame.partial, frame.header), (frame.data, PLAIN)):
                say(network, source, data, header)
                ((got, shown),) = taken(windows.guest)
                seeded = parse(shown).seed() == checksum.word(shown, frame.field)
                assert seeded is (policy is not Policy.COMPLETE)
                assert int(seeded) == got.flags


def test_w6_bytes_are_finished_where_they_are_vouched_for() -> None:
    """A kernel that vouches for what it did not finish, or did: `policy=complete` shows finished
    bytes, and no flag that would make a certificate's test look away."""
    with Network() as network:
        guest = plug(network, policy=Policy.COMPLETE)
        tap = network.tap()
        for frame in TALK.values():
            for data, flags in ((frame.partial, frame.header), (frame.data, PLAIN),
                                (frame.data, PLAIN._replace(flags=2))):  # fmt: skip
                tap.give(data, flags)
                assert 1 == network.run_tap(tap)
                assert [(PLAIN._replace(num_buffers=1), frame.data)] == taken(guest)


@pytest.mark.parametrize("kind", list(FabricKind))
@pytest.mark.parametrize("origin", ["guest", "tap", "stream"])
@pytest.mark.parametrize("policy", list(Policy))
def test_w7_a_guest_that_verifies(kind: FabricKind, origin: str, policy: Policy) -> None:
    """TCP, small and large, to a guest that takes nothing and looks at every byte: by every way
    that leads to it all of the data arrives, in segments that scapy finds right."""
    plain = FULL & ~GUEST_CSUM
    with StreamNetwork(kind) as network:
        sink = plug(network, plain, policy=policy)
        if origin == "guest":
            source = plug(network)
        elif origin == "tap":
            tap = network.tap()
            tap.port.change(Options(features=CSUM | GUEST_CSUM | HOST_GSO | GUEST_GSO))
        else:
            peer = network.stream()
        for frame, size in ((ALL.tcp(BODY[:5000]), 1448), (ALL6.tcp(BODY[:5000]), 1000),
                            (ALL.tcp(b"x"), 1448)):  # fmt: skip
            if origin == "guest":
                say(network, source, frame.partial, frame.gso(size))
            elif origin == "tap":
                tap.give(frame.partial, frame.gso(size))
                assert 1 == network.run_tap(tap)
            else:
                pieces = frame.segments(size)
                peer.give(packed(*pieces))
                assert len(pieces) == network.run_stream(peer)
            found = taken(sink)
            assert {0} == {header.flags for header, _ in found}
            assert frame.segments(size) == [data for _, data in found]
            assert all(right_by_scapy(data) for _, data in found)


def test_w8_a_choice_changes_cost_and_not_delivery() -> None:
    """Policies and offloads are switched between bursts, at the sender and at the receiver: what
    arrives is the same, and only the ledger tells a difference."""
    words = [EVERYTHING, FULL, FULL & ~(CSUM | GUEST_CSUM), EVERYTHING]
    chosen = [Options(features=f, policy=p) for f in words for p in Policy]
    sizes = {"tcp": 100, "tcp6": 100, "udp6": 400}
    with Network() as network:
        source, sink = plug(network), plug(network)
        for here in (source, sink):
            for options in chosen:
                here.port.change(options)
                for name, frame in TALK.items():
                    header = frame.gso(sizes[name]) if name in sizes else frame.header
                    say(network, source, frame.partial, header)
                    found = taken(sink)
                    meant = frame.segments(sizes[name]) if name in sizes else [frame.data]
                    assert meant == stream(found), (options, name)
        assert {} == source.drops == sink.drops
        ledger = sink.ledger
    assert 0 < ledger["gso_passed"] and 0 < ledger["gso_segmented"]
    assert 0 < ledger["csum_elided"] and 0 < ledger["csum_filled"]


@pytest.mark.parametrize("version", [4, 6])
def test_w9_w10_what_a_kernel_left_open_is_finished_for_the_next(version: int) -> None:
    """A frame that a kernel has not finished is finished towards each end that is told nothing:
    a guest without offloads, a tap without them, a stream; both families alike."""
    layers = replace(ALL, version=version)
    with StreamNetwork() as network:
        kernel = network.tap()
        guest = plug(network, FULL & ~GUEST_CSUM)
        bare, peer = network.tap(takes_partial=False), network.stream()
        for frame in (layers.tcp(BODY[:700]), layers.udp(BODY[:701])):
            kernel.give(frame.partial, frame.header)
            assert 1 == network.run_tap(kernel)
            assert [frame.data] == [data for _, data in taken(guest)]
            assert [frame.data] == [data for _, data in bare.taken()]
            assert [frame.data] == peer.taken()
            assert right_by_scapy(frame.data)


def test_w11_the_last_negotiation_counts() -> None:
    """A driver comes back with fewer features, then with more: what it gets follows what it
    agreed to this time, whatever it agreed to before."""
    frame = Layers(src=MACS[3], dst=BROADCAST).tcp(BODY[:5000])
    words = [EVERYTHING, FULL, FULL & ~GUEST_CSUM, EVERYTHING, FULL & ~(CSUM | GUEST_CSUM)]
    with Network() as network:
        source, sink = plug(network), plug(network)
        for features in words:
            sink.port.set_features(features)
            sink.features = features
            assert features == sink.record.features
            say(network, source, frame.partial, frame.gso(1000))
            found = taken(sink)
            assert frame.segments(1000) == stream(found)
            partial = bool(features & GUEST_CSUM)
            assert {int(partial)} == {header.flags for header, _ in found}
            assert (1 if features & GUEST_GSO else 5) == len(found)
        for features, partial, large in ((EVERYTHING, True, True), (FULL, True, False),
                                         (FULL & ~CSUM, False, False)):  # fmt: skip
            source.port.set_features(features)
            before = dict(source.drops)
            for header, passes in ((frame.gso(1000), large), (frame.header, partial)):
                say(network, source, frame.partial, header)
                assert passes is bool(taken(sink))
                refused = sum(source.drops.values()) - sum(before.values())
            assert (not partial) + (not large) == refused
