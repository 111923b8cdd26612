"""The life of one machine: QEMU started, watched, stopped, and started again.

How it works: QEMU is a child of the keeper, and its monitor is connected to as soon as it listens.
From then on a task waits for the end of both.  What QEMU says of itself in between (STOP, RESUME,
SHUTDOWN, GUEST_PANICKED …) moves `state`; why QEMU ended is judged from that and its exit status.
After an end that nobody asked for, `Restart` decides whether it is started again, later and later
as long as it does not stay up.  A vionet that comes after another `adopt`s what the keeper still
has; one that goes and leaves guests to the next one calls `leave`.

States: stopped → starting → running ⇄ paused; any of them → stopping → stopped on request;
→ stopped by itself, or crashed.  Requests that do not fit are refused in one line (`MachineError`)
and change nothing.  A stop while it starts, or while it waits to be started again, ends that.

Invariants: every wait for QEMU is bounded; one that does not answer is killed.  While there is a
child, `pid` is set, and in `stopped` and `crashed` there is none.

Trust: the guest decides when it ends and how often it resets, and may have taken QEMU over: log
lines are bounded in rate, texts from QEMU in length.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

import structlog

from vionet.vhost_user.budget import Budget
from vionet.vm.console import Console
from vionet.vm.keeping import Keeper, KeeperError
from vionet.vm.model import Restart, Vm, VmError, VmPlaces
from vionet.vm.monitor import Monitor, MonitorError
from vionet.vm.run import HEARD, Run

START_S: Final = 60.0  # until the monitor answers; with NICs vionet has to accept them first
AGAIN_S: Final = 5.0  # the button is pressed again: early in its boot a guest does not notice
QUIT_S: Final = 5.0  # from `quit` to SIGKILL
KILL_S: Final = 10.0
LOST_S: Final = 5.0  # QEMU without a monitor is about to end, or else
STAYS_S: Final = 60.0  # a machine that ran so long is started again soon
BACKOFF_S: Final = 1.0  # doubled up to the maximum
BACKOFF_MAX_S: Final = 60.0
LINES_BURST: Final = 30  # log lines at once, of states and of what the guest does
LINES_PER_SECOND: Final = 1.0

Command = Callable[[], Awaitable[Sequence[str]]]


class State(StrEnum):
    """What a machine is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    CRASHED = "crashed"


_ENDED: Final = (State.STOPPED, State.CRASHED)
_EVENTS: Final = {
    State.STOPPED: "machine stopped",
    State.STARTING: "machine starting",
    State.RUNNING: "machine running",
    State.PAUSED: "machine paused",
    State.STOPPING: "machine stopping",
    State.CRASHED: "machine crashed",
}
_MEND: Final = {
    **dict.fromkeys(_ENDED, "start it first"),
    State.STARTING: "wait until it runs",
    State.RUNNING: "pause it first",
    State.PAUSED: "unpause it first",
    State.STOPPING: "wait until it has stopped",
}


class MachineError(VmError):
    """A request that does not fit the machine's state, or that QEMU does not meet: one line."""


