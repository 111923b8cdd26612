"""`vionet vm` and `vionet reload` against a control socket."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from tests.unit.still_site import ALICE, BOOTS, serving
from vionet.cli import main, which
from vionet.cli.vm import _table
from vionet.config import parse_switch
from vionet.daemon.control import Control
from vionet.site.model import SiteError
from vionet.vhost_user.listener import Listener
from vionet.vm.model import VmError

WAIT_S = 60


Vionet = Callable[..., Any]


@pytest.fixture
def vionet(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vionet]:
    """Run a command line in a thread; whoever else runs sites on this host is not found."""
    monkeypatch.setattr(which, "SYSTEM_FOLDER", run_dir / "system")
    (run_dir / "vionet").mkdir()

    async def invoke(*arguments: str) -> Result:
        runner = CliRunner()
        return await asyncio.to_thread(runner.invoke, main, list(arguments), prog_name="vionet")

    with capture_logs():  # of the site here, which would be the command's output
        yield invoke


async def test_list(run_dir: Path, vionet: Vionet) -> None:
    """Machines with state and owner, interfaces with address and place, why one ended; within 80
    columns and without colour."""
    async with serving(run_dir / "vionet") as (site, _):
        text = "web.0=guest:/s,mac=52:54:00:00:00:01,locked,ip=100.64.0.3"
        (port,) = parse_switch("s", [text]).ports
        site.machines["web"].ports = (port,)
        machine = site.machines["web"].machine
        machine.state, machine.since, machine.restarts = "crashed", time.time() - 7300, 3
        machine.reason = "killed by SIGSEGV"
        for command in ("list", "status"):
            result = await vionet("vm", command)
            assert 0 == result.exit_code, result.output
            assert re.search(r"^web +crashed +2h +1024M +2 +4001 *$", result.output, re.MULTILINE)
            shown = r"^web\.0 +52:54:00:00:00:01 +local +100\.64\.0\.3 *$"
            assert re.search(shown, result.output, re.MULTILINE)
            assert "web: killed by SIGSEGV, started again 3 times" in result.output
            assert all(len(line) <= 80 for line in result.output.splitlines())
            assert "\x1b" not in result.output
        result = await vionet("vm", "status", "db", "--json")
        document = json.loads(result.output)
        assert (1, "home", ["db"]) == (
            document["version"],
            document["sites"][0]["site"],
            [vm["name"] for vm in document["sites"][0]["vms"]],
        )
        result = await vionet("vm", "status", "none")
        assert (1, "vionet: none: no such machine; `vionet vm list` shows them\n") == (
            result.exit_code, result.output,
        )  # fmt: skip


async def test_verbs(run_dir: Path, vionet: Vionet) -> None:
    """Each does it and says the state in one line; what is refused is one line and status 1."""
    async with serving(run_dir / "vionet") as (site, path):
        for arguments, state in (
            (["start", "web"], "running"),
            (["pause", "web"], "paused"),
            (["unpause", "web", "--site", "home"], "running"),
            (["reset", "web", "--control", str(path)], "running"),
            (["stop", "web"], "stopping"),
            (["stop", "web", "--force", "--wait", "--timeout", "2.5"], "stopped"),
        ):
            result = await vionet("vm", *arguments)
            assert (0, f"web: {state}\n") == (result.exit_code, result.output)
        done = ["start", "pause", "resume", "reset", ("stop", True, 2.5)]
        assert done == site.machines["web"].machine.done
        site.machines["web"].machine.refuses = VmError("web: cannot be paused, it is stopped")
        result = await vionet("vm", "pause", "web")
        assert (1, "vionet: web: cannot be paused, it is stopped\n") == (
            result.exit_code, result.output,
        )  # fmt: skip
        result = await vionet("vm", "pause", "wbe")
        assert (1, "vionet: wbe: no such machine; did you mean web?\n") == (
            result.exit_code, result.output,
        )  # fmt: skip


async def test_machine_without_a_file(run_dir: Path, vionet: Vionet) -> None:
    """Options become the keys of the file; a template is named; mistakes come one a line."""
    async with serving(run_dir / "vionet") as (site, _):
        result = await vionet("vm", "start", "new", "-L", "-m", "256M", "--cpus", "2")
        assert (0, "new: running\n") == (result.exit_code, result.output)
        result = await vionet("vm", "start", "copy", "-t", "base")
        assert (0, "copy: running\n") == (result.exit_code, result.output)
        assert [({**BOOTS, "memory": "256M", "cpus": 2}, None), ({}, "base")] == site.defined
        result = await vionet("vm", "start", "odd", "-m", "much", "-L", "-B", "floppy")
        assert 1 == result.exit_code
        assert ["vionet: vm.odd.memory", "vionet: vm.odd.boot"] == sorted(
            (
                line.split(": ")[0] + ": " + line.split(": ")[1]
                for line in result.output.splitlines()
            ),
            reverse=True,
        )


def test_options_become_keys() -> None:
    """Every option in its place; paths are seen from here; interfaces in their order."""
    given = dict.fromkeys(("append", "boot", "cpus", "memory", "kernel", "initrd", "cdrom"))
    given |= {"disk": (), "switch": (), "local": 0, "interfaces": 0}  # type: ignore[dict-item]
    assert {} == _table(given)
    here = str(Path.cwd())
    assert {
        "append": "quiet", "boot": "disk", "kernel": f"{here}/k", "cdrom": "/a.iso",
        "disk": [
            {"path": f"{here}/d.qcow2"}, {"size": "10G"},
            {"path": "/r.img", "format": "raw", "read_only": True},
        ],
        "interface": [{"switch": "lan"}, {"local": True}, {"local": True}, {}],
    } == _table({
        **given, "append": "quiet", "boot": "disk", "kernel": "k", "cdrom": "/a.iso",
        "disk": ("d.qcow2", "size=10G", "path=/r.img,format=raw,read_only"),
        "switch": ("lan",), "local": 2, "interfaces": 4,
    })  # fmt: skip
    assert 2 == len(_table({**given, "switch": ("a", "b"), "interfaces": 1})["interface"])


async def test_which_site(run_dir: Path, vionet: Vionet) -> None:
    """The only one; of several the one that has the machine, or that is named; fabrics' sockets and
    dead ones are passed over; root's are found where the user has none."""
    none = await vionet("vm", "list")
    assert 1 == none.exit_code
    assert "no site runs in" in none.output
    assert "start one by `vionet up FILE`" in none.output
    (run_dir / "system").mkdir()
    fabric = Control(
        Listener(run_dir / "vionet" / "lan.control", 0o600), {"status": lambda request, peer: {}}
    )
    await fabric.open()
    dead = Listener(run_dir / "vionet" / "dead.control")
    dead.socket.close()
    async with serving(run_dir / "system"):
        result = await vionet("vm", "list")
        assert result.output.startswith("machine")
        async with serving(run_dir / "vionet") as (site, path):
            site.name = "mine"
            del site.machines["web"]
            assert "web" not in (await vionet("vm", "list")).output
            other = path.with_name("other.control")
            path.rename(other)  # a second site beside the first
            async with serving(run_dir / "vionet"):
                listed = (await vionet("vm", "list")).output
                assert "site home" in listed
                assert "site mine" in listed
                assert "web: running\n" == (await vionet("vm", "start", "web")).output
                result = await vionet("vm", "start", "db")
                assert "vionet: home and mine run; say which by --site\n" == result.output
                result = await vionet("reload")
                assert "vionet: home and mine run; say which by --site\n" == result.output
                assert 0 == (await vionet("vm", "start", "db", "--site", "other")).exit_code
            other.unlink()
    for arguments, says in (
        (["--control", str(run_dir / "vionet" / "lan.control")], "no site but a fabric answers"),
        (["--control", str(run_dir / "none")], "nobody answers"),
        (["--site", "lab"], "no site lab runs in"),
    ):
        result = await vionet("vm", "list", *arguments)
        assert 1 == result.exit_code
        assert says in result.output
    await fabric.close()


