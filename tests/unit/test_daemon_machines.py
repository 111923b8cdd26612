"""`vm.…` and `reload` on a real control socket: what they do, and what is refused."""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from tests.unit.still_site import (
    ALICE,
    WAIT_S,
    StillSite,
    asked,
    entries,
    serving,
)
from tests.unit.test_daemon_control import connected, said
from vionet.config import parse_switch
from vionet.daemon import machines
from vionet.daemon.control import Control, ControlError, RequestError
from vionet.daemon.machines import MachineRequests
from vionet.site.model import SiteError
from vionet.vhost_user.listener import Listener
from vionet.vm.model import VmError


async def test_list(run_dir: Path) -> None:
    """Each machine with its state, its owner and its interfaces' addresses."""
    async with serving(run_dir) as (site, path):
        (port,) = parse_switch("s", ["web.0=guest:/s,mac=52:54:00:00:00:01"]).ports
        site.machines["web"].ports = (port,)
        answer = await asked(path, "vm.list")
        assert ("home", ["base", "db", "web"]) == (
            answer["site"], [vm["name"] for vm in answer["vms"]],
        )  # fmt: skip
        assert {
            "name": "web", "state": "stopped", "since": 1e9, "pid": None, "memory": 1 << 30,
            "cpus": 2, "owner": str(ALICE), "restarts": 0, "reason": None,
            "interfaces": [
                {"name": "web.0", "mac": "52:54:00:00:00:01", "switch": None, "local": True,
                 "addresses": []},
            ],
        } == answer["vms"][2]  # fmt: skip


async def test_verbs(run_dir: Path) -> None:
    """Start, pause, unpause, reset and stop do that, and answer with the machine afterwards."""
    async with serving(run_dir) as (site, path):
        machine = site.machines["web"].machine
        states = [
            (await asked(path, f"vm.{verb}", name="web"))["vm"]["state"]
            for verb in ("start", "pause", "unpause", "reset")
        ]
        assert ["running", "paused", "running", "running"] == states
        answer = await asked(path, "vm.stop", name="web", force=True, wait=True, timeout=3)
        assert "stopped" == answer["vm"]["state"]
        assert ["start", "pause", "resume", "reset", ("stop", True, 3)] == machine.done
        assert [] == site.machines["db"].machine.done


async def test_stop_takes_its_time(run_dir: Path) -> None:
    """Who does not wait is told that it stops; who does is answered when it is over, and a client
    that hangs up meanwhile does not stop the stop."""
    async with serving(run_dir) as (site, path):
        machine = site.machines["web"].machine
        answer = await asked(path, "vm.stop", name="web")
        assert ("stopping", []) == (answer["vm"]["state"], machine.done)
        reader, writer = await connected(path)
        writer.write(b'{"version":1,"request":"vm.stop","name":"web","wait":true}\n')
        waiting = asyncio.create_task(asked(path, "vm.stop", name="web", wait=True))
        await asked(path, "vm.list")  # others are answered meanwhile
        writer.close()
        machine.powered_off.set()
        async with asyncio.timeout(WAIT_S):
            assert "stopped" == (await waiting)["vm"]["state"]
        assert {("stop", False, None)} == set(machine.done)
        del reader


