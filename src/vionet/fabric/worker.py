"""The workers' threads, and how the control plane stops them for a moment.

How it works: each thread runs the compiled loop without the GIL, on a core of its own where a
person wants that.  `hold` sets `State.stop`, writes the wake eventfds and waits until every loop
has returned, which takes at most one burst; inside the `with` block the control plane owns all
state.  Holds nest.  A worker stands still inside compiled code (`engine.worker.work_on`): traffic
waits for what is done in the block, and never for the GIL.

A worker can hang in one place only: the write of a call descriptor that its front-end has made
blocking again.  A signal to its thread ends the write; `hold` sends it when it has to wait, and
`stuck`, asked once a second while the worker is awake, finds out whose descriptor it was.

Invariants: a loop returns only between bursts; inside a hold no ring and no memory is touched.
Threads: `hold`, `start` and `close` are called from one thread, the control plane's.
"""

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from vionet.engine.kick import settle
from vionet.engine.layout import State, Work
from vionet.engine.worker import work_on

NUDGE = signal.SIGURG  # which does nothing where no handler was set
NUDGE_S = 0.05  # a hold that takes longer looks whether a worker hangs in a system call
RETURN_TIMEOUT_S = 10.0  # a burst takes microseconds; this long means that a loop is stuck
LOOKS = 10_000  # of a millisecond each
# Of a thread's clock number, beside the thread's own: what pthread_getcpuclockid would make, which
# may not be asked about a thread that has ended.
THREAD_CLOCK = 6


class Worker:
    """One thread in the compiled loop; `Workers` says when."""

    def __init__(self, state: State, work: Work, wake_fd: int, core: int | None) -> None:
        self._state = state
        self._work = work
        self._wake_fd = wake_fd
        self._core = core
        self._look = (0, 0)
        self._cpu_ns = 0
        self.alive = False  # the thread is in the loop, or parked
        work.parked_fd = self._parked_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        work.go_fd = self._go_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._parked = select.poll()
        self._parked.register(self._parked_fd, select.POLLIN)
        name = f"vionet-worker-{int(work.number)}"
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)

    def start(self) -> None:
        """Enter the loop."""
        self.alive = True
        self._thread.start()

    def ask(self) -> None:
        """Ask it to park; `State.stop` is set."""
        os.eventfd_write(self._wake_fd, 1)

    def await_parked(self, impatient: Callable[[], None]) -> None:
        """Wait until it has, and do something about it now and then.

        Looks are counted, not time: while this process is stopped none of its threads runs.  After
        the first they are short, because a nudge ends one write, and a burst may have to tell
        hundreds of rings.
        """
        wait_ms = NUDGE_S * 1000
        for _ in range(LOOKS):
            if self._parked.poll(wait_ms):
                os.eventfd_read(self._parked_fd)
                return
            impatient()
            wait_ms = 1
        # Whoever holds is about to take memory away that the worker may be using.
        sys.stderr.write("vionet: a worker did not return from its loop; ending at once\n")
        os.abort()

    def go(self) -> None:
        """Let it go on."""
        os.eventfd_write(self._go_fd, 1)

    def close(self) -> None:
        """Wait for the end of the thread, which was let go with `State.closing` set."""
        if self._thread.ident is not None:
            self._thread.join(RETURN_TIMEOUT_S)
        os.close(self._parked_fd)
        os.close(self._go_fd)

    def stuck(self) -> int | None:
        """As `Workers.stuck`."""
        look = (int(self._work.rounds), int(self._work.telling))
        found = look[1] - 1 if look[1] and look == self._look else None
        self._look = look
        if found is not None:
            self.nudge()
        return found

    @property
    def cpu_ns(self) -> int:
        """How long its thread has run, by the kernel's clock of that thread."""
        if self.alive and self._thread.native_id is not None:
            with suppress(OSError):  # the thread has ended: what was read last stands
                self._cpu_ns = time.clock_gettime_ns(~self._thread.native_id << 3 | THREAD_CLOCK)
        return self._cpu_ns

    def nudge(self) -> None:
        """Interrupt a system call of the thread."""
        if self._thread.ident is not None and self._thread.is_alive():
            signal.pthread_kill(self._thread.ident, NUDGE)

    def _main(self) -> None:
        try:
            if self._core is not None:
                os.sched_setaffinity(0, {self._core})  # of this thread alone
            work_on(self._state, self._work)
        except BaseException:  # the bounds lane found an index out of range
            self.alive = False
            os.eventfd_write(self._parked_fd, 1)  # somebody may wait for it just now
            raise


class Workers:
    """All threads of a fabric; together they run, together they are held."""

    def __init__(
        self, state: State, works: Sequence[Work], wake_fds: Sequence[int], cores: Sequence[int]
    ) -> None:
        """As many as there are `works`; the first ones on the `cores` that are named."""
        self._state = state
        self._depth = 0
        self._held: list[Worker] = []  # those that are parked
        on = [*cores, *[None] * len(works)]
        self._all = [
            Worker(state, work, fd, core)
            for work, fd, core in zip(works, wake_fds, on, strict=False)
        ]

    def start(self) -> None:
        """Begin to serve."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(NUDGE, lambda *_: None)  # without SA_RESTART: a write gives EINTR
        assert self._depth == 0
        settle(self._state)
        for worker in self._all:
            worker.start()

    @property
    def alive(self) -> bool:
        """Whether all are in their loops, or parked."""
        return all(worker.alive for worker in self._all)

    def close(self) -> None:
        """End the threads; state stays as it is, every finished frame published."""
        with self.hold():
            self._state.closing = 1
        for worker in self._all:
            worker.close()

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
            if self._depth == 0:
                self._go()

    def cpu_ns(self) -> list[int]:
        """How long each thread has run."""
        return [worker.cpu_ns for worker in self._all]

    def stuck(self) -> int | None:
        """The port in whose call descriptor a worker waits, if it did so at the last look too.

        To be asked now and then; it has then been freed, and the write is given up.
        """
        found = [worker.stuck() for worker in self._all]
        return next((index for index in found if index is not None), None)

    def _stop(self) -> None:
        self._state.stop = 1
        self._held = [worker for worker in self._all if worker.alive]
        for worker in self._held:
            worker.ask()
        for worker in self._held:
            worker.await_parked(self._nudge)

    def _nudge(self) -> None:
        for worker in self._held:  # the one that hangs may have locked what another waits for
            worker.nudge()

    def _go(self) -> None:
        settle(self._state)
        self._state.stop = 0
        for worker in self._held:
            worker.go()