_AS_OTHER = """
import os, sys
from pathlib import Path
import vionet.cli.table, vionet.cli.vm
from vionet.cli import main, which
which.SYSTEM_FOLDER = Path(sys.argv[1])
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
main(sys.argv[3:])
"""


@pytest.mark.root
@pytest.mark.parametrize("inherited", [False, True])
async def test_owner_without_a_runtime_folder(run_dir: Path, inherited: bool) -> None:
    """Alice has no XDG_RUNTIME_DIR, or another user's after `su`, and finds root's site, in which
    she sees and starts hers; the sockets of root's that she may not open are no mistake."""
    private = Listener(run_dir / "a.control", 0o600)
    environment = {key: value for key, value in os.environ.items() if key != "XDG_RUNTIME_DIR"}
    if inherited:
        (run_dir / "root" / "vionet").mkdir(parents=True)
        (run_dir / "root").chmod(0o700)
        environment["XDG_RUNTIME_DIR"] = str(run_dir / "root")

    async def alice(*arguments: str) -> tuple[int | None, str]:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _AS_OTHER, str(run_dir), str(ALICE), *arguments,
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(child.communicate(), WAIT_S)
        return child.returncode, out.decode()

    async with serving(run_dir) as (_, path):
        run_dir.chmod(0o755)
        status, out = await alice("vm", "list")
        assert 0 == status, out
        assert "web" in out
        assert "db" not in out
        assert (0, "web: running\n") == await alice("vm", "start", "web")
        assert (1, "vionet: db: no such machine; use one of web\n") == await alice(
            "vm", "start", "db"
        )
        status, out = await alice("reload")
        assert (1, True) == (status, "only root and the user who runs vionet" in out)
        status, out = await alice("status", "--control", str(path))
        assert (1, False) == (status, "version" in out), "it is refused, not of another version"
    status, out = await alice("vm", "list")
    assert (1, True) == (status, "Permission denied; ask as the user who started it" in out), out
    private.close()


async def test_reload(run_dir: Path, vionet: Vionet) -> None:
    """What changed, or every mistake of the file in its line."""
    async with serving(run_dir / "vionet") as (site, _):
        assert "started: db\n" == (await vionet("reload")).output
        assert {"started": ["db"]} == json.loads((await vionet("reload", "--json")).output)[
            "changes"
        ]
        site.refuses = SiteError(["a.toml:3: first", "a.toml:9: second"])
        result = await vionet("reload")
        assert (1, "vionet: a.toml:3: first\nvionet: a.toml:9: second\n") == (
            result.exit_code, result.output,
        )  # fmt: skip


async def test_log(run_dir: Path, vionet: Vionet) -> None:
    """A pipe gets every byte that the line said."""
    async with serving(run_dir / "vionet") as (site, _):
        site.machines["web"].log.write_bytes(b"boot\r\n\x1b[1m\xff")
        result = await vionet("vm", "log", "web")
        assert b"boot\r\n\x1b[1m\xff" == result.stdout_bytes
