"""The worker's thread, and how the control plane stops it for a moment.

How it works: the thread runs the compiled loop without the GIL.  `hold` sets `State.stop`, writes
the wake eventfd and waits until the loop has returned, which takes at most one burst; inside the
`with` block the control plane owns all state.  Holds nest.

A worker can hang in one place only: the write of a call descriptor that its front-end has made
blocking again.  A signal to its thread ends the write; `hold` sends it when it has to wait, and
`stuck`, asked once a second while the worker is awake, finds out whose descriptor it was.

Invariants: the loop returns only between bursts; inside a hold no ring and no memory is touched.
Threads: `hold`, `start` and `close` are called from one thread, the control plane's.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vionet.engine.layout import State, Work
from vionet.engine.worker import run

NUDGE = signal.SIGURG  # which does nothing where no handler was set
NUDGE_S = 0.05  # a hold that takes longer looks whether the worker hangs in a system call
RETURN_TIMEOUT_S = 10.0  # a burst takes microseconds; this long means that the loop is stuck


class Worker:
    """One thread in the compiled loop."""

    def __init__(self, state: State, work: Work, wake_fd: int) -> None:
        self._state = state
        self._work = work
        self._wake_fd = wake_fd
        self._condition = threading.Condition()
        self._inside = False  # the loop is running
        self._wanted = False  # it should be
        self._closing = False
        self._depth = 0
        self._look = (0, 0)
        self._thread = threading.Thread(target=self._main, name="vionet-worker", daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(NUDGE, lambda *_: None)  # without SA_RESTART: a write gives EINTR
        with self._condition:
            self._wanted = self._depth == 0
        self._thread.start()

    def close(self) -> None:
        """End the thread; state stays as it is, every finished frame published."""
        with self.hold():
            with self._condition:
                self._closing = True
                self._condition.notify_all()
            if self._thread.ident is not None:
                self._thread.join(RETURN_TIMEOUT_S)

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

    def _stop(self) -> None:
        with self._condition:
            self._wanted = False
            self._state.stop = 1
            os.eventfd_write(self._wake_fd, 1)
            deadline = time.monotonic() + RETURN_TIMEOUT_S
            while not self._condition.wait_for(lambda: not self._inside, NUDGE_S):
                if time.monotonic() > deadline:
                    raise RuntimeError("the worker did not return from its loop")
                self._nudge()

    def stuck(self) -> int | None:
        """The port in whose call descriptor the worker waits, if it did so at the last look too.

        To be asked now and then; it has then been freed, and the write is given up.
        """
        work = self._work
        look = (int(work.rounds), int(work.telling))
        found = look[1] - 1 if look[1] and look == self._look else None
        self._look = look
        if found is not None:
            self._nudge()
        return found

    def _nudge(self) -> None:
        """Interrupt a system call of the worker's thread."""
        if self._thread.ident is not None and self._thread.is_alive():
            signal.pthread_kill(self._thread.ident, NUDGE)

    def _go(self) -> None:
        with self._condition:
            self._state.stop = 0
            self._wanted = self._thread.ident is not None
            self._condition.notify_all()

    def _main(self) -> None:
        while True:
            with self._condition:
                self._inside = False
                self._condition.notify_all()
                self._condition.wait_for(lambda: self._wanted or self._closing)
                if self._closing:
                    return
                self._inside = True
            try:
                run(self._state, self._work)
            except BaseException:  # the bounds lane found an index out of range
                with self._condition:
                    self._inside = False
                    self._condition.notify_all()
                raise
