"""What is said about two ports: each decision as a second table has it, each with its rules."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.explaining import fabric, found, ids, kinds, port
from tests.reference.table import COLUMNS, TABLE, cell
from vionet.check.packet import Flow
from vionet.engine.status import DROP_REASONS, Accepts, Action, Csum
from vionet.explain import reason
from vionet.explain.outcome import decided, reasons
from vionet.explain.pair import pair
from vionet.explain.text import pair_text
from vionet.explain.twin import Twin
from vionet.spec import virtio_net as net
from vionet.spec.rules import rules
from vionet.spec.virtio_net import NetHeader

MEANS = {
    "pass": "PASS",
    "pass valid": "PASS_VALID",
    "pass partial": "PASS_PARTIAL",
    "fill": "FILL",
    "fill inner": "FILL",
    "fill inner, then as unknown": "FILL_THEN_VERIFY",
    "unfill": "UNFILL",
    "verify, then unfill": "VERIFY",
}
FLOW = Flow(b"\2\0\0\0\0\1", b"\2\0\0\0\0\2")
WHOLE = FLOW.tcp(b"whole")
NEEDS, GOOD = net.VIRTIO_NET_HDR_F_NEEDS_CSUM, net.VIRTIO_NET_HDR_F_DATA_VALID
SENT = {
    "partial": WHOLE.partial(),
    "inner partial": FLOW.vxlan(FLOW.tcp(b"inner")).partial(),
    "valid": (NetHeader(flags=GOOD), WHOLE.data),
    "unknown": (NetHeader(), WHOLE.data),
    "none": (NetHeader(), FLOW.arp()),
}


@pytest.fixture(scope="module")
def twin() -> Iterator[Twin]:
    """A kernel that sends, and a receiver for each column of the table."""
    with Twin(
        fabric(
            port("sender", "tap"),
            port("uniform"),
            port("natural", policy="natural"),
            port("complete", "guest", "GUEST_CSUM"),
            port("kernel", "tap"),
            port("stream", "stream"),
        )
    ) as made:
        yield made


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("state", TABLE)
def test_every_cell_is_explained(twin: Twin, state: str, column: str) -> None:
    """Each state to each kind of receiver: decided as the second table says, with words and ids."""
    header, data = SENT[state]
    twin.teach(column, int.from_bytes(data[:6], "big"))
    played = twin.play("sender", data, header)
    (record,) = (r for r in played.records if r.out_serial == twin.record(column).serial)
    said = decided(record)
    assert state.upper().replace(" ", "_") == said["state"]
    assert column.upper() == said["accepts"]
    assert MEANS[cell(state, column)] == said["action"]
    assert reason.CELLS[record.state, record.accepts, record.action] in reasons(
        record, twin.record(column), played.needs_gso
    )
    (received,) = played.received[column]
    flags = {"PASS_PARTIAL": NEEDS, "UNFILL": NEEDS, "VERIFY": NEEDS, "PASS_VALID": GOOD}
    if state != "inner partial":
        assert flags.get(said["action"], 0) == received[0].flags


def test_tables_are_complete() -> None:
    """Words for each cell of the second table and none else, each state, column, action, drop; and
    every rule that they cite exists."""
    cells = {
        (Csum[state.upper().replace(" ", "_")], Accepts[column.upper()], Action[MEANS[word]])
        for state, row in TABLE.items()
        for column, word in zip(COLUMNS, row, strict=True)
    }
    assert cells == reason.CELLS.keys()
    assert set(Csum) == reason.STATES.keys() == reason.STATES_WHY.keys()
    assert set(Accepts) == reason.COLUMNS.keys()
    assert set(Action) == reason.ACTIONS.keys()
    said = [
        *reason.CELLS.values(),
        *reason.STATES_WHY.values(),
        *map(reason.dropped, DROP_REASONS[1:]),
    ]
    said += [one for one in vars(reason).values() if isinstance(one, reason.Why)]
    cited = {rule for one in said for rule in one.rules if not rule.startswith("W")}
    assert set() == cited - rules().keys()
    assert "" not in {one.text for one in said}


def ways(one: dict[str, Any], other: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    """Both directions between two ports of a fabric."""
    said = pair(fabric(one, other, **more), one["name"], other["name"])
    assert all(len(line) <= 80 for line in pair_text(said).splitlines())
    directions: list[dict[str, Any]] = said["directions"]
    return directions


def test_two_guests_that_agree() -> None:
    """Partial and large frames pass as they are; finished ones are verified (policy uniform)."""
    for way in ways(port("web"), port("db")):
        for kind in kinds(way, "partial")[:4]:
            frame = found(way, "partial", kind)
            assert ("PASS_PARTIAL", None) == (frame["action"], frame["drop"])
            assert "TX-17" in ids(frame)
            large = found(way, "large", kind)
            assert (True, 0, "NEEDS_CSUM") == (
                large["whole"], large["segments"], large["received"]["flags"],
            )  # fmt: skip
            assert "VERIFY" == found(way, "finished", kind)["action"]
        dhcp = found(way, "partial", "DHCP")
        assert ("FILL", "0") == (dhcp["action"], dhcp["received"]["flags"])
        assert "SG-17" in ids(dhcp)


def test_a_guest_that_declined_everything() -> None:
    """Frames to it are finished and segmented; it sends finished ones, and none that is large."""
    declined = port("db", features=["VIRTIO_F_VERSION_1"])
    to, back = ways(port("web"), declined)
    assert ("FILL", "0") == (
        found(to, "partial")["action"], found(to, "partial")["received"]["flags"]
    )  # fmt: skip
    large = found(to, "large", "UDP over IPv6")
    assert (5, 5) == (large["segments"], large["received"]["frames"])
    assert {"RX-12", "RX-11", "SG-18", "RX-06"} <= ids(large)
    assert [] == [*kinds(back, "partial"), *kinds(back, "large")]
    assert 3 == len(back["notes"])


def test_one_kind_that_was_not_agreed() -> None:
    """The kinds of large frames are told apart: only what lacks its feature is segmented."""
    way, _ = ways(port("web"), port("db", "guest", "GUEST_USO4"))
    assert not found(way, "large", "UDP over IPv4")["whole"]
    assert any("GUEST_USO4" in why["text"] for why in found(way, "large", "UDP over IPv4")["why"])
    assert found(way, "large", "UDP over IPv6")["whole"]
    assert found(way, "large", "TCP over IPv4")["whole"]


def test_what_a_driver_switched_off_since() -> None:
    """Offloads that a driver gave up at run time are not used, and that is said (W31)."""
    since = [f for f in port("db")["features"] if "GUEST_" not in f]
    said = pair(fabric(port("web"), port("db", offloads=since)), "web", "db")
    assert "FILL" == found(said["directions"][0], "partial")["action"]
    limits = [limit["text"] for limit in said["ports"][1]["limits"]]
    assert any("acknowledged, but not in use" in text for text in limits)


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ({"isolated": True}, {"isolated": True}, "isolated"),
        ({}, {"link": "down"}, "link_down"),
        ({"link": "down"}, {}, "link_down"),
        ({"vlan": 10}, {"vlan": 20}, "no_other_port"),
        ({"mac": "52:54:00:00:00:01", "locked": True, "ip": ["192.0.2.1/32"],
          "keep_off": ["192.0.2.0/24"]},
         {"ip": ["192.0.2.2/32"], "mac": "52:54:00:00:00:02", "locked": True}, "kept_off"),
    ],
)  # fmt: skip
def test_what_keeps_two_apart(one: dict[str, Any], other: dict[str, Any], reason: str) -> None:
    """Nothing passes, and the reason is the engine's."""
    way, _ = ways(port("web", **one), port("db", **other))
    assert {reason} == {found(way, form)["drop"] for form in ("partial", "finished", "large")}
    assert [None] * 3 == [found(way, f)["received"] for f in ("partial", "finished", "large")]


