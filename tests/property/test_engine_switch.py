"""Any ports on a switch: VLANs, isolation, links, filters and several queues at once.

Each frame arrives where a plain model of the switch says, in the form that the port is to see,
and nowhere else; whoever does not get it has a reason counted, or is not in its VLAN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.property import strategies as some
from tests.reference import checksum
from tests.reference.frame import BROADCAST, MACS, Layers
from tests.reference.guest import Guest, Received
from tests.reference.network import Network
from tests.reference.pairs import MultiGuest
from tests.reference.plug import FULL, GUEST_CSUM, Options
from tests.reference.vlan import Inside, Membership, tagged
from vionet.engine.status import FILTER_MULTICAST, FILTER_UNICAST, FILTER_VLAN

Draw = Callable[[st.SearchStrategy[Any]], Any]
VIDS = (1, 63, 64, 4094)
PORTS = 4
RESERVED = bytes.fromhex("0180c2000002")
GROUPS = (BROADCAST, bytes.fromhex("01005e000001"), RESERVED)

memberships = st.one_of(
    st.builds(Membership),
    st.builds(Membership, st.sampled_from(VIDS)),
    st.builds(
        Membership, st.sampled_from((0, *VIDS)), st.frozensets(st.sampled_from(VIDS), max_size=4)
    ),
)


@dataclass(frozen=True, slots=True)
class Traits:
    """What the model knows of a port."""

    membership: Membership
    isolated: bool
    link_up: bool
    filter: int
    vids: frozenset[int]
    features: int
    pairs: int


traits = st.builds(
    Traits,
    memberships,
    st.booleans(),
    st.integers(0, 5).map(bool),
    st.sampled_from([0, 0, FILTER_UNICAST, FILTER_MULTICAST, FILTER_VLAN, 7]),
    st.frozensets(st.sampled_from(VIDS)),
    st.sampled_from([FULL, FULL & ~GUEST_CSUM]),
    st.sampled_from([1, 1, 2, 3]),
)


class Switch:
    """The model: who has which address, and what each port is given."""

    def __init__(self, ports: list[Traits], passing: bool) -> None:
        self.ports = ports
        self.passing = passing
        self.aware = any(p.membership != Membership() for p in ports)
        self.table: dict[tuple[int, bytes], int] = {}

    def send(self, source: int, frame: bytes) -> dict[int, bytes]:
        """The frame that each receiver gets."""
        port = self.ports[source]
        inside: Inside | None = Inside(0, 0, frame, frame)
        if self.aware:
            inside = port.membership.enter(frame)
        if not port.link_up or inside is None:
            return {}
        self.table[inside.vid, frame[6:12]] = source
        dst = frame[:6]
        outs = [out for out in range(len(self.ports)) if out != source]
        if dst[0] & 1:
            if dst == RESERVED and not self.passing:
                return {}
        elif (inside.vid, dst) in self.table:
            known = self.table[inside.vid, dst]
            outs = [known] if known != source else []
        found = {}
        for out in outs:
            form = self._form(source, out, inside)
            if form is not None:
                found[out] = form
        return found

    def _form(self, source: int, out: int, inside: Inside) -> bytes | None:
        port = self.ports[out]
        form = port.membership.leave(inside) if self.aware else inside.came
        if form is None or not port.link_up or (port.isolated and self.ports[source].isolated):
            return None
        if port.filter & FILTER_VLAN and form[12:14] == b"\x81\x00":
            vid = int.from_bytes(form[14:16], "big") & 0xFFF
            if vid and vid not in port.vids:
                return None
        dst = form[:6]
        if port.filter & FILTER_UNICAST and not dst[0] & 1 and dst != MACS[out]:
            return None
        if port.filter & FILTER_MULTICAST and dst[0] & 1 and dst != BROADCAST:
            return None
        return form


def plug_in(network: Network, port: Traits) -> Guest:
    """The real port with these traits."""
    member = port.membership
    options = Options(
        vlan=member.vlan or None, trunk=member.mask, isolated=port.isolated, link_up=port.link_up
    )
    index = network._next_index()
    guest = MultiGuest(network, index, port.pairs, port.features, options)
    network.guests.append(guest)
    guest.record.filter = port.filter
    guest.record.mac = int.from_bytes(MACS[index], "big")
    for vid in port.vids:
        bit = 1 << (vid & 63)
        guest.record.vlan_filter[vid >> 6] |= bit - (bit >> 63 << 64)  # bit 63 is the sign
    guest.post_all(600, 16)
    return guest


def finished(received: Received) -> bytes:
    """As its header says."""
    header = received.header
    if not header.flags & 1:
        return received.frame
    return checksum.finish(received.frame, header.csum_start, header.csum_offset)


@some.examples(compiled=150, interpreted=40)
@given(st.data())
def test_any_switch(data: st.DataObject) -> None:
    """Random ports, random frames: who gets what, whole and finished, and each flow on one ring."""
    draw: Draw = data.draw
    ports = draw(st.lists(traits, min_size=2, max_size=PORTS))
    passing = draw(st.booleans())
    model = Switch(ports, passing)
    with Network() as network:
        network.state.reserved = passing << 2
        guests = [plug_in(network, port) for port in ports]
        for _ in range(draw(st.integers(1, 8))):
            source = draw(st.integers(0, len(ports) - 1))
            dst = draw(st.sampled_from((*MACS[: len(ports)], *GROUPS)))
            layers = Layers(draw(st.sampled_from([4, 6])), src=MACS[source], dst=dst)
            frame = layers.tcp(draw(st.binary(max_size=200)))
            plain = frame.data
            shift = 0
            for vid in draw(st.lists(st.sampled_from((0, *VIDS, 77)), max_size=2)):
                kind = draw(st.sampled_from([b"\x81\x00", b"\x81\x00", b"\x88\xa8"]))
                plain = tagged(plain, draw(st.integers(0, 15)) << 12 | vid, kind)
                shift += 4
            partial = checksum.put(plain, frame.field + shift, frame.seed)
            header = frame.header._replace(csum_start=frame.csum_start + shift)
            pair = draw(st.integers(0, ports[source].pairs - 1))
            sender = guests[source]
            assert isinstance(sender, MultiGuest)
            with sender.on(pair):
                sender.send(partial, header)
            assert 1 == network.run(sender, 2 * pair + 1)
            expected = model.send(source, plain)
            for out, guest in enumerate(guests):
                assert isinstance(guest, MultiGuest)
                found = [finished(one) for came in guest.received_on() for one in came]
                assert ([expected[out]] if out in expected else []) == found
            if not expected:
                assert any(guest.drops for guest in guests), "nobody says why"
