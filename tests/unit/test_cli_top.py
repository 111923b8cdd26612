"""`vionet top`: its figures, its view, and the command in pipes."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.unit.test_cli import answering
from vionet.cli import main
from vionet.cli.rate import COLUMNS, WORDS, Rates, Row
from vionet.cli.view import View, picture
from vionet.daemon import place
from vionet.engine.status import LEDGER_KEYS

SECOND = 10**9


def port(name: str, serial: int = 1, drops: Mapping[str, int] = {}, **ledger: int) -> Any:
    """A port as it comes in a sample."""
    counts = dict.fromkeys(LEDGER_KEYS, 0) | ledger
    texts = {key: str(count) for key, count in counts.items()}
    lost = {key: str(count) for key, count in drops.items()}
    what = {"name": name, "kind": "guest", "state": "attached", "serial": serial}
    return {**what, "ledger": texts, "drops": lost}


def fabric(seconds: float, *ports: Any, cpu_s: float = 0.0, name: str = "lan") -> Any:
    """A fabric as it comes in a sample."""
    worker = {"number": 0, "cpu_ns": str(int(cpu_s * SECOND))}
    what = {"socket": "/s", "name": name, "kind": "switch", "workers": [worker]}
    return {**what, "time_ns": str(int(seconds * SECOND)), "ports": list(ports)}


def figures(row: Row) -> dict[str, float]:
    """Those that are not 0."""
    return {word: value for word, value in row.figures.items() if value}


def test_rates_are_differences_over_time() -> None:
    """Each figure is what was counted in between, over vionet's own clock; so is a worker's load;
    reasons come with their totals, those of now first."""
    rates = Rates()
    before = port("a", tx_frames=10, rx_bytes=100, drops={"isolated": 9})
    (head,), (row,) = rates.update([fabric(100, before, cpu_s=3)])
    assert ([None], {}) == (list(head.loads), row.figures)
    assert [("isolated", 9, 0)] == list(row.reasons)
    drops = {"isolated": 9, "rx_ring_full": 4}
    now = port("a", tx_frames=15, rx_bytes=5100, csum_elided=2, drops=drops)
    (head,), (row,) = rates.update([fabric(102, now, cpu_s=4)])
    assert [0.5] == list(head.loads)
    assert {"tx": 2.5, "rx-bytes": 2500, "elided": 1, "dropped": 2} == figures(row)
    assert [("rx_ring_full", 4, 2), ("isolated", 9, 0)] == list(row.reasons)


def test_every_column_is_a_ledger_key() -> None:
    """What is shown is in the ledger; short headings fit their columns."""
    assert {column.key for column in COLUMNS} - {""} <= set(LEDGER_KEYS)
    assert all(len(column.short) <= 4 for column in COLUMNS)
    assert sorted(column.rank for column in COLUMNS) == list(range(len(COLUMNS)))


@pytest.mark.parametrize(
    "now",
    [
        fabric(102, port("a", serial=2, tx_frames=50)),  # another port of that name
        fabric(102, port("a", tx_frames=9)),  # a counter went back
        fabric(102, port("a", tx_frames=50, drops={"isolated": 1})),
        fabric(102, port("a", tx_frames=50), cpu_s=0.5),  # a worker's clock did
        fabric(99, port("a", tx_frames=50), cpu_s=2),  # the host was started again
        fabric(102, port("b", tx_frames=50)),  # there was none
    ],
)
def test_nothing_is_compared_across_a_restart(now: Any) -> None:
    """Such a port has no figures, and has them again in the next sample."""
    rates = Rates()
    rates.update([fabric(100, port("a", tx_frames=10, drops={"isolated": 3}), cpu_s=1)])
    _, (row,) = rates.update([now])
    assert {} == row.figures
    assert all(not rate for _, _, rate in row.reasons)
    later = json.loads(json.dumps(now))
    later["time_ns"] = str(int(now["time_ns"]) + 2 * SECOND)
    later["ports"][0]["ledger"]["tx_frames"] = str(60)
    later["workers"][0]["cpu_ns"] = str(10 * SECOND)
    _, (row,) = rates.update([later])
    assert {"tx": (60 - int(now["ports"][0]["ledger"]["tx_frames"])) / 2} == figures(row)


def test_totals() -> None:
    """What was counted since the start, at the first sample."""
    _, (row,) = Rates(totals=True).update(
        [fabric(1, port("a", tx_frames=10, drops={"isolated": 3}))]
    )
    assert {"tx": 10, "dropped": 3} == figures(row)
    assert [("isolated", 3, 0)] == list(row.reasons)


def many(count: int, name: str = "port") -> tuple[Any, list[Row]]:
    """That many ports, each with other figures, every third with drops."""
    ports = [
        port(
            f"{name}{index}", index + 1, {"rx_ring_full": index} if index % 3 == 0 else {},
            **dict.fromkeys(LEDGER_KEYS, 123_456 * index),
        )
        for index in range(count)
    ]  # fmt: skip
    return Rates(totals=True).update([fabric(1, *ports)])


@pytest.mark.parametrize("name", ["p", "a-name-of-quite-some-length.", "漢字"])
@pytest.mark.parametrize("height", [None, 4, 24])
def test_lines_fit_every_width(name: str, height: int | None) -> None:
    """No line is wider than the terminal, nor are there more than it has; the first column is
    always there, and a column goes only when all that tell less have gone."""
    heads, rows = many(30, name)
    ranks = {column.short: column.rank for column in COLUMNS}
    for width in range(10, 150, 7):
        text = picture(View(), heads, rows, ["s: does not answer"], width, height)
        lines = text.split("\n")
        assert all(line.cell_len <= width for line in lines)
        assert height is None or len(lines) <= height
        head = next(line.plain.split() for line in lines if line.plain.startswith("port "))
        if head[1:] and set(head[1:]) <= ranks.keys():
            shown = {ranks[word] for word in head[1:]}
            assert set(range(len(shown))) == shown


def test_80_columns_have_everything() -> None:
    """Frames, bytes, checksums, copies, segments, drops and wake-ups; wider ones have the words."""
    heads, rows = many(3)
    short = picture(View(), heads, rows, [], 80, 24).plain.splitlines()[1]
    assert ["port", *(column.short for column in COLUMNS)] == short.split()
    assert list(WORDS) == picture(View(), heads, rows, [], 120, 24).plain.splitlines()[1].split()


def test_too_many_ports_are_counted() -> None:
    """A screen that is too small says how many are not on it; the keys stay at its end."""
    lines = picture(View(), *many(30), [], 80, 12).plain.splitlines()
    assert 12 == len(lines)
    assert lines[-1].startswith("s sort: port")
    shown = [line for line in lines if re.match(r"port\d+ +\S+ +\S+ +\S+ ", line)]
    (more,) = [line for line in lines if line.endswith("more ports")]
    assert f"and {30 - len(shown)} more ports" == more


def order(view: View, rows: list[Row]) -> list[str]:
    """The ports in the order in which they are shown."""
    lines = picture(view, [], rows, [], 80, None).plain.splitlines()
    return [
        line.split()[0] for line in lines if re.match(r"[abc] ", line) and "dropped" not in line
    ]


def test_keys() -> None:
    """s and S go through the columns, r turns the order, / filters while it is typed, Escape shows
    all again, q ends; arrows are nothing."""
    ports = (port("a", tx_frames=1, rx_frames=9), port("b", tx_frames=3), port("c", tx_frames=2))
    _, rows = Rates(totals=True).update([fabric(1, *ports)])
    view = View()
    for keys, shown in (
        ("", "abc"), ("r", "cba"), ("r", "abc"), ("s", "bca"), ("r", "acb"), ("r", "bca"),
        ("s", "abc"), ("S", "bca"), ("/b", "b"), ("\x7f", "bca"), ("c", "c"), ("q", ""),
        ("\x7f\r", "c"), ("r", "c"), ("\x1b", "acb"), ("\x1b[A", "acb"), ("x\0", "acb"),
        ("/kind=guest state=attached port=a\r", "a"), ("\x1b/kind=tap\r", ""),
    ):  # fmt: skip
        assert not (keys and view.press(keys)), keys
        assert list(shown) == order(view, rows), keys
    assert view.press("q")


def test_names_do_not_control_the_terminal() -> None:
    """Whatever a port, a fabric or a reason is called, it is shown, and is neither obeyed nor
    taken for markup."""
    evil = "\x1b[2J[red]\u202e\r\n"
    ports = [port(evil, drops={evil: 1})]
    heads, rows = Rates(totals=True).update([fabric(1, *ports, name=evil)])
    text = picture(View(filter="[red]"), heads, rows, [], 80, None).plain
    assert 5 == len(text.splitlines())
    assert 4 == text.count("?[2J[red]???")
    assert text.replace("\n", "").isprintable()


@contextmanager
def hanging() -> Iterator[None]:
    """A control socket at which nobody answers."""
    _, listener = place.listen_as("hung", exact=True)
    try:
        yield
    finally:
        listener.close()


@pytest.fixture
def vionet(run_dir: Path) -> Callable[..., Result]:
    """Run a command line in this process."""
    return lambda *arguments: CliRunner().invoke(main, list(arguments), prog_name="vionet")


def test_once_in_a_pipe(vionet: Callable[..., Result]) -> None:
    """One table, plain, of at most 80 columns: what was counted, or the rates of two looks."""
    _, listener = place.listen_as("lan", exact=True)
    with answering(listener):
        result = vionet("top", "--once", "--interval", "0")
        assert (0, "") == (result.exit_code, result.stderr)
        lines = result.stdout.splitlines()
        assert "switch lan, ports 3, worker load - -" == lines[0]
        assert ["a", *["123M"] * 10, "7", *["123M"] * 2] == lines[2].split()
        assert "a dropped: rx_ring_full 7" in lines
        assert all(len(line) <= 80 and line.isprintable() for line in lines)
        result = vionet("top", "--once", "--interval", "0.1", "--filter", "state=waiting")
        assert ["only-lan", *"-------------"] == result.stdout.splitlines()[2].split()
        result = vionet("top", "--once", "--interval", "0", "--fabric", "dmz")
        assert (0, True) == (result.exit_code, result.stdout.startswith("dmz does not run in /"))


def test_mistakes(vionet: Callable[..., Result], run_dir: Path) -> None:
    """Each is a line that says what to do; nothing running is none."""
    for arguments, status, says in (
        (("--interval", "0"), 2, "--interval 0: use 0.1 or more, or with --once 0"),
        (("--interval", "nan"), 2, "--interval nan: use 0.1"),
        (("--sort", "load"), 2, "is not one of 'port', 'tx'"),
        (("--control", str(run_dir / "c")), 1, "nobody answers; is vionet running"),
    ):
        result = vionet("top", *arguments)
        assert (status, 1) == (result.exit_code, result.stderr.count("\n")), arguments
        assert says in result.stderr
    result = vionet("top", "--once")
    assert (0, f"nothing runs in {run_dir}/vionet\n") == (
        result.exit_code,
        "".join(result.stdout.splitlines(keepends=True)[:1]),
    )


def test_no_answer_fails_once(vionet: Callable[..., Result]) -> None:
    """Who hangs is a line, and status 1; the others are shown."""
    _, listener = place.listen_as("lan", exact=True)
    with answering(listener), hanging():
        result = vionet("top", "--once", "--interval", "0")
    assert 1 == result.exit_code
    assert "hung.control: does not answer; is that vionet?" in result.stdout
    assert "\nonly-lan" in result.stdout