class Machine:
    """One machine, on the running loop."""

    def __init__(
        self,
        vm: Vm,
        places: VmPlaces,
        keeper: Keeper,
        command: Command,
        *,
        told: Callable[["Machine"], None] = lambda machine: None,
        start_s: float = START_S,
        backoff_s: float = BACKOFF_S,
    ) -> None:
        """`command` prepares what QEMU needs and says how it is started, or raises `VmError`;
        `told` hears of every new state."""
        self.vm, self.places, self.keeper = vm, places, keeper
        self.state = State.STOPPED
        self.since = time.time()
        self.reason: str | None = None  # why it is in that state
        self.pid: int | None = None
        self.restarts = 0
        self.console = Console(places.console, places.log, vm.name)
        self._command, self._told, self._start_s = command, told, start_s
        self._backoff_s = self._delay_s = backoff_s
        self._log = structlog.get_logger("vionet.vm").bind(vm=vm.name)
        self._lines, self._guest_lines = (Budget(LINES_BURST, LINES_PER_SECOND) for _ in range(2))
        self._run = Run(places.stderr, attended=True)
        self._monitor: Monitor | None = None
        self._again: asyncio.TimerHandle | None = None  # when it is started again
        self._stopping: asyncio.Task[None] | None = None
        self._left = False  # somebody else's from now on
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def restart_due(self) -> bool:
        """Whether it has ended and will be started again by itself."""
        return self._again is not None

    @property
    def over(self) -> bool:
        """Whether it has ended and nothing starts it again but a request."""
        return self.state in _ENDED and self._again is None

    # What people ask for.

    async def start(self) -> None:
        """Start it; returns when it runs, raises when it does not."""
        if self.state not in _ENDED:
            raise self._unfit("started", "stop it first")
        if self._left:
            raise MachineError(f"{self.vm.name}: is being replaced or removed; try again")
        self._forget_restart()
        self._delay_s = self._backoff_s
        await asyncio.shield(self._begin(attended=True))

    async def stop(self, *, force: bool = False, timeout_s: float | None = None) -> None:
        """Ask the guest to stop, and stop it by force after `timeout_s`; returns when it has."""
        if self.state in _ENDED:
            if not self.restart_due:
                raise self._unfit("stopped")
            self._forget_restart()
            self._to(State.STOPPED, self.reason)
            return
        if force or self.state is State.STARTING:
            self._run.hurry.set()
        if self.state is not State.STOPPING or self._stopping is None:
            wait_s = self.vm.stop_timeout_s if timeout_s is None else timeout_s
            self._run.asked = True
            self._to(State.STOPPING)
            self._stopping = self._whole(self._wind_down(wait_s))
        await asyncio.shield(self._stopping)

    async def pause(self) -> None:
        """Stop its processors."""
        await self._have("stop", "paused", State.RUNNING)

    async def resume(self) -> None:
        """Let its processors go on."""
        await self._have("cont", "unpaused", State.PAUSED)

    async def reset(self) -> None:
        """Press the reset button."""
        await self._have("system_reset", "reset", State.RUNNING, State.PAUSED)

    async def adopt(self) -> bool:
        """Go on with what a vionet before this one left: whether there is a QEMU that runs.

        One that ended meanwhile is judged like others, and started again where `Restart` says so.
        """
        assert self.state in _ENDED and not self.restart_due
        name = self.vm.name
        if name not in self.keeper.children and name not in self.keeper.gone:
            return False
        self._run = Run(self.places.stderr, attended=False, adopted=True)
        if name in self.keeper.gone:
            self._end(*self._run.verdict(self.keeper.gone.pop(name)))
            return False
        child = self.keeper.children[name]
        self._to(State.STARTING, "adopted")
        with contextlib.suppress(MachineError):
            await asyncio.shield(self._whole(self._join(child.pid)))
            self.since = child.started
        return self.pid is not None

    async def leave(self) -> None:
        """Let go of it as it is; a running guest is the next vionet's to adopt."""
        self._left = True
        self._forget_restart()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._part()
        await self.console.close()

    async def close(self) -> None:
        """Stop it by force where it still runs, and let go of it."""
        with contextlib.suppress(MachineError):
            await self.stop(force=True)
        await self.leave()

    # How that is done.

    def _whole(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do something to its end, whatever becomes of who asked, who shields it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, MachineError):
            self._log.error("a machine's task failed", exc_info=error)

    def _unfit(self, what: str, mend: str = "") -> MachineError:
        if not mend or self.state is State.STOPPING:
            mend = _MEND[self.state]
        return MachineError(f"{self.vm.name}: cannot be {what}: it is {self.state}; {mend}")

    def _to(self, state: State, reason: str | None = None, **fields: Any) -> None:
        self.state, self.reason, self.since = state, reason, time.time()
        if self._lines.take():
            fields |= {"reason": reason} if reason else {}
            level = self._log.warning if state is State.CRASHED else self._log.info
            level(_EVENTS[state], **fields)
        self._told(self)

    async def _have(self, command: str, what: str, *wanted: State) -> None:
        if self.state not in wanted or self._monitor is None:
            raise self._unfit(what)
        try:
            await self._monitor.execute(command)
        except MonitorError as error:
            raise MachineError(f"{self.vm.name}: cannot be {what}: {error}") from None

    def _begin(self, *, attended: bool) -> asyncio.Task[None]:
        self._run = Run(self.places.stderr, attended=attended)
        self._to(State.STARTING)
        return self._whole(self._launch())

    async def _launch(self) -> None:
        """Start QEMU and wait until its monitor answers."""
        try:
            argv = await self._command()
            if self._run.asked:
                raise VmError(f"{self.vm.name}: stopped while it was started")
            pid = await self.keeper.spawn(self.vm.name, argv, self.places.stderr)
        except Exception as error:
            self._end(str(error), failed=True)
            if not isinstance(error, OSError | VmError | KeeperError):
                raise
            raise MachineError(str(error)) from None
        await self._join(pid)

    async def _join(self, pid: int) -> None:
        """Connect to the monitor of a QEMU that runs, and watch both from now on."""
        self.pid = pid
        if self._run.asked:  # while it was spawned
            await self._kill()
        loop = asyncio.get_running_loop()
        ended = loop.create_task(self.keeper.ended(self.vm.name))
        connecting = loop.create_task(self._connect())
        try:
            await asyncio.wait((ended, connecting), return_when=asyncio.FIRST_COMPLETED)
            if connecting.done() and connecting.exception() is None:
                self._whole(self._watch())
                return
            await asyncio.wait((ended,), timeout=LOST_S)  # it is about to end, or else
            if not ended.done():
                self._run.trouble = str(connecting.exception())
                await self._kill()
            status = await ended
        finally:
            ended.cancel()
            connecting.cancel()
            await asyncio.gather(ended, connecting, return_exceptions=True)
        self._end(*self._run.verdict(status))
        raise MachineError(f"{self.vm.name}: did not start: {self.reason}")

    async def _connect(self) -> None:
        monitor = await Monitor.connect(self.places.monitor, self._hear, self._start_s)
        try:
            running = (await monitor.execute("query-status")).get("running") is True
        except BaseException:
            await monitor.close()
            raise
        self._monitor, self._run.attended = monitor, False
        self.console.look()
        if self._run.going is not None:  # events may be faster than who waits for the answer
            running = self._run.going
        if not self._run.asked:
            self._to(State.RUNNING if running else State.PAUSED)
        if self._run.hung:
            self._whole(self._try("quit"))

    async def _watch(self) -> None:
        """Until QEMU has ended."""
        assert self._monitor is not None
        loop = asyncio.get_running_loop()
        ended = loop.create_task(self.keeper.ended(self.vm.name))
        gone = loop.create_task(self._monitor.gone())
        try:
            await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait((ended,), timeout=LOST_S)
            if not ended.done():
                self._run.trouble = "it closed its monitor"
                await self._kill()
            status = await ended
            await asyncio.wait((gone,), timeout=1.0)  # its last words
        finally:
            gone.cancel()
            ended.cancel()
        await self._part()
        self._end(*self._run.verdict(status))

    async def _part(self) -> None:
        monitor, self._monitor = self._monitor, None
        if monitor is not None:
            await monitor.close()

    def _end(self, reason: str, failed: bool) -> None:
        """QEMU has ended; what now."""
        run, self.pid = self._run, None
        wanted = {Restart.NEVER: False, Restart.ON_FAILURE: failed, Restart.ALWAYS: True}
        fields = {}
        if wanted[self.vm.restart] and not run.asked and not run.attended:
            self._delay_s = self._backoff_s if run.lasted_s >= STAYS_S else self._delay_s
            self._again = asyncio.get_running_loop().call_later(self._delay_s, self._restart)
            fields["again_in_s"] = self._delay_s
            self._delay_s = min(2 * self._delay_s, BACKOFF_MAX_S)
        run.over.set()
        run.hurry.set()
        self._stopping = None
        self._to(State.CRASHED if failed and not run.asked else State.STOPPED, reason, **fields)

    def _restart(self) -> None:
        self._again = None
        self.restarts += 1
        self._begin(attended=False)

    def _forget_restart(self) -> None:
        if self._again is not None:
            self._again.cancel()
            self._again = None

    async def _wind_down(self, wait_s: float) -> None:
        """From asking the guest to SIGKILL, until it is over."""
        run, deadline = self._run, time.monotonic() + wait_s
        while not run.hurry.is_set() and (left := deadline - time.monotonic()) > 0:
            press = self._try("cont", "system_powerdown")  # a paused guest does not notice
            await _within(min(left, AGAIN_S), press, run.hurry)
        if not run.over.is_set() and self._monitor is not None:
            await _within(QUIT_S, self._try("quit"), run.over)
        if not run.over.is_set():
            await _within(KILL_S, self._kill(), run.over)
        if not run.over.is_set():
            self._stopping = None  # may be tried again
            raise MachineError(f"{self.vm.name}: does not end (process {self.pid}); try again")

    async def _try(self, *commands: str) -> None:
        with contextlib.suppress(MonitorError):
            for command in commands:
                if self._monitor is not None:
                    await self._monitor.execute(command)

    async def _kill(self) -> None:
        with contextlib.suppress(KeeperError):
            await self.keeper.signal(self.vm.name, signal.SIGKILL)

    def _hear(self, event: str, data: Mapping[str, Any]) -> None:
        """An event of QEMU's."""
        fields = self._run.hear(event, data)
        match event:
            case "STOP" if self.state is State.RUNNING:
                self._to(State.PAUSED, self._run.trouble)
            case "RESUME" if self.state is State.PAUSED:
                self._to(State.RUNNING)
            case "STOP" | "RESUME" if self._monitor is None:
                self._run.going = event == "RESUME"
            case "GUEST_PANICKED" if data.get("action") == "pause" and not self._run.hung:
                self._run.hung = True  # told once, whatever QEMU says again and again
                if self._monitor is not None:
                    self._whole(self._try("quit"))
        if fields is not None and self._guest_lines.take():
            self._log.info(HEARD[event], **fields)


async def _within(wait_s: float, work: Coroutine[Any, Any, None], event: asyncio.Event) -> None:
    """Do it and wait for the event, but no longer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(wait_s):
            await work
            await event.wait()
