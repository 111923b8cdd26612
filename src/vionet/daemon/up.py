"""A site from its file to its end: `vionet up`.

How it works: the control socket is taken first, so that a second `up` of the same name is refused
before it touches anything; then the engine is loaded, the keeper reached, and the site becomes what
the file says (`daemon.site`).  SIGTERM and SIGINT end it with all its machines; SIGHUP reads the
file again; SIGUSR2 ends it and leaves the machines to a successor, which finds them at the keeper.

Invariants: what was made is undone in reverse order, also when a later step fails; but machines
that a predecessor had left are not ended by a successor that fails.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from vionet.daemon import access, notify, place
from vionet.daemon.control import Control, RequestError
from vionet.daemon.endpoint import Address, AnyListener, listening
from vionet.daemon.foreground import Ending, RunError, foreground
from vionet.daemon.kept import KeptTaps
from vionet.daemon.machines import MachineRequests
from vionet.daemon.notify import Notify
from vionet.daemon.requests import fabric_requests
from vionet.daemon.scrape import Scrapes
from vionet.daemon.site import REFUSED, LayOut, LiveSite
from vionet.daemon.status import status_document
from vionet.ports.tap import permitted
from vionet.services import resolver
from vionet.site import across
from vionet.site.layout import Host, Layout, SitePlaces, lay_out
from vionet.site.model import Site, SiteError, Uplink
from vionet.site.slots import FILE, SlotsError, kept_slots, read_slots
from vionet.vhost_user.listener import Listener
from vionet.vm.keeping import Keeper
from vionet.vm.passt import PasstError, passt_user, socket_folder

LINGER_S: Final = 20.0  # how long machines wait for a successor of a vionet that died


def folders(name: str) -> SitePlaces:
    """Where the files of a site are; they need not exist yet."""
    state = os.environ.get("XDG_STATE_HOME")
    if state:
        folder = Path(state) / "vionet"
    elif os.geteuid() == 0:
        folder = Path("/var/lib/vionet")
    else:
        folder = Path.home() / ".local/state/vionet"
    return SitePlaces(runtime=place.runtime_folder() / name, state=folder / name)


def lay_out_here(places: SitePlaces, *, keep: bool = True) -> LayOut:
    """How a site is laid out on this host; the numbers of its local interfaces are written down
    if they are to be kept."""

    def laid_out(site: Site, namespace: str | None) -> Layout:
        names, room = across.local_names(site), across.local_room(site.local)
        try:
            if keep:
                slots = kept_slots(places.state, names, room)
            else:
                slots = read_slots(places.state / FILE).with_names(names, room)
            with_passt = any(
                one.local and (one.uplink or site.local.uplink) is Uplink.PASST
                for entry in site.vms
                for one in entry.interfaces
            )
            own = replace(places, passt=_passt_folder(site.name)) if with_passt and keep else places
        except (PasstError, SlotsError) as error:
            raise SiteError([str(error)]) from None
        found = resolver.read()
        host = Host(
            taps=permitted(),
            resolvers=(*found.resolvers, *found.resolvers6),
            domains=found.domains,
            namespace=namespace,
        )
        return lay_out(site, own, slots, host)

    return laid_out


def _passt_folder(name: str) -> Path:
    return socket_folder(name, passt_user())


def run_site(
    file: Path,
    site: Site,
    *,
    control: Path | None,
    metrics: Address | None,
    loading: Callable[[], AbstractContextManager[None]],
    ready: Callable[[], None],
) -> None:
    """Run what `file` describes, which was read into `site`, until a signal.

    `loading` surrounds the import of the engine; `ready` is called when all is set up.
    """
    systemd, inherited = Notify.from_environment(), notify.inherited()
    early: list[None] = []  # wishes to read the file again, before there is anybody to do it
    with foreground({signal.SIGHUP: lambda: early.append(None), signal.SIGUSR2: _leave_early}):
        try:
            with ExitStack() as stack:
                places = folders(site.name)
                for folder in (places.runtime, places.state):
                    _make(folder.parent)
                    _make(folder)
                path = control or places.runtime.with_name(f"{site.name}{place.SUFFIX}")
                listener = place.listen_at(path, 0o600)
                stack.callback(listener.close)
                scraped = stack.enter_context(listening(metrics))
                with loading():
                    import vionet.fabric  # noqa: F401 - and with it the engine
                serving = _serve(
                    file, site, places, listener, scraped, systemd, inherited, early, ready
                )
                asyncio.run(serving)
        except REFUSED as error:
            raise RunError((isinstance(error, OSError) and error.strerror) or str(error)) from error


def _leave_early() -> None:
    raise SystemExit(0)  # what a predecessor left is still with the keeper


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        problem = f"cannot be made: {error.strerror}; set XDG_RUNTIME_DIR and XDG_STATE_HOME"
        raise RunError(f"{folder}: {problem}") from None


def _open_to_owners(control: Path, shared: bool) -> None:
    """Who owns a machine must reach the socket, and may do what `access` says; nobody else."""
    control.chmod(0o666 if shared else 0o600)
    if shared and control.parent == place.runtime_folder():
        control.parent.chmod(0o755)  # what else is in it has modes of its own


class _Reloads:
    """What SIGHUP asks for, from when the site is open."""

    def __init__(self, live: LiveSite, systemd: Notify) -> None:
        self._live, self._systemd = live, systemd
        self._log = structlog.get_logger("vionet.daemon").bind(site=live.name)
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        """Have one more."""
        self._tasks.add(task := asyncio.get_running_loop().create_task(self._reload()))
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Have no more."""
        for task in self._tasks:
            task.cancel()

    async def _reload(self) -> None:
        self._systemd.reloading()
        try:
            self._log.info("reloaded", **await self._live.reload())
        except RequestError as error:
            self._log.error("not reloaded", reason=str(error))
        finally:
            self._systemd.ready()


