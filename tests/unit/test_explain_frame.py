"""The way of one frame: as if it was sent, and as it was recorded and played again."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from tests.explaining import fabric, port
from vionet.check.packet import BROADCAST, Flow
from vionet.engine.layout import FACT_FLOODED, FACT_SEGMENTED, FACT_WHOLE
from vionet.engine.status import DROP_REASONS, Accepts, Action
from vionet.explain.frame import as_sent, differences, life, replay
from vionet.explain.sample import samples
from vionet.explain.text import frame_text
from vionet.explain.twin import Twin, negotiated, options_of
from vionet.spec.virtio_net import NetHeader

_LARGE = ("GUEST_TSO4", "GUEST_TSO6", "GUEST_ECN", "GUEST_USO4", "GUEST_USO6")
FLOW = Flow(b"\2\0\0\0\0\1", b"\2\0\0\0\0\2")


def test_the_whole_way() -> None:
    """Header, headers, judgement, forwarding, plan and delivery of a partial frame."""
    header, data = FLOW.tcp(b"hello").partial()
    said = life(fabric(port("web"), port("db", "guest", "GUEST_CSUM")), "web", "db", data, header)
    assert ("NEEDS_CSUM", 34) == (said["header"]["flags"], said["header"]["csum_start"])
    assert ("IPv4", "TCP", 34) == tuple(said["frame"][key] for key in ("type", "l4", "l4_off"))
    assert ("PARTIAL", None) == (said["judged"]["state"], said["judged"]["drop"])
    assert "one receiver" == said["forwarded"]["how"]
    (one,) = said["deliveries"]
    assert ("db", "FILL", "0") == (one["to"], one["action"], one["received"]["flags"])
    text = frame_text(said)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert ["header", "parsed", "judged", "forwarded", "to"] == [
        line.split()[0] for line in text.splitlines()[1:] if line[:2] == "  " and line[2] != " "
    ]


@pytest.mark.parametrize(
    ("data", "header", "reason", "rule"),
    [
        (b"\2\0\0\0\0\2\3" + FLOW.tcp(b"x").data[7:], NetHeader(), "source_mac_invalid", "CF-18"),
        (FLOW.tcp(b"x").data, NetHeader(flags=1, csum_start=9000), "csum_out_of_frame", "LX-04"),
        (FLOW.tcp(b"x").data, NetHeader(gso_type=77), "gso_type_unknown", "LX-01"),
        (b"\1\x80\xc2\0\0\1" + FLOW.arp()[6:], NetHeader(), "reserved_multicast", "W66"),
    ],
)
def test_a_refusal(data: bytes, header: NetHeader, reason: str, rule: str) -> None:
    """A frame that is refused has no receiver, and its reason is told with its rules."""
    said = life(fabric(port("web"), port("db")), "web", "db", data, header)
    assert (reason, []) == (said["judged"]["drop"], said["deliveries"])
    assert any(rule in why["rules"] for why in said["judged"]["why"])
    assert reason in frame_text(said)


def test_a_flood_tells_of_each_receiver() -> None:
    """A broadcast reaches each port in its own form; one in another VLAN is not asked."""
    flow = replace(FLOW, dst_mac=BROADCAST)
    header, data = flow.udp(b"all").partial()
    ports = port("web", vlan=1), port("db", vlan=1), port("tap", "tap", vlan=1), port("x", vlan=2)
    said = life(fabric(*ports), "web", "db", data, header)
    assert ("flooded", 1) == (said["forwarded"]["how"], said["forwarded"]["vlan"])
    assert {"db": "UNIFORM", "tap": "KERNEL"} == {
        one["to"]: one["accepts"] for one in said["deliveries"]
    }


@pytest.mark.parametrize(
    ("data", "parsed"),
    [
        (FLOW.datagram(b"\x08" + bytes(63), 1), "IPv4 at 14, ICMP"),
        (replace(FLOW, version=6).datagram(b"\x80" + bytes(63), 58), "IPv6 at 14, ICMPv6"),
        (FLOW.sctp(b"x").data, "IPv4 at 14, SCTP"),
        (FLOW.datagram(bytes(64), 17, 0x2000), "IPv4 at 14, UDP, fragment"),
        (FLOW.arp(), "ARP at 14"),
    ],
)
def test_what_has_no_checksum_of_ours(data: bytes, parsed: str) -> None:
    """The protocol is named where nothing of it is summed."""
    text = frame_text(life(fabric(port("web"), port("db")), "web", "db", data, NetHeader()))
    (line,) = (line for line in text.splitlines() if line.startswith("  parsed"))
    assert f": {parsed}" == line[-len(parsed) - 2 :]


def test_a_receiver_in_another_vlan_is_not_known_there() -> None:
    """A unicast that no flood takes to the receiver does not go there to be dropped."""
    header, data = FLOW.tcp(b"x").partial()
    ports = port("web", vlan=1), port("db", vlan=2), port("other", vlan=1)
    said = life(fabric(*ports), "web", "db", data, header)
    assert ("flooded", ["other"]) == (
        said["forwarded"]["how"], [one["to"] for one in said["deliveries"]],
    )  # fmt: skip


def test_a_copy_with_the_tag_of_its_receiver() -> None:
    """A frame of a file is sent with the tag that its sender uses, its sum where it then is."""
    document = fabric(port("web", trunk="10"), port("db", vlan=10))
    header, data = FLOW.tcp(b"x").partial()
    said = life(document, "web", None, data, header, 10)
    assert (len(data) + 4, 38) == (said["frame"]["bytes"], said["header"]["csum_start"])
    assert [("db", None)] == [(one["to"], one["drop"]) for one in said["deliveries"]]
    assert "vlan_not_allowed" == life(document, "web", "db", data, header)["judged"]["drop"]


FABRICS = [
    fabric(port("web"), port("db"), port("c", "stream")),
    fabric(port("web"), port("db", "guest", "GUEST_CSUM", "GUEST_TSO4", "GUEST_TSO6")),
    fabric(port("web", vlan=10), port("db", trunk="10+20")),
    fabric(port("web", trunk="10+20"), port("db", vlan=20)),
    fabric(port("web", vlan=10), port("db"), port("c", vlan=10)),
    fabric(port("web", "tap"), port("db", policy="natural")),
    fabric(port("web", isolated=True), port("db", isolated=True), port("c")),
    fabric(port("web", mtu=9000), port("db", "stream", mtu=600)),
]


@pytest.mark.parametrize("document", FABRICS)
def test_what_was_recorded_is_decided_again(document: dict[str, Any]) -> None:
    """Every record of every kind of frame, given or sent, is played again to the same end."""
    sender, receiver = document["ports"][:2]
    records: list[Any] = []
    with Twin(document) as live:
        live.teach("db", int.from_bytes(b"\2\0\0\0\0\2", "big"))
        for sample in samples(options_of(sender), negotiated(sender), options_of(receiver)):
            records += live.play("web", sample.data, sample.header).records
        serials = {live.record(one["name"]).serial: one["serial"] for one in document["ports"]}
    assert 12 < len(records)
    for record in records[:: max(1, len(records) // 8)]:
        record.in_serial = serials[record.in_serial]
        record.out_serial = serials.get(record.out_serial, 0)
        said = replay(document, record)
        assert [] == said["differs"]
        assert "decided in the same way" in " ".join(frame_text(said).split())


def test_a_difference_would_be_told() -> None:
    """Another decision than the recorded one is a fault and named; what the moment did is not."""
    document = fabric(port("web"), port("db"))
    header, data = FLOW.tcp(b"x").partial()
    with Twin(document) as live:
        live.teach("db", int.from_bytes(data[:6], "big"))
        (record,) = live.play("web", data, header).records
    assert [] == differences(record, record)
    assert ["it was not seen"] == differences(record, None)
    record.action, record.accepts = int(Action.FILL), int(Accepts.COMPLETE)
    record.in_serial, record.out_serial = (one["serial"] for one in document["ports"])
    said = replay(document, record)
    assert [
        "accepts: COMPLETE, and UNIFORM when played again",
        "action: FILL, and PASS_PARTIAL when played again",
    ] == said["differs"]
    assert "DIFFERS" in frame_text(said)
    record.drop = DROP_REASONS.index("rx_ring_full")
    record.in_serial, record.out_serial = (one["serial"] for one in document["ports"])
    assert [] == replay(document, record)["differs"]


def test_what_the_moment_did_is_no_difference() -> None:
    """A guest whose buffers did not hold the whole then, or that took only some of the segments."""
    document = fabric(port("web"), port("db"))
    large = next(s for s in samples(*_two(document)) if s.form == "large")
    with Twin(document) as live:
        live.teach("db", int.from_bytes(large.data[:6], "big"))
        (record,) = live.play("web", large.data, large.header).records
    record.facts, record.segments = record.facts & ~FACT_WHOLE | FACT_SEGMENTED, 2
    record.in_serial, record.out_serial = (one["serial"] for one in document["ports"])
    said = replay(document, record)
    assert [] == said["differs"]
    assert any("do not hold the whole" in why["text"] for why in said["deliveries"][0]["why"])


def test_larger_buffers_than_the_usual_are_no_difference() -> None:
    """A guest got a frame that buffers of the usual size would not have held."""
    document = fabric(port("web"), port("db", "guest", "MRG_RXBUF", *_LARGE))
    with Twin(document) as live:
        data = FLOW.tcp(bytes(1600)).data
        live.teach("db", int.from_bytes(data[:6], "big"))
        (record,) = live.play("web", data, NetHeader()).records
    assert "rx_buffer_too_small" == DROP_REASONS[record.drop]
    record.drop = 0
    record.in_serial, record.out_serial = (one["serial"] for one in document["ports"])
    assert [] == replay(document, record)["differs"]


def _two(document: dict[str, Any]) -> Any:
    sender, receiver = document["ports"]
    return options_of(sender), negotiated(sender), options_of(receiver)


def test_a_port_that_is_gone() -> None:
    """A record of a port that nobody knows any more is not explained with another one."""
    with Twin(fabric(port("web"), port("db"))) as live:
        (record, *_) = live.play("web", FLOW.arp(), NetHeader()).records
    record.in_serial = 4711
    with pytest.raises(LookupError, match="gone"):
        replay(fabric(port("web"), port("db")), record)


def test_the_tag_of_the_sender() -> None:
    """What was recorded at the receiver gets its sender's tag back, and the offsets move."""
    document = fabric(port("web", trunk="20"), port("db", vlan=20))
    flow = replace(FLOW, tags=(20,))
    header, data = flow.tcp(b"tagged").partial()
    with Twin(document) as live:
        records = live.play("web", data, header).records
    (given,) = (one for one in records if one.side == 1)
    assert FACT_FLOODED in {one.facts & FACT_FLOODED for one in records}
    assert len(data) - 4 == len(given.data)
    assert (data, 38) == (
        as_sent(given, options_of(document["ports"][0]))[0],
        as_sent(given, options_of(document["ports"][0]))[1].csum_start,
    )


