"""What may be asked about machines: `vm.list`, `vm.start` … and `reload` on the control socket.

How it works: every request names a machine, which is looked up among those that the peer may see:
the others do not exist, and the answer is the same as for a name that nobody has.  `vm.start` with
a description defines a machine that is not in the file first; so may an owner, from a template that
allows it.  What takes time is a task of its own: it goes on when whoever asked hangs up.

Invariants: a machine that could not be started is not left defined; a user has at most
`INSTANCES_MAX` machines that are not in the file, and `TASKS_MAX` requests in the making.
Trust: requests come from anybody who can reach the socket; `access` says who they are and may do.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import structlog

from vionet.config import ConfigError, PortConfig
from vionet.config.option import suggest
from vionet.daemon import access
from vionet.daemon.access import Peer
from vionet.daemon.control import Answer, Attached, Reply, Request, RequestError, Requests
from vionet.daemon.makers import Makers
from vionet.site.model import SiteError, VmEntry
from vionet.site.toml_vm import vm_from_table
from vionet.vhost_user.budget import Budget
from vionet.vm.machine import Machine
from vionet.vm.model import VmError

INSTANCES_MAX: Final = 16
LOG_MAX: Final = 1 << 16  # bytes of a console log in one answer
STOP_MAX_S: Final = 600.0
TASKS_MAX: Final = 32  # requests of one user that are being met, whoever still waits for it
_AT_ONCE_S: Final = 0.2
_NAME_MAX: Final = 64  # characters of a name in the log
_REFUSED: Final = (ConfigError, SiteError, VmError, OSError)


class LiveMachine(Protocol):
    """One machine, of the file or not."""

    @property
    def entry(self) -> VmEntry:
        """As the file or `vm.start` says."""

    @property
    def ports(self) -> Sequence[PortConfig]:
        """Its NICs as laid out, in their order."""

    @property
    def machine(self) -> Machine:
        """Itself."""

    @property
    def log(self) -> Path:
        """What its console said."""


class LiveSite(Protocol):
    """What runs (`daemon.site`)."""

    @property
    def name(self) -> str:
        """Of the site."""

    @property
    def machines(self) -> Mapping[str, LiveMachine]:
        """By name."""

    async def define(self, entry: VmEntry, table: Mapping[str, Any], template: str | None) -> None:
        """Have one more machine, not started; raises and leaves nothing behind."""

    async def forget(self, name: str) -> None:
        """Undo that."""

    async def reload(self) -> Mapping[str, Any]:
        """Become what the file says now; what changed."""


class MachineRequests:
    """The machines of a site for whoever asks."""

    def __init__(self, site: LiveSite) -> None:
        self._site = site
        self._defining = asyncio.Lock()
        self._tasks: dict[asyncio.Task[Any], int] = {}  # and for which user
        self._log_of = structlog.get_logger("vionet.daemon").bind(site=site.name)
        self._budget = Budget(30, 1.0)  # log lines

    @property
    def requests(self) -> Requests:
        """For the control socket."""
        asked = {name: self._noted(name, ask) for name, ask in self._changing().items()}
        return {"vm.list": self._list, "vm.log": self._log, **asked}

    def _changing(self) -> Requests:
        return {
            "reload": lambda request, peer: self._whole(peer, self._reload()),
            "vm.start": lambda request, peer: self._whole(peer, self._start(request, peer)),
            "vm.stop": self._stop,
            "vm.pause": self._doing("pause", lambda machine: machine.pause()),
            "vm.unpause": self._doing("unpause", lambda machine: machine.resume()),
            "vm.reset": self._doing("reset", lambda machine: machine.reset()),
            "vm.console": self._console,
        }

    def _noted(self, name: str, ask: Request) -> Request:
        def noted(request: Mapping[str, Any], peer: Peer) -> Reply | Awaitable[Reply]:
            if self._budget.take():
                vm = {"vm": _plain(request["name"])} if "name" in request else {}
                self._log_of.info("asked", request=name, uid=peer.uid, **vm)
            return ask(request, peer)

        return noted

    async def close(self) -> None:
        """Wait for what was begun."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _whole(self, peer: Peer, work: Coroutine[Any, Any, Answer]) -> asyncio.Future[Answer]:
        async def told() -> Answer:
            try:
                return await work
            except SiteError as error:
                raise RequestError(*error.problems) from None
            except asyncio.CancelledError:
                raise RequestError("given up: it was removed meanwhile, or vionet ends") from None
            except _REFUSED as error:
                problem = (isinstance(error, OSError) and error.strerror) or str(error)
                raise RequestError(problem) from None

        if list(self._tasks.values()).count(peer.uid) >= TASKS_MAX:
            work.close()
            raise RequestError(f"{TASKS_MAX} of your requests are still being met; wait for them")
        task = asyncio.get_running_loop().create_task(told())
        self._tasks[task] = peer.uid
        task.add_done_callback(self._done)
        return asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    def _find(self, request: Mapping[str, Any], peer: Peer, verb: str) -> tuple[str, LiveMachine]:
        name = request.get("name")
        if not isinstance(name, str):
            raise RequestError(f'vm.{verb} needs "name":NAME')
        seen = {
            one: live
            for one, live in self._site.machines.items()
            if access.may(peer, live.entry, verb)
        }
        if name not in seen:
            near = f"; {suggest(name, seen)}" if seen else ""
            raise RequestError(f"{name}: no such machine{near}")
        return name, seen[name]

    def _doing(self, verb: str, do: Callable[[Machine], Coroutine[Any, Any, None]]) -> Any:
        async def done(name: str, live: LiveMachine) -> Answer:
            await do(live.machine)
            return {"vm": _document(name, live)}

        def ask(request: Mapping[str, Any], peer: Peer) -> Awaitable[Answer]:
            return self._whole(peer, done(*self._find(request, peer, verb)))

        return ask

    async def _reload(self) -> Answer:
        return {"changes": dict(await self._site.reload())}

    def _list(self, request: Mapping[str, Any], peer: Peer) -> Answer:
        shown = [
            _document(name, live)
            for name, live in sorted(self._site.machines.items())
            if access.may(peer, live.entry, "list")
        ]
        return {"site": self._site.name, "vms": shown}

    async def _start(self, request: Mapping[str, Any], peer: Peer) -> Answer:
        if "machine" in request or "template" in request:
            async with self._defining:
                name = await self._define(request, peer)
            live = self._site.machines[name]
            try:
                await live.machine.start()
            except Exception:
                await self._site.forget(name)
                raise
        else:
            name, live = self._find(request, peer, "start")
            await live.machine.start()
        return {"vm": _document(name, live)}

    async def _define(self, request: Mapping[str, Any], peer: Peer) -> str:
        name, table, template = (request.get(key) for key in ("name", "machine", "template"))
        table = {} if table is None else table
        if not isinstance(name, str) or not isinstance(table, dict):
            raise RequestError('vm.start needs "name":NAME, and "machine":{…} as in the file')
        live = None if template is None else self._template(template, peer)
        base = None if live is None else live.entry
        if name in self._site.machines:
            raise RequestError(f"{name}: that name is taken; choose another")
        if not peer.admin:
            if live is None:
                problem = "only root and the user who runs vionet start machines without a template"
                raise RequestError(f"{name}: {problem}; give one")
            self._judge(name, table, live.entry, peer)
            table = {"owner": str(peer.uid), **table}
        entry = vm_from_table(name, table, base, Path("/"))
        if live is not None and not peer.admin:
            self._hold(name, live.log.parent, peer)
        await self._site.define(entry, table, template)
        if peer.admin:
            Makers(self._site.machines[name].log.parent).take(name, None, self._site.machines)
        return name

    def _hold(self, name: str, folder: Path, peer: Peer) -> None:
        """Have the name be the peer's, or say why not."""
        makers = Makers(folder)
        problem = makers.refusal(name, peer.uid)
        if (
            len([one for one in makers.names(peer.uid) if one in self._site.machines])
            >= INSTANCES_MAX
        ):
            problem = f"you have {INSTANCES_MAX} machines already; stop one first"
        if problem is not None:
            raise RequestError(f"{name}: {problem}")
        makers.take(name, peer.uid, self._site.machines)

    def _template(self, name: object, peer: Peer) -> LiveMachine:
        live = self._site.machines.get(name) if isinstance(name, str) else None
        if live is not None and access.may_make(peer, live.entry):
            return live
        if live is not None and access.may(peer, live.entry, "list"):
            raise RequestError(f"{name}: not a template for you; see `allow instance` in the file")
        raise RequestError(f"{name}: no such machine")

    def _judge(self, name: str, table: Mapping[str, Any], base: VmEntry, peer: Peer) -> None:
        problems = [
            f"{name}: {key}: not for you to choose; see `allow instance` in the file"
            for key in access.not_allowed(base, table)
        ]
        problems += [
            f"{name}: {path}: give the real path of a file that you may read and only root or who"
            " runs vionet may change; disks: with read_only, or a size instead of a path"
            for path in access.foreign_files(peer, table)
        ]
        if problems:
            raise RequestError(*problems)

    async def _stop(self, request: Mapping[str, Any], peer: Peer) -> Answer:
        name, live = self._find(request, peer, "stop")
        force, wait = request.get("force", False), request.get("wait", False)
        timeout = request.get("timeout")
        if not isinstance(force, bool) or not isinstance(wait, bool):
            raise RequestError('vm.stop: "force" and "wait" are true or false')
        if timeout is not None and not (_is_number(timeout) and 0 <= timeout <= STOP_MAX_S):
            raise RequestError(f'vm.stop: "timeout" is 0 to {STOP_MAX_S:.0f} seconds')

        async def stopped() -> Answer:
            await live.machine.stop(force=force, timeout_s=timeout)
            return {"vm": _document(name, live)}

        over = self._whole(peer, stopped())
        if not wait:
            # A refusal comes at once, before anything is waited for.
            await asyncio.wait([over], timeout=_AT_ONCE_S)
            if not over.done():
                return {"vm": _document(name, live)}
        return await over

    def _console(self, request: Mapping[str, Any], peer: Peer) -> Attached:
        name, live = self._find(request, peer, "console")
        if live.machine.pid is None:
            raise RequestError(f"{name}: does not run; start it with `vionet vm start {name}`")

        async def attach(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await live.machine.console.attach(reader, writer)
            except VmError as error:
                writer.write(f"\r\nvionet: {name}: {error}\r\n".encode())

        return Attached(attach)

    def _log(self, request: Mapping[str, Any], peer: Peer) -> Answer:
        """A piece of the console's log; the last one where the request says no place."""
        name, live = self._find(request, peer, "log")
        start = request.get("from")
        if start is not None and not (isinstance(start, int) and 0 <= start < 1 << 63):
            raise RequestError('vm.log: "from" is a number of bytes')
        try:
            with live.log.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                begin = max(0, size - LOG_MAX) if start is None else start
                file.seek(0 if begin > size else begin)  # it was begun anew
                piece = file.read(LOG_MAX)
                end = file.tell()
        except FileNotFoundError:
            piece, end = b"", 0
        except OSError as error:
            raise RequestError(f"{name}: {error.strerror}") from None
        return {"text": piece.decode("latin-1"), "next": end}


def _plain(name: object) -> str:
    """What a client calls a machine, for the log."""
    return "".join(sign if sign.isprintable() else "?" for sign in str(name)[:_NAME_MAX])


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _document(name: str, live: LiveMachine) -> dict[str, Any]:
    machine, entry = live.machine, live.entry
    return {
        "name": name,
        "state": str(machine.state),
        "since": machine.since,
        "pid": machine.pid,
        "memory": entry.vm.memory_len,
        "cpus": entry.vm.cpus,
        "owner": access.owner_text(entry.owner),
        "restarts": machine.restarts,
        "reason": machine.reason,
        "interfaces": [
            {
                "name": port.name,
                "mac": port.mac_text,
                "switch": interface.switch,
                "local": interface.local,
                "addresses": [str(one).removesuffix("/32") for one in port.ip],
            }
            for interface, port in zip(entry.interfaces, live.ports, strict=False)
        ],
    }
