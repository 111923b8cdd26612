"""`vm.…` on a real control socket: what they do, for whom, and clients that do their worst."""

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.unit.test_daemon_access import asked_as
from tests.unit.test_daemon_control import connected, hung_up, said
from vionet.config import PortConfig, parse_switch
from vionet.daemon.access import LEVELS
from vionet.daemon.control import CLIENTS_MAX, Control, ControlError, RequestError, ask
from vionet.daemon.control import connected as attached
from vionet.daemon.machines import INSTANCES_MAX, LOG_MAX, MachineRequests
from vionet.daemon.makers import NAMES_MAX, Makers
from vionet.site.model import Interface, Owner, SiteError, VmEntry
from vionet.vhost_user.listener import Listener
from vionet.vm.model import Vm, VmError

WAIT_S = 10
ALICE, BOB = 4001, 4002
BOOTS = {"interface": [{"local": True}]}  # the least that a machine needs: the network to boot from


class EchoConsole:
    """A serial line whose guest repeats in capitals what is typed."""

    def __init__(self) -> None:
        self.attached = 0
        self.refuses = False

    async def attach(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the client is gone or types q."""
        if self.refuses:
            raise VmError("the console has 16 readers already; close one of them")
        self.attached += 1
        try:
            writer.write(b"login: ")
            while (typed := await reader.read(100)) and typed != b"q":
                writer.write(typed.upper())
                await writer.drain()
        finally:
            self.attached -= 1


@dataclass
class StillMachine:
    """A machine without a QEMU: it notes what is asked of it."""

    name: str
    state: str = "stopped"
    since: float = 1e9
    pid: int | None = None
    restarts: int = 0
    reason: str | None = None
    console: EchoConsole = field(default_factory=EchoConsole)
    done: list[Any] = field(default_factory=list)
    refuses: Exception | None = None
    powered_off: asyncio.Event = field(default_factory=asyncio.Event)

    async def _do(self, what: Any, state: str) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.done.append(what)
        self.state = state
        self.pid = None if state == "stopped" else 42

    async def start(self) -> None:
        await self._do("start", "running")

    async def stop(self, *, force: bool = False, timeout_s: float | None = None) -> None:
        self.state = "stopping"
        if self.refuses is None and not force:
            await self.powered_off.wait()
        await self._do(("stop", force, timeout_s), "stopped")

    async def pause(self) -> None:
        await self._do("pause", "paused")

    async def resume(self) -> None:
        await self._do("resume", "running")

    async def reset(self) -> None:
        await self._do("reset", "running")


@dataclass
class StillLive:
    """One machine of the site."""

    entry: VmEntry
    machine: Any
    log: Path
    ports: tuple[PortConfig, ...] = ()


class StillSite:
    """Machines by name, and what was asked of the site."""

    name = "home"

    def __init__(self, folder: Path, *entries: VmEntry) -> None:
        self.folder = folder
        self.machines: dict[str, StillLive] = {}
        self.defined: list[Any] = []
        self.forgotten: list[str] = []
        self.refuses: Exception | None = None
        self.next_refuses: Exception | None = None
        for entry in entries:
            self._add(entry)

    def _add(self, entry: VmEntry) -> None:
        name = entry.vm.name
        machine = StillMachine(name, refuses=self.next_refuses)
        self.machines[name] = StillLive(entry, machine, self.folder / f"{name}.log")

    async def define(self, entry: VmEntry, table: Mapping[str, Any], template: str | None) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.defined.append((table, template))
        self._add(entry)

    async def forget(self, name: str) -> None:
        self.forgotten.append(name)
        del self.machines[name]

    async def reload(self) -> Mapping[str, Any]:
        if self.refuses is not None:
            raise self.refuses
        return {"started": ["db"]}


def entries() -> list[VmEntry]:
    """`web` is Alice's, `db` is nobody's, `base` is a template that Alice may instance."""
    (port,) = parse_switch("lan", ["web.0=guest:/s"]).ports
    return [
        VmEntry(
            vm=Vm(name="web", memory_len=1 << 30, cpus=2),
            interfaces=(Interface(port=port, local=True),),
            owner=Owner(user=str(ALICE)),
        ),
        VmEntry(vm=Vm(name="db")),
        VmEntry(
            vm=Vm(name="base", cpus=3),
            interfaces=(Interface(port=port, local=True),),
            allow_instance=frozenset({"memory", "cdrom"}),
            instance_owner=Owner(user=str(ALICE)),
        ),
    ]


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[StillSite, Path]]:
    """A site's control socket that everybody reaches."""
    folder.chmod(0o711)
    site = StillSite(folder, *entries())
    requests = MachineRequests(site)
    path = folder / "home.control"
    control = Control(Listener(path, 0o666), requests.requests)
    await control.open()
    try:
        yield site, path
    finally:
        for live in site.machines.values():
            live.machine.powered_off.set()
        async with asyncio.timeout(WAIT_S):
            await requests.close()
            await control.close()


async def asked(path: Path, request: str, **members: Any) -> Any:
    """The answer to one request of this user's."""
    return await asyncio.to_thread(ask, path, request, wait_s=WAIT_S, **members)


async def others(path: Path, uid: int, *requests: Mapping[str, object]) -> Any:
    """The answers to another user's requests."""
    return await asyncio.to_thread(asked_as, path, uid, [uid], *requests)


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


@pytest.mark.root
async def test_owner_and_stranger(run_dir: Path) -> None:
    """Alice sees and starts her machine and nothing else; for Bob there is none at all, in the same
    words as for a name that nobody has; what is root's is refused to both."""
    async with serving(run_dir) as (site, path):
        verbs = [name for name in LEVELS if name.startswith("vm.") and name != "vm.list"]
        listed, started, foreign = await others(
            path, ALICE, {"request": "vm.list"}, {"request": "vm.start", "name": "web"},
            {"request": "vm.start", "name": "db"},
        )  # fmt: skip
        assert ["web"] == [vm["name"] for vm in listed["vms"]]
        assert "running" == started["vm"]["state"]
        assert "db: no such machine; use one of web" == foreign["error"]
        answers = await others(
            path, BOB, {"request": "vm.list"},
            *({"request": verb, "name": name} for verb in verbs for name in ("web", "none")),
            {"request": "reload"},
        )  # fmt: skip
        assert {"version": 1, "reply": "vm.list", "site": "home", "vms": []} == answers[0]
        assert ["web: no such machine", "none: no such machine"] * len(verbs) == [
            answer["error"] for answer in answers[1:-1]
        ]
        assert "reload: only root and the user" in answers[-1]["error"]
        assert ["start"] == site.machines["web"].machine.done
        assert [] == site.machines["db"].machine.done


async def test_machine_without_a_file(run_dir: Path) -> None:
    """Who runs vionet starts one from its keys, or a template; they are read as the file's are."""
    async with serving(run_dir) as (site, path):
        table = {**BOOTS, "memory": "256M"}
        answer = await asked(path, "vm.start", name="new", machine=table)
        assert ("new", "running", 256 << 20) == tuple(
            answer["vm"][key] for key in ("name", "state", "memory")
        )
        await asked(path, "vm.start", name="copy", template="base")
        assert 3 == site.machines["copy"].entry.vm.cpus
        assert [(table, None), ({}, "base")] == site.defined
        with pytest.raises(RequestError, match="web: that name is taken"):
            await asked(path, "vm.start", name="web", machine={})
        with pytest.raises(RequestError) as caught:
            await asked(path, "vm.start", name="odd", machine={"memroy": "1G", "cpus": 0})
        assert 2 == len(caught.value.problems)
        assert "did you mean memory?" in caught.value.problems[0]
        assert 2 == len(site.defined)


async def test_machine_that_does_not_start_is_forgotten(run_dir: Path) -> None:
    """Where the start fails nothing is left, and the reason is told; or not even defined."""
    async with serving(run_dir) as (site, path):
        site.next_refuses = VmError("new: QEMU is missing; install it")
        with pytest.raises(RequestError, match="QEMU is missing"):
            await asked(path, "vm.start", name="new", machine=BOOTS)
        assert ["new"] == site.forgotten
        site.refuses = SiteError(["vm.new.switch: no such switch", "vm.new.tap: taken"])
        with pytest.raises(RequestError) as caught:
            await asked(path, "vm.start", name="new", machine=BOOTS)
        assert ("vm.new.switch: no such switch", "vm.new.tap: taken") == caught.value.problems


@pytest.mark.root
async def test_instance_of_an_owner(run_dir: Path) -> None:
    """Alice makes one within what the file allows and owns it; what is not allowed is named, all at
    once; Bob learns nothing; without a template there is none for either."""
    async with serving(run_dir) as (site, path):
        start = {"request": "vm.start", "name": "mine"}
        allowed = {**start, "template": "base", "machine": {"memory": "1G"}}
        answers = await others(
            path, ALICE,
            {**start, "machine": {}},
            {**start, "template": "web"},
            {**start, "template": "db"},
            {**start, "template": "base", "machine": {"cpus": 2, "cdrom": "/etc/shadow"}},
            allowed,
            {"request": "vm.stop", "name": "mine", "force": True},
        )  # fmt: skip
        assert [
            "mine: only root and the user who runs vionet start machines without a template;"
            " give one",
            "web: not a template for you; see `allow instance` in the file",
            "db: no such machine",
            "mine: cpus: not for you to choose; see `allow instance` in the file",
        ] == [answer["error"] for answer in answers[:4]]
        assert "mine: /etc/shadow: give the real path" in answers[3]["problems"][1]
        assert ("running", str(ALICE)) == tuple(answers[4]["vm"][key] for key in ("state", "owner"))
        assert "reply" in answers[5]
        for template in ("base", "web", "none"):
            (answer,) = await others(path, BOB, {**start, "name": "x", "template": template})
            assert f"{template}: no such machine" == answer["error"]
        assert ["mine"] == [name for name in site.machines if name not in ("web", "db", "base")]


@pytest.mark.root
async def test_owner_has_so_many_and_no_more(run_dir: Path) -> None:
    """A user's machines that are not in the file are counted; who runs vionet is not held."""
    async with serving(run_dir) as (site, path):
        start = {"request": "vm.start", "template": "base"}
        many = [{**start, "name": f"i{number}"} for number in range(INSTANCES_MAX + 1)]
        answers = await others(path, ALICE, *many)
        assert all("vm" in answer for answer in answers[:-1])
        assert f"you have {INSTANCES_MAX} machines already" in answers[-1]["error"]
        assert "vm" in await asked(path, "vm.start", name="root", template="base")
        del site.machines["i0"]
        (answer,) = await others(path, ALICE, {**start, "name": "again"})
        assert "vm" in answer


@pytest.mark.root
async def test_name_is_its_makers(run_dir: Path) -> None:
    """What a machine leaves under its name is not the next user's: another user, and whoever finds
    something of nobody's, has to choose another name; the maker has it again, unless an
    administrator had one of that name meanwhile."""
    async with serving(run_dir) as (site, path):
        site.machines["base"].entry = replace(
            site.machines["base"].entry, instance_owner=None, owner=Owner(group="4100")
        )
        start = {"request": "vm.start", "template": "base"}

        async def made(uid: int, name: str) -> str:
            request = {**start, "name": name}
            answers: Any = await asyncio.to_thread(asked_as, path, uid, [uid, 4100], request)
            (answer,) = answers
            if "vm" in answer:
                (run_dir / f"{name}.log").touch()
                await site.forget(name)
            return str(answer.get("error", "made"))

        assert "made" == await made(ALICE, "one")
        another = "one: that name was another user's; choose another"
        assert another == await made(BOB, "one")
        assert "made" == await made(ALICE, "one")
        assert {"one": ALICE} == json.loads((run_dir / "makers.json").read_text())
        await asked(path, "vm.start", name="one", template="base")
        await site.forget("one")
        left = "one: something of that name is left over; choose another name"
        assert [left, left] == [await made(ALICE, "one"), await made(BOB, "one")]
        (run_dir / "one.log").unlink()
        assert "made" == await made(BOB, "one")
        for remains in ("old-0.qcow2", "old-12.raw", "old-seed.iso", "old.stderr"):
            (run_dir / remains).touch()
            assert left.replace("one", "old", 1) == await made(ALICE, "old")
            (run_dir / remains).unlink()
        (run_dir / "old-2.log").touch()  # of the machine old-2
        assert "made" == await made(ALICE, "old")


def test_names_are_counted(tmp_path: Path) -> None:
    """A user holds so many names; those that left nothing are free again; a broken file is none."""
    (tmp_path / "makers.json").write_text("[")
    for number in range(NAMES_MAX):
        makers = Makers(tmp_path)
        assert None is makers.refusal(f"n{number}", ALICE)
        (tmp_path / f"n{number}.log").touch()
        makers.take(f"n{number}", ALICE, ())
    assert f"you have used {NAMES_MAX} names" in str(Makers(tmp_path).refusal("more", ALICE))
    assert None is Makers(tmp_path).refusal("n7", ALICE)
    assert None is Makers(tmp_path).refusal("more", BOB)
    for log in list(tmp_path.glob("n*.log"))[:10]:
        log.unlink()
    Makers(tmp_path).take("other", BOB, ("n1",))
    assert NAMES_MAX - 10 <= len(Makers(tmp_path).names(ALICE)) <= NAMES_MAX - 9
    assert ["other"] == Makers(tmp_path).names(BOB)


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


async def test_who_asked_is_logged(run_dir: Path) -> None:
    """What changes a machine is logged with who asked and for what, in bounded numbers; looking is
    not."""
    async with serving(run_dir) as (_, path):
        with capture_logs() as lines:
            await asked(path, "vm.list")
            await asked(path, "vm.log", name="web")
            assert [] == lines
            await asked(path, "vm.start", name="web")
            (line,) = lines
            expected = ("asked", "info", "vm.start", "web", os.getuid(), "home")
            keys = ("event", "log_level", "request", "vm", "uid", "site")
            assert expected == tuple(line[key] for key in keys)
            for _ in range(100):
                with pytest.raises(RequestError):
                    await asked(path, "vm.reset", name="x" * 1000)
            assert 30 <= len(lines) < 60
            assert max(len(line.get("vm", "")) for line in lines) <= 64


async def test_log(run_dir: Path) -> None:
    """The tail, then what came since; every byte as it was; a log begun anew is read anew."""
    async with serving(run_dir) as (site, path):
        log = site.machines["web"].log
        assert {"text": "", "next": 0} == {
            key: value for key, value in (await asked(path, "vm.log", name="web")).items()
            if key in ("text", "next")
        }  # fmt: skip
        every = bytes(range(256))
        log.write_bytes(b"x" * LOG_MAX + every)
        answer = await asked(path, "vm.log", name="web")
        assert (b"x" * LOG_MAX + every)[-LOG_MAX:] == answer["text"].encode("latin-1")
        with log.open("ab") as file:
            file.write(b"more")
        answer = await asked(path, "vm.log", name="web", **{"from": answer["next"]})
        assert ("more", LOG_MAX + 260) == (answer["text"], answer["next"])
        log.write_bytes(b"new")
        answer = await asked(path, "vm.log", name="web", **{"from": answer["next"]})
        assert ("new", 3) == (answer["text"], answer["next"])


async def test_console(run_dir: Path) -> None:
    """After the answer the connection is the serial line, both ways, until either ends it."""
    async with serving(run_dir) as (site, path):
        machine = site.machines["web"].machine
        await asked(path, "vm.start", name="web")

        def typed(last: bytes) -> bytes:
            with attached(path, "vm.console", name="web") as (client, answer, rest):
                assert "vm.console" == answer["reply"]
                client.settimeout(WAIT_S)
                client.sendall(b"root\n")
                while b"ROOT\n" not in rest:
                    rest += client.recv(100)
                client.sendall(last)
                while last and (more := client.recv(100)):
                    rest += more
                return rest

        assert b"login: ROOT\n" == await asyncio.to_thread(typed, b"q")
        assert b"login: ROOT\n" == await asyncio.to_thread(typed, b"")
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while machine.console.attached:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.005)