async def test_requests_in_the_making_are_counted(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks for what takes long and hangs up, again and again, is refused after so many; when
    those are met, there is room again."""
    monkeypatch.setattr(machines, "TASKS_MAX", 3)
    monkeypatch.setattr(machines, "_AT_ONCE_S", 0.01)
    async with serving(run_dir) as (site, path):
        machine = site.machines["web"].machine
        for _ in range(3):
            reader, writer = await connected(path)
            writer.write(b'{"version":1,"request":"vm.stop","name":"web"}\n')
            assert "stopping" == (await said(reader))["vm"]["state"]
            writer.close()
        with pytest.raises(RequestError, match="of your requests are still being met"):
            await asked(path, "vm.stop", name="web", wait=True)
        assert "stopping" == (await asked(path, "vm.list"))["vms"][2]["state"]
        machine.powered_off.set()
        machine.refuses = None
        async with asyncio.timeout(WAIT_S):
            while len(machine.done) < 3:
                await asyncio.sleep(0.005)
        assert "running" == (await asked(path, "vm.start", name="web"))["vm"]["state"]


async def test_long_answer_is_not_cut(run_dir: Path) -> None:
    """The idle limit is for silent clients, not for one whose answer takes longer than it."""
    site = StillSite(run_dir, *entries())
    requests = MachineRequests(site)
    control = Control(Listener(run_dir / "c", 0o600), requests.requests, idle_s=0.05)
    await control.open()
    machine = site.machines["web"].machine
    try:
        waiting = asyncio.create_task(asked(run_dir / "c", "vm.stop", name="web", wait=True))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await machine.powered_off.wait()
        machine.powered_off.set()
        assert "stopped" == (await waiting)["vm"]["state"]
    finally:
        await requests.close()
        await control.close()


@pytest.mark.parametrize(
    ("request_name", "members", "says"),
    [
        ("vm.start", {}, 'vm.start needs "name":NAME'),
        ("vm.start", {"name": 7, "machine": {}}, 'vm.start needs "name":NAME'),
        ("vm.start", {"name": "a", "machine": []}, 'vm.start needs "name":NAME'),
        ("vm.start", {"name": "a", "template": ["base"]}, "no such machine"),
        ("vm.start", {"name": "bsae"}, "did you mean base?"),
        ("vm.pause", {"name": ["web"]}, 'vm.pause needs "name":NAME'),
        ("vm.stop", {"name": "web", "force": 1}, "true or false"),
        ("vm.stop", {"name": "web", "wait": "yes"}, "true or false"),
        ("vm.stop", {"name": "web", "timeout": True}, '"timeout" is 0 to 600 seconds'),
        ("vm.stop", {"name": "web", "timeout": -1}, '"timeout" is 0 to 600 seconds'),
        ("vm.stop", {"name": "web", "timeout": 1e9}, '"timeout" is 0 to 600 seconds'),
        ("vm.log", {"name": "web", "from": -1}, '"from" is a number'),
        ("vm.log", {"name": "web", "from": "0"}, '"from" is a number'),
        ("vm.log", {"name": "web", "from": 1 << 70}, '"from" is a number'),
        ("vm.console", {"name": "web"}, "does not run; start it"),
    ],
)
async def test_wrong_requests(
    run_dir: Path, request_name: str, members: dict[str, Any], says: str
) -> None:
    """Each gets one line, and nothing was done."""
    async with serving(run_dir) as (site, path):
        with pytest.raises(RequestError) as caught:
            await asked(path, request_name, **members)
        assert says in str(caught.value)
        assert [] == [live.machine.done for live in site.machines.values() if live.machine.done]
        assert [] == site.defined


async def test_refusals_are_told(run_dir: Path) -> None:
    """What the machine or the host refuses comes back as one line, also where nobody waits."""
    async with serving(run_dir) as (site, path):
        site.machines["web"].machine.refuses = VmError("web: is not running; start it first")
        for verb in ("start", "pause", "stop"):
            with pytest.raises(RequestError, match="web: is not running; start it first"):
                await asked(path, f"vm.{verb}", name="web")
        site.machines["web"].machine.refuses = PermissionError(13, "Permission denied")
        with pytest.raises(RequestError, match=r"^Permission denied$"):
            await asked(path, "vm.reset", name="web")


async def test_reload(run_dir: Path) -> None:
    """What changed is told; all mistakes of the file are, each in its line."""
    async with serving(run_dir) as (site, path):
        assert {"started": ["db"]} == (await asked(path, "reload"))["changes"]
        site.refuses = SiteError(["home.toml:3: first", "home.toml:9: second"])
        with pytest.raises(RequestError) as caught:
            await asked(path, "reload")
        assert ("home.toml:3: first", "home.toml:9: second") == caught.value.problems


async def test_asking_one_without_machines(run_dir: Path) -> None:
    """A fabric's own control socket says that it does not know such requests."""
    control = Control(Listener(run_dir / "c", 0o600), {"status": lambda request, peer: {}})
    await control.open()
    try:
        with pytest.raises(RequestError, match="unknown request; known: status"):
            await asked(run_dir / "c", "vm.list")
    finally:
        await control.close()
    with pytest.raises(ControlError):
        await asked(run_dir / "c", "vm.list")
    assert os.path.lexists(run_dir)