def test_vlans_that_meet() -> None:
    """A trunk reaches an access port with the tag that leads there."""
    to, back = ways(port("web", trunk="10+20"), port("db", vlan=20))
    assert "PASS_PARTIAL" == found(to, "partial")["action"]
    assert 38 == found(back, "partial")["received"]["csum_start"], "a tag was put in front"


def test_packets_larger_than_the_receivers_mtu() -> None:
    """A full frame of the one's MTU is dropped at the other."""
    to, back = ways(port("web", mtu=9000), port("db", mtu=1500))
    assert "mtu_exceeded" == found(to, "full")["drop"]
    assert [] == kinds(back, "full")


def test_nobody_is_attached() -> None:
    """What would happen with all that is offered is explained, and said to be that."""
    said = pair(fabric(port("web"), port("db", state="waiting", features=[])), "web", "db")
    assert found(said["directions"][0], "large")["whole"]
    assert any("nobody is attached" in limit["text"] for limit in said["ports"][1]["limits"])


@pytest.mark.parametrize("kind", ["tap", "interface"])
def test_a_kernel(kind: str) -> None:
    """A tap and an interface take what is partial, and vouch for what came from outside."""
    to, back = ways(port("web"), port("host", kind))
    assert ("KERNEL", "PASS_PARTIAL") == (
        found(to, "partial")["accepts"], found(to, "partial")["action"]
    )  # fmt: skip
    assert "NEEDS_CSUM" == found(to, "partial")["received"]["flags"]
    assert ("VALID", "UNFILL") == (
        found(back, "vouched")["state"], found(back, "vouched")["action"]
    )  # fmt: skip
    assert found(to, "large")["whole"]
    assert found(back, "large")["whole"]


def test_a_stream_on_a_wire() -> None:
    """A stream gets finished frames of ordinary size."""
    to, back = ways(port("web"), port("peer", "stream"), kind="wire")
    assert ("FILL", 1) == (
        found(to, "partial")["action"], found(to, "partial")["received"]["frames"]
    )  # fmt: skip
    assert 5 == found(to, "large")["segments"]
    assert ["finished"] == sorted({frame["form"] for frame in back["frames"]})
