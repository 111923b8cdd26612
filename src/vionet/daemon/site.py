"""A site as it runs: fabrics, machines, passts, and how they become what a changed file says.

How it works: the file is read into a `Site`, and `lay_out` makes of it what is to run (sockets,
taps, addresses filled in).  `_become` goes from what runs to that: machines that are gone or
differ are stopped first, then fabrics follow (`Running.follow`) or come and go, then machines come.
What is the same in both is not touched.  Processes belong to the keeper, which also holds a
duplicate of every tap that was made: a successor of this process takes both over.

Invariants: one change at a time, each to its end; what the host refuses is told at the end, and the
rest of the change is made all the same.  After `close` nothing is left but what was to be left.
Trust: the file and what is asked over the control socket are judged before they come here; guests
see nothing of this.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from vionet.config import FabricConfig, PortConfig
from vionet.daemon.child import Supervised, end_child
from vionet.daemon.control import RequestError
from vionet.daemon.defined import Defined
from vionet.daemon.kept import KeptTaps
from vionet.daemon.live import FabricError, Live
from vionet.daemon.own_namespace import NAMESPACE, OwnNamespace
from vionet.daemon.running import OPENING
from vionet.site import across
from vionet.site.layout import Layout, MachineLayout, SitePlaces
from vionet.site.model import Site, SiteError, VmEntry
from vionet.site.source import read_site
from vionet.vm.command import qemu_command
from vionet.vm.host import find
from vionet.vm.image import prepare
from vionet.vm.keeping import Keeper, KeeperError
from vionet.vm.machine import Machine, MachineError
from vionet.vm.model import VmError
from vionet.vm.passt import PasstError, find_passt, passt_command, passt_user

REFUSED: Final = (*OPENING, FabricError, KeeperError, PasstError, RequestError, VmError)
HOLDER_PAUSE_S: Final = 1.0
PASST: Final = ":passt."  # and the interface: a child of the keeper's; machines' have no colon
LayOut = Callable[[Site, str | None], Layout]


class Change(NamedTuple):
    """What was done, what the host refused, which machines did not start."""

    done: dict[str, list[str]]
    refused: list[str]
    failed: list[str]


@dataclass
class LiveMachine:
    """One machine, of the file or not."""

    entry: VmEntry
    layout: MachineLayout
    ports: Sequence[PortConfig]  # its NICs as laid out, in their order
    machine: Machine

    @property
    def log(self) -> Path:
        """What its console said."""
        return self.layout.places.log


class LiveSite:
    """Everything that one file describes, on the running loop."""

    def __init__(
        self,
        file: Path,
        places: SitePlaces,
        lay_out: LayOut,
        keeper: Keeper,
        taps: KeptTaps,
        became: Callable[[Site], None] = lambda site: None,
    ) -> None:
        """Nothing runs yet but what a predecessor left with the `keeper`.

        `lay_out` takes a site and the path of the namespace that is held for it, if one is;
        `became` hears of every site that this one becomes.
        """
        self.name = places.runtime.name
        self.lives: dict[str, Live] = {}
        self.machines: dict[str, LiveMachine] = {}
        self._file, self._places, self._lay_out = file, places, lay_out
        self._keeper, self._taps, self._became = keeper, taps, became
        self._site = Site(name=self.name)
        self._programs: dict[str, Supervised] = {}  # by their names at the keeper
        log = places.runtime / "namespace.log"
        self._namespace = OwnNamespace(keeper, log, self._make_namespace_anew)
        self._folders = {places.runtime}  # that are removed in the end
        self._ports: dict[str, PortConfig] = {}
        self._turn = asyncio.Lock()
        self._closed = False
        self._defined = Defined(places.runtime / "defined.json")
        self._tasks: set[asyncio.Task[None]] = set()
        self._log = structlog.get_logger("vionet.daemon").bind(site=self.name)

    def switches(self) -> list[str]:
        """The names of the fabrics that ports may be added to without saying which."""
        return [switch.fabric.name for switch in self._site.switches]

    async def open(self, site: Site) -> None:
        """Become `site` for the first time; an error of `REFUSED` says what the host refuses.

        Machines that cannot be started are logged, and may be started later.
        """
        async with self._turn:
            change = await self._become(site, whole=True)
        for problem in change.failed:
            self._log.error("machine not started", reason=problem)

    async def reload(self) -> dict[str, list[str]]:
        """Become what the file says now; a `RequestError` has every mistake, or what was refused
        while everything else was changed."""
        try:
            site = await asyncio.to_thread(read_site, self._file)
        except SiteError as error:
            raise RequestError(*error.problems, "nothing changed") from None
        except OSError as error:
            raise RequestError(f"{self._file}: {error.strerror}; nothing changed") from None
        if site.name != self.name:
            raise RequestError(f"{self._file}: the site is {self.name}; restart to rename it")
        for warning in site.warnings:
            self._log.warning("file warning", warning=warning)
        async with self._turn:
            change = await self._change_to(site)
        if change.refused or change.failed:
            raise RequestError(*change.refused, *change.failed, "all else was changed")
        return change.done

    async def define(self, entry: VmEntry, table: Mapping[str, Any], template: str | None) -> None:
        """Have one more machine, not started; raises and leaves nothing behind."""
        name = entry.vm.name
        async with self._turn:
            if self._closed:
                raise RequestError(f"{name}: vionet ends")
            others = (*self._site.vms, *self._defined.entries(self._site))
            faults = [*across.faults(replace(self._site, vms=(*others, entry)))]
            if faults:
                raise RequestError(*(f"{name}: {problem}" for _, problem in faults))
            try:
                self._defined.add(name, table, template)
                change = await self._change_to(self._site)
                if change.refused:
                    raise RequestError(*change.refused)
            except (OSError, RequestError):
                with suppress(RequestError):
                    await self._forget(name)
                raise

    async def forget(self, name: str) -> None:
        """Undo that, unless it runs: somebody else has started it."""
        async with self._turn:
            live = self.machines.get(name)
            unused = not self._closed and (live is None or live.machine.over)
            if name in self._defined and unused:
                await self._forget(name)

    async def _forget(self, name: str) -> None:
        self._defined.forget(name)
        await self._change_to(self._site)

    async def close(self, *, leave: bool) -> None:
        """End everything, or `leave` machines and programs to a successor."""
        self._namespace.leave()
        for task in self._tasks:
            task.cancel()
        async with self._turn:
            self._closed = True
            if leave:
                for live in self.machines.values():
                    await live.machine.leave()
                for program in self._programs.values():
                    program.leave()
            else:
                await self._each(self._end_machine(live) for live in self.machines.values())
            for fabric in reversed(list(self.lives.values())):
                await fabric.close()
            self._taps.close()
            if leave:
                self._keeper.leave()
            else:
                for program in self._programs.values():
                    program.leave()
                await self._keeper.end()
                # Sockets are gone with who listened, and nothing here is for another life.
                for folder in self._folders:
                    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _change_to(self, site: Site) -> Change:
        """`_become` where whoever asked is told what prevents it."""
        if self._closed:
            raise RequestError("vionet ends; nothing changed")
        try:
            return await self._become(site)
        except SiteError as error:  # before anything was touched
            raise RequestError(*error.problems, "nothing changed") from None
        except REFUSED as error:
            problem = (isinstance(error, OSError) and error.strerror) or str(error)
            raise RequestError(problem) from None

    async def _become(self, site: Site, *, whole: bool = False) -> Change:
        """Go from what runs to `site`; of a `whole` that is refused in part no machine begins."""
        everything = replace(site, vms=(*site.vms, *self._defined.entries(site)))
        layout = await self._laid_out(everything)
        wanted = {one.vm.name: one for one in layout.machines}
        gone = {
            name: live
            for name, live in self.machines.items()
            if name not in wanted or wanted[name].vm != live.layout.vm
        }
        ran = {name for name, live in gone.items() if live.machine.pid is not None}
        await self._each(self._end_machine(live) for live in gone.values())
        for name in gone:
            del self.machines[name]
        await self._end_strangers(layout)
        before = self._plugged()
        refused = await self._follow(layout)
        if refused and whole:
            raise RequestError(*refused)
        after = self._plugged()
        self._site = site
        self._became(everything)
        self._ports = {port.name: port for config in layout.fabrics for port in config.ports}
        kept = sorted(self.machines.items())
        changed = [name for name, live in kept if live.entry != wanted[name].entry]
        for name, live in kept:
            self._live_machine(wanted[name], live.machine)
        fresh = [one for name, one in wanted.items() if name not in self.machines]
        failed = await self._each(self._begin(one, again=one.vm.name in ran) for one in fresh)
        done = {
            "stopped": sorted(gone.keys() - wanted.keys()),
            "restarted": sorted(gone.keys() & wanted.keys()),
            "new": sorted(one.vm.name for one in fresh if one.vm.name not in gone),
            "changed": changed,
            "ports_gone": sorted(before.keys() - after.keys()),
            "ports_new": sorted(after.keys() - before.keys()),
            "ports_changed": sorted(
                name for name in before if after.get(name, before[name]) != before[name]
            ),
        }
        return Change(done, refused, failed)

    def _plugged(self) -> dict[str, tuple[Live, PortConfig]]:
        """The ports by name, and in which fabric."""
        lives = self.lives.values()
        return {port.name: (live, port) for live in lives for port in live.running.config.ports}

    async def _laid_out(self, site: Site) -> Layout:
        layout, forward = self._lay_out(site, self._namespace.path), not site.local.isolated
        if layout.wants_namespace and not self._namespace.fits(forward=forward):
            await self._namespace.have(forward=forward)
            layout = self._lay_out(site, self._namespace.path)
        return layout

    async def _make_namespace_anew(self) -> None:
        await asyncio.sleep(HOLDER_PAUSE_S)
        async with self._turn:
            try:
                change = await self._change_to(self._site)
                problems = (*change.refused, *change.failed)
            except RequestError as error:
                problems = (str(error), "reload to try again")
        for problem in problems:
            self._log.error("not made anew", reason=problem)

    def _begin_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_strangers(self, layout: Layout) -> None:
        """What a predecessor left and nobody wants any more."""
        wanted = {one.vm.name for one in layout.machines}
        wanted |= {f"{PASST}{one.name}" for one in layout.passts} | self._programs.keys()
        if self._namespace.path is not None:
            wanted.add(NAMESPACE)
        for name in self._keeper.children.keys() - wanted:
            self._log.warning("program ended, nobody wants it any more", program=name)
            await end_child(self._keeper, name)

    async def _follow(self, layout: Layout) -> list[str]:
        """Have fabrics and passts as laid out.  *returns* what was refused."""
        passts = {f"{PASST}{one.name}": one for one in layout.passts}
        self._folders.update(one.socket.parent for one in layout.passts)
        commands = {
            name: passt_command(one.lease, one.socket, user=passt_user(), program=find_passt())
            for name, one in passts.items()
        }
        for name, program in list(self._programs.items()):
            if name.startswith(PASST) and program.argv != commands.get(name):
                await self._programs.pop(name).stop()
        fabrics = {config.name: config for config in layout.fabrics}
        await self._taps.release(port for config in layout.fabrics for port in config.ports)
        for name, live in list(self.lives.items()):
            if not _can_follow(live.running.config, fabrics.get(name)):
                await self.lives.pop(name).close()
        refused = await self._each(
            self._start_passt(name, command)
            for name, command in commands.items()
            if name not in self._programs
        )
        refused += await self._each(self._have(config) for config in layout.fabrics)
        taps = {
            name: (port, live.plugs.taps[name])
            for live in self.lives.values()
            for port in live.running.config.ports
            if (name := port.name) in live.plugs.taps
        }
        await self._taps.keep(taps)
        return refused

    async def _start_passt(self, name: str, command: list[str]) -> None:
        log = self._places.runtime / f"{name.removeprefix(PASST)}.passt.log"
        program = Supervised(self._keeper, name, command, log)
        await program.start()
        self._programs[name] = program

    async def _have(self, config: FabricConfig) -> None:
        """Have one fabric run as `config` says."""
        if config.name not in self.lives:
            live = Live(
                replace(config, ports=()),
                self._places.runtime / f"{config.name}.rings",
                self._taps.open_port,
            )
            await live.open({})
            self.lives[config.name] = live
        await self.lives[config.name].running.follow(config)

    async def _begin(self, one: MachineLayout, *, again: bool) -> None:
        """Have one machine: found running, or started if the file says so or it ran before."""
        name = one.vm.name

        async def command() -> list[str]:
            host = await asyncio.to_thread(find, one.vm)
            prepared = await prepare(one.vm, one.places)
            for note in (host.note, *prepared.notes):
                if note and name not in self._keeper.children:
                    self._log.info("machine prepared", vm=name, note=note)
            return qemu_command(prepared.vm, one.places, host)

        machine = Machine(one.vm, one.places, self._keeper, command, told=self._told)
        self._live_machine(one, machine)
        child = self._keeper.children.get(name)
        if child is not None and list(child.argv) != await command():
            self._log.warning("machine ended, it is not as the file has it", vm=name)
            await end_child(self._keeper, name)
            again = True
        wanted = again or (one.entry.enabled and name not in self._defined)
        if not await machine.adopt() and machine.over and wanted:
            await machine.start()

    def _live_machine(self, one: MachineLayout, machine: Machine) -> None:
        ports = [self._ports[interface.port.name] for interface in one.entry.interfaces]
        self.machines[one.vm.name] = LiveMachine(one.entry, one, ports, machine)

    async def _end_machine(self, live: LiveMachine) -> None:
        machine = live.machine
        with suppress(MachineError, TimeoutError):  # a stop that was asked for may take longer
            async with asyncio.timeout(machine.vm.stop_timeout_s):
                await machine.stop()
        await machine.close()

    def _told(self, machine: Machine) -> None:
        """A machine without a file that has ended for good is gone, as vmd has it."""
        if machine.vm.name in self._defined:
            self._begin_task(self._forget_ended(machine))

    async def _forget_ended(self, machine: Machine) -> None:
        if machine.over and machine.reason is not None:
            with suppress(RequestError):  # so it is still there, and shown as it is
                await self.forget(machine.vm.name)

    async def _each(self, works: Iterable[Awaitable[None]]) -> list[str]:
        """Do all at once, each to its end.  *returns* what was refused."""
        ends = await asyncio.gather(*works, return_exceptions=True)
        refused = []
        for end in ends:
            if isinstance(end, REFUSED):
                refused.append((isinstance(end, OSError) and end.strerror) or str(end))
            elif end is not None:
                raise end
        return refused


def _can_follow(before: FabricConfig, after: FabricConfig | None) -> bool:
    """Whether a fabric that runs can become another one without being made anew."""
    same = ("kind", "workers", "cores")
    return after is not None and all(getattr(before, k) == getattr(after, k) for k in same)
