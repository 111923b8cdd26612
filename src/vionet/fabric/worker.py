"""The workers' threads, and how the control plane stops them for a moment.

How it works: each thread runs the compiled loop without the GIL, on a core of its own where a
person wants that.  `hold` sets `State.stop`, writes the wake eventfds and waits until every loop
has returned, which takes at most one burst; inside the `with` block the control plane owns all
state.  Holds nest.

A worker can hang in one place only: the write of a call descriptor that its front-end has made
blocking again.  A signal to its thread ends the write; `hold` sends it when it has to wait, and
`stuck`, asked once a second while the worker is awake, finds out whose descriptor it was.

Invariants: a loop returns only between bursts; inside a hold no ring and no memory is touched.
Threads: `hold`, `start` and `close` are called from one thread, the control plane's.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from vionet.engine.kick import settle
from vionet.engine.layout import State, Work
from vionet.engine.worker import run

NUDGE = signal.SIGURG  # which does nothing where no handler was set
NUDGE_S = 0.05  # a hold that takes longer looks whether a worker hangs in a system call
RETURN_TIMEOUT_S = 10.0  # a burst takes microseconds; this long means that a loop is stuck


class Worker:
    """One thread in the compiled loop; `Workers` says when."""

    def __init__(self, workers: "Workers", work: Work, wake_fd: int, core: int | None) -> None:
        self._workers = workers
        self._work = work
        self.wake_fd = wake_fd
        self.core = core
        self.inside = False  # the loop is running
        self._look = (0, 0)
        name = f"vionet-worker-{int(work.number)}"
        self.thread = threading.Thread(target=self._main, name=name, daemon=True)

    def stuck(self) -> int | None:
        """As `Workers.stuck`."""
        look = (int(self._work.rounds), int(self._work.telling))
        found = look[1] - 1 if look[1] and look == self._look else None
        self._look = look
        if found is not None:
            self.nudge()
        return found

    def nudge(self) -> None:
        """Interrupt a system call of the thread."""
        if self.thread.ident is not None and self.thread.is_alive():
            signal.pthread_kill(self.thread.ident, NUDGE)

    def _main(self) -> None:
        if self.core is not None:
            os.sched_setaffinity(0, {self.core})  # of this thread alone
        while self._workers.enter(self):
            try:
                run(self._workers.state, self._work)
            except BaseException:  # the bounds lane found an index out of range
                self._workers.leave(self)
                raise


class Workers:
    """All threads of a fabric; together they run, together they are held."""

    def __init__(
        self, state: State, works: Sequence[Work], wake_fds: Sequence[int], cores: Sequence[int]
    ) -> None:
        """As many as there are `works`; the first ones on the `cores` that are named."""
        self.state = state
        self._condition = threading.Condition()
        self._wanted = False  # the loops should be running
        self._closing = False
        self._depth = 0
        on = [*cores, *[None] * len(works)]
        self._all = [
            Worker(self, work, fd, core)
            for work, fd, core in zip(works, wake_fds, on, strict=False)
        ]

    def start(self) -> None:
        """Begin to serve."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(NUDGE, lambda *_: None)  # without SA_RESTART: a write gives EINTR
        if self._depth == 0:
            self._go()
        for worker in self._all:
            worker.thread.start()

    def close(self) -> None:
        """End the threads; state stays as it is, every finished frame published."""
        with self.hold():
            with self._condition:
                self._closing = True
                self._condition.notify_all()
            for worker in self._all:
                if worker.thread.ident is not None:
                    worker.thread.join(RETURN_TIMEOUT_S)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Own all state inside the block."""
        if self._depth == 0:
            self._stop()
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if self._depth == 0 and not self._closing:
                self._go()

    def stuck(self) -> int | None:
        """The port in whose call descriptor a worker waits, if it did so at the last look too.

        To be asked now and then; it has then been freed, and the write is given up.
        """
        found = [worker.stuck() for worker in self._all]
        return next((index for index in found if index is not None), None)

    def enter(self, worker: Worker) -> bool:
        """Out of the loop, and wait until it may be entered; false: never again."""
        with self._condition:
            worker.inside = False
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._wanted or self._closing)
            worker.inside = not self._closing
        return worker.inside

    def leave(self, worker: Worker) -> None:
        """The loop has ended for good."""
        with self._condition:
            worker.inside = False
            self._condition.notify_all()

    def _stop(self) -> None:
        with self._condition:
            self._wanted = False
            self.state.stop = 1
            for worker in self._all:
                os.eventfd_write(worker.wake_fd, 1)
            deadline = time.monotonic() + RETURN_TIMEOUT_S
            while not self._condition.wait_for(
                lambda: not any(worker.inside for worker in self._all), NUDGE_S
            ):
                if time.monotonic() > deadline:
                    raise RuntimeError("a worker did not return from its loop")
                for worker in self._all:
                    if worker.inside:
                        worker.nudge()

    def _go(self) -> None:
        with self._condition:
            settle(self.state)
            self.state.stop = 0
            self._wanted = True
            self._condition.notify_all()
