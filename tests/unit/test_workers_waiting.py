"""Several workers, one of which waits: for a port, or in a descriptor that a front-end has made
blocking.  Nobody waits while holding a port, so the others go on."""

import os
import select
import time
from collections.abc import Callable

from tests.unit.test_engine_worker import DEADLINE_S
from tests.unit.test_workers import Witness, numbered, read_number, settled, switch
from vionet.engine.layout import LOCK_WORDS
from vionet.jit.record import address_of


def until(true: Callable[[], bool]) -> None:
    """Ask again and again, for a bounded time."""
    deadline = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < deadline


def test_nobody_waits_while_holding() -> None:
    """A worker that has to wait for a port has shown first what it delivered to others; when the
    port is free the rest of its burst follows, in order."""
    with switch(4) as (fabric, guests):
        one, _, free, taken = guests
        for guest in (free, taken):
            guest.refill()
        state = fabric._state
        word = (int(state.locks_hva) - address_of(state.locks)) // 8 + LOCK_WORDS * taken.index
        state.locks[word] = 99  # as if another worker were delivering there
        one.offer([numbered(one.mac, to.mac, i) for i, to in enumerate((free, taken, free), 1)])
        until(lambda: free.rx.used_idx == 1 and fabric._works[0].n_held == 0)
        assert 0 == taken.rx.used_idx
        assert one.tx.used_idx != one.tx.next_idx, "its burst is not over"
        state.locks[word] = 0
        settled(guests)
        assert [1, 3] == [read_number(got.frame)[1] for got in free.received()]
        assert [2] == [read_number(got.frame)[1] for got in taken.received()]
        assert not state.locks.any()


def test_blocking_call_holds_one_worker_only() -> None:
    """A front-end that makes its call descriptor block holds the worker that tells it, and no
    lock: the other worker goes on, also to the ports of the one that hangs."""
    with switch(4) as (fabric, guests):
        one, other, hostile, sink = guests
        witnesses = [Witness(one), Witness(sink)]
        for guest in (one, hostile, sink):
            guest.refill()
        until(lambda: hostile.ledger.get("calls", 0) > 0)  # of its transmit ring
        hostile.calls()
        os.eventfd_write(hostile.call_fd, 2**64 - 2)
        os.set_blocking(hostile.call_fd, True)
        one.offer_to(hostile.mac, 1)
        until(lambda: fabric._works[0].telling == 1 + hostile.index)
        for to in (one.mac, sink.mac):
            other.offer_to(to, 16)
        settled([other])
        for witness in witnesses:
            witness.look()
        assert [16, 16] == [witness.count for witness in witnesses]
        assert 1 + hostile.index == fabric._works[0].telling
        assert (None, hostile.port.name) == (fabric.stuck(), fabric.stuck())
        settled(guests)


def test_blocking_error_descriptor_holds_one_worker_only() -> None:
    """The same of the error descriptor of a ring that its driver has broken: it is written when
    all ports are let go of, and what was delivered is there."""
    with switch(4) as (fabric, guests):
        one, other, hostile, sink = guests
        witness = Witness(sink)
        for guest in (hostile, sink):
            guest.refill()
        os.eventfd_write(hostile.err_fd, 2**64 - 2)
        os.set_blocking(hostile.err_fd, True)
        hostile.memory.write(hostile.rx.avail_gpa + 2, b"\xff\x7f")
        one.offer([numbered(one.mac, to.mac, i) for i, to in enumerate((sink, hostile), 1)])
        until(lambda: fabric._works[0].telling == 1 + hostile.index)
        assert 0 == fabric._works[0].n_held
        other.offer_to(sink.mac, 16)
        settled([other])
        witness.look()
        assert 17 == witness.count
        assert 1 + hostile.index == fabric._works[0].telling
        assert (None, hostile.port.name) == (fabric.stuck(), fabric.stuck())
        settled(guests)
        assert 1 == hostile.drops["ring_broken"]


def test_error_descriptor_is_written_once() -> None:
    """A ring that breaks while its port is held, with something delivered before or without, is
    told of once, and so is the call that belongs to what was delivered."""
    for delivered in (0, 1):
        with switch(4) as (_, guests):
            one, _, hostile, _ = guests
            hostile.refill()
            until(lambda: bool(hostile.calls()))  # noqa: B023 - of its transmit ring
            if not delivered:
                hostile.memory.write(hostile.rx.avail_gpa + 2, b"\xff\x7f")
            elif delivered:
                # A head beyond the ring stands second.
                hostile.memory.write(hostile.rx.avail_gpa + 4 + 2, b"\xff\xff")
            one.offer([numbered(one.mac, hostile.mac, i) for i in range(1, 4)])
            settled(guests)
            assert delivered == hostile.ledger.get("rx_frames", 0) == hostile.rx.used_idx
            assert select.select([hostile.err_fd], [], [], DEADLINE_S)[0], "told after it is shown"
            if delivered:
                assert select.select([hostile.call_fd], [], [], DEADLINE_S)[0]
            one.offer_to(hostile.mac, 1)
            settled(guests)
            assert (1, bool(delivered)) == (hostile.errors(), bool(hostile.calls()))
