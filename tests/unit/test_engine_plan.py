"""The decision table: each cell compared with the design's, and each cell carried out.

`tests.reference.table` was typed from the document; `tests.reference.device` says what a receiver
is given.  Neither shares code with the engine.
"""

import pytest

from tests.reference import device, table
from tests.reference.frame import Frame, Layers
from tests.reference.network import Network
from tests.reference.plug import FULL, GUEST_CSUM, Options
from vionet.engine.plan import plan
from vionet.engine.status import Accepts, Action, Csum, Policy
from vionet.spec.virtio_net import NetHeader

WORDS = {
    "pass": Action.PASS,
    "pass valid": Action.PASS_VALID,
    "pass partial": Action.PASS_PARTIAL,
    "fill": Action.FILL,
    "fill inner": Action.FILL,
    "unfill": Action.UNFILL,
    "verify, then unfill": Action.VERIFY,
    "fill inner, then as unknown": Action.FILL_THEN_VERIFY,
}
CELLS = [(state, column) for state in table.TABLE for column in table.COLUMNS]
PAYLOAD = bytes(range(256)) * 3 + b"x"


@pytest.mark.parametrize(("state", "column"), CELLS)
def test_cell(state: str, column: str) -> None:
    """The engine's table says what the design's does."""
    row = Csum[state.upper().replace(" ", "_")]
    assert WORDS[table.cell(state, column)] == plan(int(row), int(Accepts[column.upper()]))


def test_table_is_whole() -> None:
    """There is no state and no egress that the design does not know."""
    assert len(CELLS) == len(Csum) * len(Accepts)


def frame_in(state: str, version: int) -> tuple[bytes, NetHeader]:
    """A frame and its header in a state."""
    layers = Layers(version)
    frame: Frame = layers.udp(PAYLOAD)
    if state == "partial":
        return frame.partial, frame.header
    if state == "inner partial":
        outer = layers.vxlan(layers.tcp(PAYLOAD))
        return outer.partial, outer.header
    if state == "none":
        return layers.datagram(PAYLOAD, 50), NetHeader()
    return frame.data, NetHeader(flags=device.DATA_VALID if state == "valid" else 0)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("state", "column"), CELLS)
def test_cell_is_carried_out(state: str, column: str, version: int) -> None:
    """What the receiver is given is what the model says, down to the byte."""
    data, header = frame_in(state, version)
    with Network() as network:
        source = network.tap()
        claim = device.judge(
            data, flags=header.flags, csum_start=header.csum_start,
            csum_offset=header.csum_offset, trusted=True,
        )  # fmt: skip
        assert isinstance(claim, device.Claim) and state == claim.state
        source.give(data, header)
        if column in ("kernel", "stream"):
            sink = network.tap(column == "kernel")
            network.run_tap(source)
            ((seen, frame),) = sink.taken()
        else:
            policy = Policy[column.upper()]
            guest = network.guest(FULL, policy=policy)
            guest.post(12, 4000)
            network.run_tap(source)
            (received,) = guest.received()
            seen, frame = received.header, received.frame
        (expected,) = device.deliver(claim, column)
        assert expected == device.Delivery(seen.flags, seen.csum_start, seen.csum_offset, frame)


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("state", table.TABLE)
def test_receiver_without_guest_csum(state: str, policy: Policy) -> None:
    """Whatever the policy, flags are 0 and the sum is complete (RX-06, RX-07)."""
    data, header = frame_in(state, 4)
    with Network() as network:
        source = network.tap()
        guest = network.guest(FULL & ~GUEST_CSUM, policy=policy)
        guest.post(12, 4000)
        source.give(data, header)
        network.run_tap(source)
        (received,) = guest.received()
        assert NetHeader(num_buffers=1) == received.header
        done = Layers().vxlan(Layers().tcp(PAYLOAD)) if state == "inner partial" else None
        complete = done.data if done else Layers().udp(PAYLOAD).data
        assert (data if state == "none" else complete) == received.frame


def test_policy_of_a_tap() -> None:
    """A tap with policy complete is given finished frames only."""
    with Network() as network:
        source = network.guest()
        sink = network.tap(True, Options(policy=Policy.COMPLETE))
        frame = Layers().tcp(PAYLOAD)
        source.send(frame.partial, frame.header)
        network.run(source)
        assert [(NetHeader(), frame.data)] == [
            (header._replace(num_buffers=0), data) for header, data in sink.taken()
        ]
