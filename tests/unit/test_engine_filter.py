"""What a driver's control queue keeps away: addresses by class and table, VLANs by tag."""

import pytest

from tests.reference.frame import BROADCAST, MACS, Layers
from tests.reference.network import Network
from tests.reference.plug import Options
from tests.reference.vlan import tagged
from vionet.engine.status import (
    FILTER_MULTICAST,
    FILTER_NO_BROADCAST,
    FILTER_NO_MULTICAST,
    FILTER_NO_UNICAST,
    FILTER_UNICAST,
    FILTER_VLAN,
    FabricKind,
)

OWN, LISTED, OTHER = MACS[1], MACS[4], MACS[5]
GROUP, OTHER_GROUP = bytes.fromhex("01005e000001"), bytes.fromhex("333300000001")
EVERYTHING = (OWN, LISTED, OTHER, GROUP, OTHER_GROUP, BROADCAST)
TABLES = FILTER_UNICAST | FILTER_MULTICAST
# (filter, the driver knows its own address) -> what it wants
WANTED = {
    (0, True): EVERYTHING,
    (TABLES, True): (OWN, LISTED, GROUP, BROADCAST),
    (TABLES, False): (OWN, LISTED, OTHER, GROUP, BROADCAST),
    (FILTER_UNICAST, True): (OWN, LISTED, GROUP, OTHER_GROUP, BROADCAST),
    (FILTER_MULTICAST, True): (OWN, LISTED, OTHER, GROUP, BROADCAST),
    (FILTER_NO_UNICAST, True): (GROUP, OTHER_GROUP, BROADCAST),
    (FILTER_NO_MULTICAST, True): (OWN, LISTED, OTHER, BROADCAST),
    (FILTER_NO_BROADCAST, True): (OWN, LISTED, OTHER, GROUP, OTHER_GROUP),
    (FILTER_NO_MULTICAST | FILTER_NO_UNICAST, True): (BROADCAST,),
}


def number(mac: bytes) -> int:
    """An address as the records have it."""
    return int.from_bytes(mac, "big")


@pytest.mark.parametrize(("wanted", "known"), WANTED)
@pytest.mark.parametrize("kind", list(FabricKind))
def test_addresses(kind: FabricKind, wanted: int, known: bool) -> None:
    """Each class of addresses is delivered or kept back as the driver asked (CV-04 to CV-08,
    CV-14); what is kept back is counted at the receiver."""
    with Network(kind) as network:
        sender, sink = network.guest(), network.guest()
        record = sink.record
        record.filter = wanted
        record.mac = number(OWN) if known else 0
        record.n_unicast = record.n_multicast = 1
        record.unicast[0] = number(LISTED)
        record.multicast[0] = number(GROUP)
        frames = [Layers(src=MACS[0], dst=dst).udp(b"x" * 50).data for dst in EVERYTHING]
        for frame in frames:
            sink.post(200)
            sender.send(frame)
        assert len(frames) == network.run(sender)
        expected = [
            frame
            for dst, frame in zip(EVERYTHING, frames, strict=True)
            if dst in WANTED[wanted, known]
        ]
        found = [one.frame[:12] for one in sink.received()]
        assert [frame[:12] for frame in expected] == found
        kept_back = len(frames) - len(expected)
        assert ({"address_filtered": kept_back} if kept_back else {}) == sink.drops
        assert {} == sender.drops


@pytest.mark.parametrize("vlan_aware", [False, True])
def test_vlans(vlan_aware: bool) -> None:
    """Tagged frames pass if their VLAN is in the table, others always (CV-17, CV-19); the tag
    that counts is the one that is delivered."""
    with Network() as network:
        sender, sink = network.guest(), network.guest()
        if vlan_aware:
            network.guest(options=Options(vlan=7))
        sink.record.filter = FILTER_VLAN
        sink.record.vlan_filter[100 >> 6] = 1 << (100 & 63)
        bare = Layers(dst=BROADCAST).datagram(b"x" * 50, 50)
        wanted = [bare, tagged(bare, 100), tagged(bare, 0xE000), tagged(bare, 5, b"\x88\xa8")]
        for frame in (*wanted, tagged(bare, 101), tagged(bare, 4095)):
            sink.post(200)
            sender.send(frame)
        assert 6 == network.run(sender)
        assert wanted == [one.frame for one in sink.received()]
        assert {"vlan_filtered": 2} == sink.drops


def test_tag_taken_off_before_the_filter() -> None:
    """An access port's frames come untagged, and no table of VLANs keeps them back."""
    with Network() as network:
        sender = network.guest(options=Options(trunk=1 << 10))
        sink = network.guest(options=Options(vlan=10))
        sink.record.filter = FILTER_VLAN
        sink.post(200)
        bare = Layers(dst=BROADCAST).datagram(b"x" * 50, 50)
        sender.send(tagged(bare, 10))
        network.run(sender)
        assert [bare] == [one.frame for one in sink.received()]
