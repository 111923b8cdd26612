"""A site whose machines have no QEMU, behind a real control socket; what tests of it share."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.unit.test_daemon_access import asked_as
from vionet.config import PortConfig, parse_switch
from vionet.daemon.control import Control, ask
from vionet.daemon.machines import MachineRequests
from vionet.site.model import Interface, Owner, VmEntry
from vionet.vhost_user.listener import Listener
from vionet.vm.model import Vm, VmError

WAIT_S = 60


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
