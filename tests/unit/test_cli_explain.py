"""`vionet explain` as far as it needs no engine: counters, and what is asked wrongly."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.unit.test_cli import answering
from vionet.cli import main
from vionet.daemon import place
from vionet.engine.status import DROP_REASONS, LEDGER_KEYS
from vionet.spec.counter import counters


@pytest.fixture
def explain(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command, in a runtime folder of this test."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(run_dir))
    return lambda *words: CliRunner().invoke(main, ["explain", *words], prog_name="vionet")


@pytest.mark.parametrize("name", [*LEDGER_KEYS, *DROP_REASONS[1:]])
def test_every_counter_is_explained(explain: Callable[..., Result], name: str) -> None:
    """Where it is counted, what it means, causes, how to mend it, rules; in 80 columns."""
    said = explain(name)
    assert (0, name) == (said.exit_code, said.stdout.splitlines()[0])
    words = [line.split()[0] for line in said.stdout.splitlines()[1:] if line[2] != " "]
    assert ["is", "where", "what", "cause", "mend", "rules"] == words
    assert max(map(len, said.stdout.splitlines())) <= 80
    for_programs = json.loads(explain(name.upper(), "--json").stdout)
    assert (name, counters()[name].rules.split()) == (for_programs["name"], for_programs["rules"])


def test_a_counter_needs_no_engine(run_dir: Path) -> None:
    """What a counter means is told without the compiler and without NumPy."""
    script = (
        "import sys; from vionet.cli import main;"
        "main(['explain', 'rx_ring_full'], standalone_mode=False);"
        "sys.exit(len({'numba', 'numpy', 'llvmlite'} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", script], timeout=60, check=False)
    assert 0 == said.returncode


def test_a_word_that_is_nearly_one(explain: Callable[..., Result]) -> None:
    """The nearest counter is named, in one line, whether or not a fabric runs."""
    for word, near in (("rx_rng_full", "rx_ring_full"), ("csum_unfiled", "csum_unfilled")):
        said = explain(word)
        assert (1, f"vionet: {word}: no counter; did you mean {near}?\n") == (
            said.exit_code, said.stderr,
        )  # fmt: skip


def test_the_counters_of_a_port(explain: Callable[..., Result]) -> None:
    """All that is not 0 at a port is explained, drops as well, for people and for programs."""
    _, listener = place.listen_as("lan", exact=True)
    with answering(listener):
        said = explain("a")
        heads = [line for line in said.stdout.splitlines() if line and line[0] != " "]
        ledger = [f"{key}: 123456789 at a" for key in LEDGER_KEYS]
        assert [*ledger, "rx_ring_full: 7 at a"] == heads
        counted = {one["name"]: one["count"] for one in json.loads(explain("a", "--json").stdout)}
        assert dict.fromkeys(LEDGER_KEYS, 123456789) | {"rx_ring_full": 7} == counted


@pytest.mark.parametrize(
    ("words", "status", "problem"),
    [
        ([], 2, "name two ports, one port, or a counter"),
        (["a", "b", "c"], 2, "name two ports, one port, or a counter"),
        (["web", "web"], 2, "web twice: name two ports"),
        (["web", "--next", "--pcap", "x"], 2, "--next is for one port"),
        (["web", "db", "--next"], 2, "--next is for one port"),
        (["web", "--pcap", "x"], 2, "--pcap needs a sender and a receiver"),
        (["web", "--filter", "arp"], 2, "--filter and --timeout go with --next"),
        (["web", "db", "--timeout", "1"], 2, "--filter and --timeout go with --next"),
        (["web", "db", "--frame", "1"], 2, "--frame goes with --pcap"),
        (["web", "--next", "--timeout", "nan"], 2, "--timeout nan: give seconds"),
        (["a", "only-lan", "--pcap", "/nowhere"], 1, "/nowhere: no file"),
        (["a", "only-lam", "--fabric", "lan"], 1, "no such port; did you mean only-lan?"),
        (["a", "only-lan", "--fabric", "lam"], 1, "lam: none runs"),
        (["only-lan", "only-dmz"], 1, "only-lan and only-dmz: not in one fabric"),
        (["a"], 1, "a: a port of"),
        (["a", "--next"], 1, "say which by --fabric or --control"),
        (["only-lan", "--next", "--filter", "tcp port"], 1, "see man pcap-filter"),
    ],
)
def test_what_is_asked_wrongly(
    explain: Callable[..., Result], words: list[str], status: int, problem: str
) -> None:
    """One line that says what to ask instead; 2 for usage, 1 for what is not there."""
    (_, one), (_, other) = (place.listen_as(name, exact=True) for name in ("lan", "dmz"))
    with answering(one), answering(other, "dmz"):
        said = explain(*words)
    assert (status, 1) == (said.exit_code, len(said.stderr.splitlines()))
    assert problem in said.stderr
