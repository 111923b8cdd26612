"""A fabric inside one process, without sockets and without a worker's thread: `run` is one burst
of the data path, after which every byte of every guest is looked at.
"""

import os
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import numpy as np

from tests.reference.guest import Guest
from tests.reference.plug import FULL, NO_OPTIONS, Options
from tests.reference.tap import SocketTap
from vionet.engine.burst import from_guest, from_tap
from vionet.engine.kick import settle
from vionet.engine.layout import State, Work
from vionet.engine.status import LEDGER_KEYS, FabricKind
from vionet.engine.worker import enlist
from vionet.fabric.fabric import prepare_state, prepared_work
from vionet.jit.record import allocate

NOW_NS = 1_000_000_000_000


class Network:
    """A fabric whose guests take their turns when told."""

    def __init__(self, kind: FabricKind = FabricKind.SWITCH) -> None:
        self.state: State = allocate(State)
        prepare_state(self.state, kind)
        self.notice_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.state.notice_fd = self.notice_fd
        self.work: Work = prepared_work(self.state)
        self.work.now_ns = NOW_NS
        record: Any = self.work
        for name in record.dtype.names:
            if record.dtype[name].base == np.uint8:
                record[name][:] = 0xAA  # what frames before have left
        self.guests: list[Guest] = []
        self.taps: list[SocketTap] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for guest in self.guests:
            guest.close()
        for tap in self.taps:
            tap.close()
        os.close(self.notice_fd)

    def guest(self, features: int = FULL, **more: Any) -> Guest:
        """Plug in one guest."""
        index = self._next_index()
        guest = Guest(self, index, features, **more)
        self.guests.append(guest)
        return guest

    def tap(self, takes_partial: bool = True, options: Options = NO_OPTIONS) -> SocketTap:
        """Plug in one tap."""
        tap = SocketTap(self, self._next_index(), takes_partial, options)
        self.taps.append(tap)
        return tap

    def _next_index(self) -> int:
        index = len(self.guests) + len(self.taps)
        self.state.n_ports = index + 1
        return index

    def total(self, key: str) -> int:
        """One counter over all ports."""
        return int(self.work.ledger[:, LEDGER_KEYS.index(key)].sum())

    def run(self, guest: Guest, ring: int = 1) -> int:
        """One burst from a guest's transmit ring.  *returns* the frames taken."""
        return self.watched(lambda: from_guest(self.state, self.work, guest.index, ring))

    def watched(self, burst: Callable[[], int], in_place: bool = False) -> int:
        """Run `burst`, and check that no memory changed that may not."""
        shown = [guest.rx.used_idx for guest in self.guests]
        for guest in self.guests:
            guest.memory.freeze()
        settle(self.state)
        enlist(self.state, self.work)
        done = int(burst())
        for guest, idx in zip(self.guests, shown, strict=True):
            guest.check_memory(idx, in_place)
        return done

    def run_tap(self, tap: SocketTap) -> int:
        """One burst from a tap.  *returns* the frames taken."""
        in_place = self.state.kind == FabricKind.WIRE
        return self.watched(lambda: from_tap(self.state, self.work, tap.index), in_place)