async def test_console_that_takes_no_more(run_dir: Path) -> None:
    """Who is one reader too many is told on the line itself, which then ends."""
    async with serving(run_dir) as (site, path):
        await asked(path, "vm.start", name="web")
        site.machines["web"].machine.console.refuses = True
        reader, writer = await connected(path)
        writer.write(b'{"version":1,"request":"vm.console","name":"web"}\n')
        assert "reply" in await said(reader)
        last = await asyncio.wait_for(reader.read(), WAIT_S)
        assert b"\r\nvionet: web: the console has 16 readers already; close one of them\r\n" == last
        writer.close()


async def test_console_of_a_client_that_does_not_read(run_dir: Path) -> None:
    """It holds its own line only; others are answered, and the end of vionet does not wait."""
    async with serving(run_dir) as (site, path):
        await asked(path, "vm.start", name="web")
        reader, writer = await connected(path)
        writer.write(b'{"version":1,"request":"vm.console","name":"web"}\n')
        assert "reply" in await said(reader)
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(path))
            deaf.sendall(b'{"version":1,"request":"vm.console","name":"web"}\n')
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    while True:
                        await loop.sock_sendall(deaf, b"flood" * 1000)
            assert 2 == site.machines["web"].machine.console.attached
            assert "running" == (await asked(path, "vm.reset", name="web"))["vm"]["state"]
            writer.write(b"hello")
            assert b"login: HELLO" == await asyncio.wait_for(reader.readexactly(12), WAIT_S)
    assert 0 == site.machines["web"].machine.console.attached
    assert await hung_up(reader)
    writer.close()


