"""The command line before the engine is needed: help, usage errors, what is imported."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from tests.unit.still_fabric import Plugs
from vionet import __version__
from vionet.cli import main
from vionet.config import PortConfig, parse_switch
from vionet.daemon import place
from vionet.daemon.control import Control
from vionet.daemon.running import Running
from vionet.engine.status import LEDGER_KEYS
from vionet.vhost_user.listener import Listener

COMMANDS = (
    "demo", "switch", "wire", "up", "status", "top", "port", "vm", "reload", "check", "bench",
)  # fmt: skip


@pytest.fixture
def vionet(run_dir: Path) -> Callable[..., Result]:
    """Run a command line in this process."""
    return lambda *arguments: CliRunner().invoke(main, list(arguments), prog_name="vionet")


class BusyPort:
    """A port that has seen frames."""

    serial = 1
    last_mac = 0
    netdev = None
    mtu = 1500
    offloads = 0
    state = "attached"
    features = 1 << 32 | 1 << 1 | 1 << 15
    offered = features | 1 << 56
    pairs = 2
    worker = 0
    warnings = ("uplink_no_gso: large frames do not leave eth1 whole; they are segmented here",)

    def change(self, options: PortConfig) -> None:
        """Anything."""

    def ledger(self) -> dict[str, int]:
        """Large numbers."""
        return dict.fromkeys(LEDGER_KEYS, 123_456_789)

    def drops(self) -> dict[str, int]:
        """One reason."""
        return {"rx_ring_full": 7, "tap_full": 0}


class WaitingPort(BusyPort):
    """A port to which nobody has come."""

    state = "waiting"
    features = 0


@contextmanager
def answering(listener: Listener, name: str = "lan") -> Iterator[None]:
    """A fabric that answers at `listener`, on a thread of its own."""
    config = parse_switch(
        name,
        [
            "a=guest:/a,mac=52:54:00:00:00:01,locked,queues=4,vlan=10,trunk=20+30-40",
            "a-port-with-quite-a-long-name=interface:eth1",
            f"only-{name}=stream:/s",
        ],
    )
    live = {port.name: BusyPort() for port in config.ports}
    live[config.ports[-1].name] = WaitingPort()
    running = Running(config, Plugs(live))
    started, ending = threading.Event(), threading.Event()

    async def serve() -> None:
        control = Control(listener, running.requests)
        await control.open()
        started.set()
        await asyncio.to_thread(ending.wait, 100)
        await control.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(60)
        with capture_logs():  # of a thread here, which would be the command's output
            yield
    finally:
        ending.set()
        thread.join(60)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["port", "set", "-h"], ["status", "--json"], ["top", "--once"]]
)
def test_light_commands_import_no_compiler(run_dir: Path, arguments: list[str]) -> None:
    """Help, status and top come without Numba and NumPy."""
    code = (
        "import sys\n"
        "from vionet.cli import main\n"
        f"main({arguments!r}, standalone_mode=False)\n"
        "print({'numba', 'numpy', 'asyncio' if 'switch' in sys.argv else 'numba'}\n"
        "      & sys.modules.keys() or 'light', file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert "light\n" == done.stderr


def test_module_runs_as_program(run_dir: Path) -> None:
    """`python -m vionet` is `vionet`."""
    done = subprocess.run(
        [sys.executable, "-m", "vionet", "--version"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert f"vionet {__version__}\n" == done.stdout


def test_help_lists_every_command(vionet: Callable[..., Result]) -> None:
    """`vionet --help` names what there is, in 80 columns; so does every command's own help."""
    result = vionet("--help")
    assert 0 == result.exit_code
    assert all(f"\n  {name} " in result.output for name in COMMANDS)
    for name in COMMANDS:
        result = vionet(name, "--help")
        assert 0 == result.exit_code
        assert [] == [line for line in result.output.splitlines() if len(line) > 80]


def test_no_command_is_help(vionet: Callable[..., Result]) -> None:
    """`vionet` alone explains itself, and fails."""
    result = vionet()
    assert 2 == result.exit_code
    assert "Commands:" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["swich"], "vionet: swich: no such command; did you mean switch?"),
        (["--wat"], "vionet: No such option"),
        (["switch"], "vionet switch: Missing argument"),
        (["switch", "guest:/a"], "vionet switch: guest:/a: the port needs a name"),
        (["switch", "a=guest:/a,polcy=x"], "did you mean policy?"),
        (["switch", "a=guest:/a,queues=9"], "from 1 to 8"),
        (["switch", "a=guest:/a", "--reserved", "lcap"], "did you mean lacp?"),
        (["switch", "a=guest:/a", "--workers", "17"], "--workers 17: out of range; use a number"),
        (["switch", "a=guest:/a", "--pin", "0,x"], "--pin 0,x: x: no core that we may use"),
        (["wire", "guest:/a", "guest:/b", "--workers", "2"], "vionet wire: No such option"),
        (["switch", "a=guest:/a", "--name", "../x"], "cannot be a name"),
        (["switch", "a=guest:/a", "--log-format", "xml"], "Invalid value for '--log-format'"),
        (["wire", "guest:/a"], "vionet wire: wire: 1 ports; a wire joins exactly two"),
        (["wire", "guest:/a", "tap:t,vlan=3"], "vlan: a wire passes every frame as it is"),
        (["port", "set", "a"], "vionet port set: Missing argument"),
        (["port", "get", "a"], "vionet port: No such command"),
        (["status", "extra"], "vionet status: Got unexpected extra argument"),
    ],
)
def test_usage_errors_are_one_line(
    vionet: Callable[..., Result], arguments: list[str], says: str
) -> None:
    """Wrong usage: exit status 2, nothing on standard output, one line with the way to help."""
    result = vionet(*arguments)
    assert 2 == result.exit_code
    assert "" == result.stdout
    assert says in result.stderr
    assert 1 == result.stderr.count("\n")
    assert "--help)" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["switch", "t=tap:lo"], "vionet: tap:lo: exists, but is no tap"),
        (["switch", "t=tap:,fd=999"], "vionet: tap:,fd=999: not open"),
        (["switch", "a=guest:/a", "--control", "/nowhere/c"], "/nowhere"),
        (["status", "--control", "/nowhere/c"], "vionet: /nowhere/c: nobody answers"),
    ],
)
def test_failures_are_one_line(
    vionet: Callable[..., Result], arguments: list[str], says: str
) -> None:
    """What is refused before the engine is loaded: exit status 1 and one line."""
    result = vionet(*arguments)
    assert 1 == result.exit_code
    assert says in result.stderr
    assert 1 == result.stderr.count("\n")


