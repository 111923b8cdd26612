"""Drops in the log: the first at once, then at most one line a minute, and none left unsaid."""

import asyncio
from typing import Any

from structlog import get_logger
from structlog.testing import capture_logs

from vionet.daemon import drops
from vionet.daemon.drops import QUIET_S, DropLog
from vionet.engine.status import DROP_REASONS
from vionet.spec.counter import KINDS

FULL, FLOODED = "rx_ring_full", "destination_mac_locked"


class Port:
    """A port whose counters a test sets."""

    def __init__(self, **counts: int) -> None:
        self.counts = dict.fromkeys(DROP_REASONS[1:], 0) | counts

    def drops(self) -> dict[str, int]:
        """By reason, as a port has them."""
        return dict(self.counts)


class Ground:
    """Ports, a clock that a test sets, and what was said."""

    def __init__(self, **ports: Port) -> None:
        self.now = 1000.0
        self.ports = ports
        self.log = DropLog(get_logger().bind(fabric="lan"), self.ports, lambda: self.now)

    def said(self, *, after_s: float = 0) -> list[tuple[str, str, int, int]]:
        """A look, and what it said."""
        self.now += after_s
        with capture_logs() as lines:
            self.log.look()
        return summed(lines)


def summed(lines: list[Any]) -> list[tuple[str, str, int, int]]:
    """Port, reason, count and total of each line, which are all of one event."""
    assert {"frames dropped"} >= {line["event"] for line in lines}
    return [tuple(line[key] for key in ("port", "reason", "count", "total")) for line in lines]


async def test_first_at_once_then_one_a_minute() -> None:
    """A flood of an hour, looked at each second: a line at its first, then one a minute with what
    came since, the counts of which sum up to the total."""
    ground = Ground(a=Port(), b=Port())
    assert [] == ground.said()
    lines = []
    for second in range(3600):
        ground.ports["a"].counts[FULL] += 1000
        told = ground.said(after_s=1)
        lines += told
        assert bool(told) == (second % QUIET_S == 0), second
    assert ("a", FULL, 1000, 1000) == lines[0]
    assert ("a", FULL, 60_000, 61_000) == lines[1]
    assert 60 == len(lines)
    assert lines[-1][3] == sum(count for _, _, count, _ in lines)
    ground.log.close()


async def test_reasons_and_ports_do_not_silence_each_other() -> None:
    """Each has its own minute; one that comes again after a quiet one is said at once."""
    ground = Ground(a=Port(), b=Port())
    ground.ports["a"].counts[FULL] = 1
    assert [("a", FULL, 1, 1)] == ground.said()
    ground.ports["a"].counts |= {FULL: 5, FLOODED: 2}
    ground.ports["b"].counts[FULL] = 3
    assert [("a", FLOODED, 2, 2), ("b", FULL, 3, 3)] == sorted(ground.said(after_s=1))
    assert [("a", FULL, 4, 5)] == ground.said(after_s=QUIET_S)
    ground.ports["b"].counts[FULL] = 4
    assert [("b", FULL, 1, 4)] == ground.said(after_s=10 * QUIET_S)
    ground.log.close()


async def test_no_timer_unless_something_is_unsaid() -> None:
    """A look that said all leaves none behind, one that may not yet leaves one, and it goes when
    all is said."""
    ground = Ground(a=Port())
    ground.said()
    assert ground.log._timer is None
    ground.ports["a"].counts[FULL] = 1
    ground.said()
    assert ground.log._timer is None
    ground.ports["a"].counts[FULL] = 2
    assert [] == ground.said(after_s=1)
    timer = ground.log._timer
    assert timer is not None
    assert 0 < timer.when() - asyncio.get_running_loop().time() <= QUIET_S - 1
    assert [] == ground.said(after_s=1)
    assert timer is ground.log._timer, "one is enough"
    assert [("a", FULL, 1, 2)] == ground.said(after_s=QUIET_S)
    assert ground.log._timer is None
    assert timer.cancelled()


async def test_rest_is_said_in_time_though_nobody_looks(monkeypatch: Any) -> None:
    """After the last look of a worker that rests, the rest is said when its minute is over."""
    monkeypatch.setattr(drops, "QUIET_S", 0.05)
    port = Port(**{FULL: 1})
    log = DropLog(get_logger(), {"a": port})
    with capture_logs() as lines:
        log.look()
        port.counts[FULL] = 7
        log.look()
        async with asyncio.timeout(10):
            while len(lines) < 2:
                await asyncio.sleep(0.01)
    assert [("a", FULL, 1, 1), ("a", FULL, 6, 7)] == summed(lines)
    assert log._timer is None


async def test_what_is_unsaid_is_said_when_a_port_goes() -> None:
    """Also what was never looked at; a port of the same name begins anew."""
    ground = Ground(a=Port(**{FULL: 1}), b=Port())
    ground.said()
    ground.ports["a"].counts |= {FULL: 4, FLOODED: 9}
    with capture_logs() as lines:
        ground.log.end("a")
    assert [("a", FULL, 3, 4), ("a", FLOODED, 9, 9)] == sorted(summed(lines), key=lambda x: x[2])
    ground.ports["a"] = Port(**{FULL: 1})
    assert [("a", FULL, 1, 1)] == ground.said()
    ground.ports["a"].counts[FULL] = 2
    ground.ports["b"].counts[FULL] = 1
    assert [("b", FULL, 1, 1)] == ground.said(after_s=1)
    with capture_logs() as lines:
        ground.log.close()
    assert [("a", FULL, 1, 2)] == summed(lines)
    assert ground.log._timer is None


async def test_level_meaning_and_mend() -> None:
    """What is normal or was asked for is information, all else a warning; each line says what its
    reason means and which command says more."""
    ground = Ground(a=Port(**dict.fromkeys(DROP_REASONS[1:], 1)))
    with capture_logs() as lines:
        ground.log.look()
    told = {line["reason"]: line for line in lines}
    assert set(DROP_REASONS[1:]) == told.keys()
    for reason, level in {
        FULL: "warning", "csum_not_negotiated": "warning", "tap_error": "warning",
        FLOODED: "info", "no_other_port": "info", "rx_ring_stopped": "info", "isolated": "info",
    }.items():  # fmt: skip
        assert level == told[reason]["log_level"], reason
    assert {"info", "warning"} == {line["log_level"] for line in lines}
    assert set(drops._USUAL) < set(KINDS)
    assert all(line["meaning"] and "`" not in line["meaning"] for line in lines)
    assert {f"vionet explain {reason}" for reason in told} == {line["mend"] for line in lines}
    assert {"lan"} == {line["fabric"] for line in lines}
