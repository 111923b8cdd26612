"""Who runs on which core, and before whom.

`place` is about the calling thread, for good; `placed` for a while; `beside` starts another one.
"""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

REAL_TIME_PRIORITY: Final = 10


def place(core: int, real_time: bool = False) -> None:
    """Put the calling thread on a core, before others if that is wanted."""
    os.sched_setaffinity(0, {core})
    if real_time:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(REAL_TIME_PRIORITY))


@contextmanager
def placed(core: int, real_time: bool = False) -> Iterator[None]:
    """The calling thread on a core, for a while."""
    before = os.sched_getaffinity(0)
    try:
        place(core, real_time)
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, before)


def beside(core: int, work: Callable[[], object], real_time: bool = False) -> threading.Thread:
    """A thread on a core that does `work`, started."""

    def run() -> None:
        place(core, real_time)
        work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def other_core(core: int) -> int:
    """A core for what is not measured; `core` itself where there is no other."""
    return next((c for c in sorted(os.sched_getaffinity(0)) if c != core), core)


def threads_of(pid: int) -> list[int]:
    """The ids of all threads of a process, its first one's first."""
    return sorted(int(task.name) for task in Path(f"/proc/{pid}/task").iterdir())
