"""A process in the foreground: what ends it, and what it may not run out of.

How it works: until there is a loop, SIGTERM and SIGINT leave by way of all that has to be undone.
On the loop, `Ending` waits for one of them; a second one kills as usual.  A thread that dies of an
error ends everything with status 1 instead of leaving it half alive.
"""

import asyncio
import resource
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Final, Self

ENDING: Final = (signal.SIGTERM, signal.SIGINT)


class RunError(Exception):
    """Why a fabric or a site cannot run, and how to mend it; one line."""


@contextmanager
def foreground(others: Mapping[signal.Signals, Callable[[], None]]) -> Iterator[None]:
    """Signals and limits of this process, outside of any loop; what `others` do there."""
    before = {number: signal.signal(number, _leave) for number in ENDING}
    for number, action in others.items():
        before[number] = signal.signal(number, _doing(action))
    # A guest of eight pairs holds some 40 descriptors, and 1024 are usual.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def _doing(action: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
    return lambda number, frame: action()


def _leave(number: int, frame: object) -> None:
    """A signal before the loop runs: leave by way of all that has to be undone."""
    raise SystemExit(0)


class Ending:
    """What ends a running `name`, inside `async with`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._others: set[signal.Signals] = set()  # that do not end it at once
        self._ended = asyncio.Event()
        self._deaths: list[str] = []
        self._loop = asyncio.get_running_loop()

    async def __aenter__(self) -> Self:
        """Listen to signals, and for threads that die."""
        for number in ENDING:
            self._loop.add_signal_handler(number, self._end)
        threading.excepthook = self._died
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Listen no more; a `RunError` if a thread died."""
        threading.excepthook = threading.__excepthook__
        for number in self._others:
            self._loop.remove_signal_handler(number)
        if self._deaths and error is None:
            raise RunError(f"{self._name}: {self._deaths[0]}")

    async def wait(self) -> None:
        """Until it is told to end."""
        await self._ended.wait()

    def hear(self, number: signal.Signals, action: Callable[[], None]) -> None:
        """Have a signal do something else, from now on."""
        self._others.add(number)
        self._loop.add_signal_handler(number, action)

    def end(self) -> None:
        """Tell it."""
        self._ended.set()

    def die(self, problem: str) -> None:
        """End it with an error."""
        self._deaths.append(problem)
        self._ended.set()

    def _end(self) -> None:
        for number in ENDING:
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)
        self.end()

    def _died(self, args: threading.ExceptHookArgs) -> None:
        threading.__excepthook__(args)
        problem = f"{args.exc_type.__name__}: {args.exc_value}"
        self._loop.call_soon_threadsafe(self.die, f"the worker died, please report it: {problem}")