def test_failure_lets_go_of_what_was_opened(vionet: Callable[..., Result], run_dir: Path) -> None:
    """A command that fails at its second step leaves no descriptor and no socket of its first."""
    vionet("switch", "t=tap:lo")
    before = sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    path = run_dir / "c"
    held = Listener(path, 0o600)
    result = vionet("switch", "a=guest:/a", "--control", str(path))
    assert "another process serves" in result.stderr
    held.close()
    assert before == sorted(os.listdir("/proc/self/fd"))  # noqa: PTH208
    assert [] == list(run_dir.rglob("*.control"))


def test_status_of_nothing(vionet: Callable[..., Result], run_dir: Path) -> None:
    """Nothing running is no failure; the document is empty and the text says where it looked."""
    result = vionet("status")
    assert (0, True) == (result.exit_code, f"answers in {run_dir}/vionet" in result.stdout)
    result = vionet("status", "--json")
    assert {"version": 1, "fabrics": []} == json.loads(result.stdout)


def test_status_shows_all_that_runs(vionet: Callable[..., Result]) -> None:
    """Every live fabric is shown; what a killed one left behind is a line on standard error."""
    _, dead = place.listen_as("old", exact=True)
    dead.socket.close()
    _, listener = place.listen_as("lan", exact=True)
    with answering(listener):
        result = vionet("status", "--json")
        assert 0 == result.exit_code
        document = json.loads(result.stdout)
        assert ["lan"] == [fabric["name"] for fabric in document["fabrics"]]
        assert {"rx_ring_full": 7} == document["fabrics"][0]["ports"][0]["drops"]
        assert "old.control: nobody answers" in result.stderr
        alone = vionet("status", "--json", "--control", str(listener.path))
        again = json.loads(alone.stdout)
        assert document["fabrics"][0].pop("time_ns") < again["fabrics"][0].pop("time_ns")
        assert document == again
        assert "" == alone.stderr
    dead.path.unlink()


def test_status_table_fits_80_columns(vionet: Callable[..., Result]) -> None:
    """The table for people is plain text of at most 80 columns and shows what matters."""
    _, listener = place.listen_as("lan", exact=True)
    with answering(listener):
        result = vionet("status")
    assert 0 == result.exit_code
    assert "\x1b" not in result.stdout
    assert [] == [line for line in result.stdout.splitlines() if len(line) > 80]
    for part in (
        "switch lan", "52:54:00:00:00:01", "locked", "guest_csum", "uniform", "123M", "interface",
        "refused", "host_uso", "offered", "2 of 4 pairs in use", "20+30-40", "uplink_no_gso",
    ):  # fmt: skip
        assert part in result.stdout
    assert "a: dropped 7 rx_ring_full" in result.stdout


def test_port_set(vionet: Callable[..., Result]) -> None:
    """The fabric is found by the port's name; a line or the document shows the new state; a
    feature that is taken away looks like a command's option and is not taken for one."""
    _, listener = place.listen_as("lan", exact=True)
    with answering(listener):
        result = vionet("port", "set", "a", "policy=natural", "link=down", "vlan=none")
        assert 0 == result.exit_code, result.stderr
        assert (
            "a: attached, policy natural, offload full, link down, vlan none, trunk 20+30-40,"
            " isolated off\n"
        ) == result.stdout
        result = vionet("port", "set", "--json", "--fabric", "lan", "a", "-host_uso", "-guest_csum")
        assert 0 == result.exit_code, result.stderr
        shown = json.loads(result.stdout)
        assert ("custom", "natural") == (shown["offload"], shown["policy"])


def test_port_set_finds_the_right_fabric(vionet: Callable[..., Result]) -> None:
    """A port that two fabrics have needs --fabric or --control; one that none has is said."""
    _, first = place.listen_as("lan", exact=True)
    _, second = place.listen_as("dmz", exact=True)
    with answering(first, "lan"), answering(second, "dmz"):
        result = vionet("port", "set", "a", "link=up")
        assert 1 == result.exit_code
        assert "vionet: a: a port of dmz and lan; say which by --fabric" in result.stderr
        assert 0 == vionet("port", "set", "only-dmz", "link=up").exit_code
        assert 0 == vionet("port", "set", "--control", str(first.path), "a", "link=up").exit_code
        result = vionet("port", "set", "zz", "link=up")
        assert (1, True) == (result.exit_code, "has such a port" in result.stderr)
        result = vionet("port", "set", "only-dmz", "mtu=100")
        assert (2, 1) == (result.exit_code, result.stderr.count("\n"))
        assert "vionet port set: only-dmz: mtu=100: mtu cannot change" in result.stderr
    result = vionet("port", "set", "--fabric", "lan", "a", "link=up")
    assert (1, True) == (result.exit_code, "lan.control: nobody answers" in result.stderr)
