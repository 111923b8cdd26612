"""What a control socket answers, as the page gets it."""

import json
from typing import Any

import pytest

from tests.scripted import fabric, port, talk
from vionet.web.sample import COUNT_MAX, PORTS_MAX, PROSE_LEN_MAX, StrangeError, fabrics_of


def answer(*fabrics: Any) -> bytes:
    """A control socket's."""
    return json.dumps({"version": 1, "reply": "status", "status": {"fabrics": fabrics}}).encode()


def test_counters_stay_exact() -> None:
    """A browser's numbers end at 2**53, so counters are text; everything else is as it was."""
    ledger = {"tx_frames": COUNT_MAX, "rx_bytes": 2**53 + 1}
    told = fabric(
        "s", port("a", ledger=ledger, drops={"isolated": 7}), talks=[talk("a", "b", 3, 2, 1)]
    )
    (judged,) = fabrics_of(answer(told))
    (one,) = judged["ports"]
    assert (str(COUNT_MAX), str(2**53 + 1)) == (
        one["ledger"]["tx_frames"],
        one["ledger"]["rx_bytes"],
    )
    assert {"isolated": "7"} == one["drops"]
    assert "1000000000" == judged["time_ns"]
    (pair,) = judged["talks"]
    assert {
        "from": "a",
        "to": "b",
        "frames": "3",
        "bytes": "3000",
        "elided": "2",
        "computed": "1",
    } == pair


def test_what_is_not_known_is_left_out() -> None:
    """Members of newer versions are passed over, those that older ones lack have a default."""
    told = fabric("s", port("a", novelty={"deep": []}), novelty=1)
    for key in ("talks", "workers", "time_ns"):
        del told[key]
    del told["ports"][0]["serial"]
    (judged,) = fabrics_of(answer(told))
    assert "novelty" not in judged
    assert "novelty" not in judged["ports"][0]
    assert ((), (), "0", 0) == (
        judged["talks"],
        judged["workers"],
        judged["time_ns"],
        judged["ports"][0]["serial"],
    )


def test_long_prose_is_cut() -> None:
    """A warning may be long; a name may not."""
    (judged,) = fabrics_of(answer(fabric("s", port("a", warnings=["w" * 10_000]))))
    assert ["w" * PROSE_LEN_MAX] == judged["ports"][0]["warnings"]


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\n",
        b"[" * 100_000,
        b"1" * 10_000,
        b"null",
        b'{"status": {}}',
        b'{"error": "no"}',
        b'{"status": {"fabrics": 1}}',
        answer(None),
        answer(*[fabric("s")] * 129),
        answer(fabric("n" * 129)),
        answer(fabric("s", *[port("a")] * (PORTS_MAX + 2))),
        answer(fabric("s", {"name": "a"})),
        answer(fabric("s", port("a", state=None))),
        answer(fabric("s", port("a", ledger={"tx_frames": -1}))),
        answer(fabric("s", port("a", ledger={"tx_frames": True}))),
        answer(fabric("s", port("a", ledger={"tx_frames": 1.5}))),
        answer(fabric("s", port("a", ledger={"tx_frames": COUNT_MAX + 1}))),
        answer(fabric("s", port("a", ledger={"tx_frames": "7"}))),
        answer(fabric("s", port("a", drops={str(n): 1 for n in range(129)}))),
        answer(fabric("s", talks=[{"from": "a"}])),
        answer(fabric("s", workers=[{"number": "0", "cpu_ns": 0}])),
        answer(fabric("s", port("a", ledger={"tx_frames": float("nan")}))),
    ],
)
def test_what_is_no_status_document_is_refused(line: bytes) -> None:
    """Whole, with one kind of error, whatever is wrong with it."""
    with pytest.raises(StrangeError):
        fabrics_of(line)