def _status(live: LiveSite) -> Any:
    return status_document([(one.running.config, one.plugs) for one in live.lives.values()])


def _leave(left: asyncio.Event, ending: Ending) -> None:
    left.set()
    ending.end()


async def _serve(
    file: Path,
    site: Site,
    places: SitePlaces,
    listener: Listener,
    scraped: AnyListener | None,
    systemd: Notify,
    inherited: dict[str, int],
    early: list[None],
    ready: Callable[[], None],
) -> None:
    log = structlog.get_logger("vionet.daemon").bind(site=site.name)
    left = asyncio.Event()  # to a successor, because of SIGUSR2

    async with Ending(site.name) as ending, AsyncExitStack() as stack:
        ending.hear(signal.SIGUSR2, partial(_leave, left, ending))
        keeper = await Keeper.reach(places.runtime, LINGER_S)
        found = bool(keeper.children)  # and until all is open not ours to end
        keeper.on_lost = lambda: ending.die("the keeper died, and all machines with it")
        live = await _live(file, places, listener, systemd, keeper, inherited)
        reloads, machines = _Reloads(live, systemd), MachineRequests(live)
        stack.push_async_callback(machines.close)  # what was begun ends with the machines
        stack.push_async_callback(lambda: live.close(leave=found or left.is_set()))
        stack.callback(reloads.close)
        if not await _opens(live.open(site), ending, whole=found):
            log.info("ending", fate="before all were started")
            return
        fabrics = fabric_requests(lambda: live.lives, live.switches)
        control = Control(listener, {**fabrics, **machines.requests})
        stack.push_async_callback(control.close)
        await control.open()
        if scraped:
            await stack.enter_async_context(Scrapes(scraped, partial(_status, live)))
        systemd.watchdog(lambda: all(one.alive for one in live.lives.values()))
        stack.callback(systemd.close)
        log.info("ready", machines=len(live.machines), control=str(listener.path))
        systemd.ready()
        ready()
        found = False
        ending.hear(signal.SIGHUP, reloads.begin)
        for _ in early[:1]:
            reloads.begin()
        await ending.wait()
        systemd.stopping()
        log.info("ending", fate="left to a successor" if left.is_set() else "stopped")


async def _live(
    file: Path,
    places: SitePlaces,
    listener: Listener,
    systemd: Notify,
    keeper: Keeper,
    inherited: dict[str, int],
) -> LiveSite:
    """The site before it is open, with the taps that a predecessor left."""
    descriptors = await keeper.take()
    for name, fd in inherited.items():
        if name in descriptors:
            os.close(fd)  # a second one of the same tap would keep it alive
        else:
            descriptors[name] = fd
    taps = KeptTaps(places.runtime / "taps.json", keeper, systemd, descriptors)

    def became(site: Site) -> None:
        _open_to_owners(listener.path, access.open_to_others(site.vms))

    return LiveSite(file, places, lay_out_here(places), keeper, taps, became)


async def _opens(opening: Coroutine[Any, Any, None], ending: Ending, *, whole: bool) -> bool:
    """Whether it is open before it is told to end; `whole`: to its end all the same."""
    loop = asyncio.get_running_loop()
    task, ended = loop.create_task(opening), loop.create_task(ending.wait())
    try:
        waited = (task,) if whole else (task, ended)
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return task.done()
    finally:
        task.cancel()
        ended.cancel()
        await asyncio.gather(task, ended, return_exceptions=True)