def test_what_a_locked_guest_asks_of_a_service() -> None:
    """A DHCP request of a guest that is locked to its address goes to the service and nobody else;
    recorded there, it is decided again in the same way."""
    locked: dict[str, Any] = {"mac": "02:00:00:00:00:01", "locked": True, "ip": ["192.0.2.1/32"]}
    service = port("service", "stream") | {"kind": "service"}
    document = fabric(port("web", **locked), port("host", "tap"), service)
    flow = Flow(FLOW.src_mac, BROADCAST, src_port=68, dst_port=67)
    with Twin(document) as live:
        request = flow.udp(bytes(300)).data
        request = request[:26] + bytes(4) + request[30:]  # from 0.0.0.0; sums are nobody's here
        said = life(document, "web", "host", request, NetHeader())
        (record,) = (r for r in live.play("web", request, NetHeader()).records if r.out_serial)
    assert ["service"] == [one["to"] for one in said["deliveries"]]
    record.in_serial, record.out_serial = document["ports"][0]["serial"], service["serial"]
    assert [] == replay(document, record)["differs"]


def test_any_bytes_are_explained() -> None:
    """Whatever a frame and its header say, there are words for what became of it."""
    dice = random.Random(8)
    documents = [*FABRICS, fabric(port("web"), port("db", "tap"), kind="wire")]
    whole = [FLOW.tcp(bytes(300)).data, FLOW.udp(bytes(300)).data, FLOW.arp()]
    for _ in range(60):
        data = bytearray(dice.choice(whole)[: dice.choice((14, 40, 60, 400))])
        for _ in range(dice.randrange(4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        header = NetHeader(
            flags=dice.choice((0, 1, 2, 5)),
            gso_type=dice.choice((0, 1, 3, 4, 5, 0x81, 77)),
            gso_size=dice.choice((0, 8, 100)),
            csum_start=dice.choice((14, 34, 9000)),
            csum_offset=dice.choice((6, 16)),
        )
        said = life(dice.choice(documents), "web", "db", bytes(data), header)
        assert max(map(len, frame_text(said).splitlines())) <= 80
        assert json.dumps(said)