@pytest.mark.root
async def test_flood_of_a_stranger_pushes_out_itself(run_dir: Path) -> None:
    """A user who opens connections without end loses their own first; root's console stays."""
    async with serving(run_dir) as (_, path):
        await asked(path, "vm.start", name="web")
        reader, writer = await connected(path)
        writer.write(b'{"version":1,"request":"vm.console","name":"web"}\n')
        assert "reply" in await said(reader)
        flood = await asyncio.create_subprocess_exec(
            "/usr/bin/python3", "-c", _FLOOD, str(path), str(BOB),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(flood.communicate(), 30)
        counts = json.loads(out)
        assert {"kept": CLIENTS_MAX - 1, "lost": 201 - CLIENTS_MAX} == counts
        writer.write(b"still here")
        assert b"login: STILL HERE" == await asyncio.wait_for(reader.readexactly(17), WAIT_S)
        writer.close()


_FLOOD = """
import json, os, socket, sys
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
clients, lost = [], 0
for number in range(200):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(10)
    client.connect(sys.argv[1])
    client.sendall(b'{"version":1,"request":"vm.list"}\\n')
    assert client.recv(1000), number
    clients.append(client)
for client in clients:
    client.setblocking(False)
    try:
        lost += client.recv(1) == b""
    except ConnectionResetError:
        lost += 1
    except BlockingIOError:
        pass
print(json.dumps({"lost": lost, "kept": len(clients) - lost}))
"""


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
