"""What workers share: a lock for each port that frames are delivered to, and one for the tables.

How it works: a port's frames are taken by one worker, so those of a flow are forwarded in order;
whoever delivers to a port holds its lock from the first frame of a burst to that port until the
burst's entries are published.  Nobody waits while holding a port: where `try_port` fails, what was
delivered is written and published first, which lets go of everything (`forward.claim`), so no two
workers can wait for each other.  A wait is as long as another's burst.

The lock of the tables is held for a few stores, or while a port's aged addresses are cleared out;
it may be taken while ports are held, and nothing else is waited for under it.  So is the lock of a
capture's ring.

Under a port's lock: its receive rings' records, a stream's send buffer and `writable`.  A tap or an
interface needs none, because the kernel takes whole frames from anybody.  With one worker no port
is SHARED and no lock is ever touched.
"""

from vionet.engine.layout import LOCK_WORDS, PORTS_MAX, STATE, WORK, State, Work
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import sched_yield
from vionet.jit.raw import exchange_if, load_acquire_i64, relax, store_release_i64

ASKED = 1  # Port.special: more is to be asked of frames from and to it (`enter`, `offer_any`)
SHARED = 2  # and: its lock is needed for a delivery
GUARDED = 4  # and: it is locked to IP addresses
CAPTURED = 8  # and: what comes from it, or is delivered to it, may have to be recorded
LOCK_LEN = 8 * LOCK_WORDS
PATIENT = 200  # looks at a lock before others may have this core


@kernel(INT, STATE, WORK, INT)
def take(state: State, work: Work, number: int) -> int:
    """Have lock `number`, waiting for it."""
    lock_hva = state.locks_hva + LOCK_LEN * number
    looks = 0
    while not exchange_if(lock_hva, 0, work.number + 1):
        while load_acquire_i64(lock_hva):
            looks += 1
            relax()
            if looks >= PATIENT:
                looks = 0
                sched_yield()
    return 0


@kernel(INT, STATE, WORK, INT)
def note_held(state: State, work: Work, index: int) -> int:
    """A port's lock is ours until `let_go`."""
    work.holds[index] = 1
    work.held[work.n_held] = index
    work.n_held += 1
    return 1


@kernel(INT, STATE, WORK, INT)
def try_port(state: State, work: Work, index: int) -> int:
    """Lock a port; *returns* 0 where another has it.  *requires* that we have not."""
    if not exchange_if(state.locks_hva + LOCK_LEN * index, 0, work.number + 1):
        return 0
    return note_held(state, work, index)


@kernel(INT, STATE, WORK, INT)
def wait_port(state: State, work: Work, index: int) -> int:
    """Lock a port that is SHARED.  *requires* that no port is held."""
    if not state.ports[index].special & SHARED:
        return 0
    take(state, work, index)
    return note_held(state, work, index)


@kernel(INT, STATE, WORK)
def let_go(state: State, work: Work) -> int:
    """Unlock every port that is held."""
    for i in range(work.n_held):
        index = work.held[i]
        work.holds[index] = 0
        store_release_i64(state.locks_hva + LOCK_LEN * index, 0)
    work.n_held = 0
    return 0


@kernel(INT, STATE, WORK)
def take_tables(state: State, work: Work) -> int:
    """Lock what is not a port's: the forwarding table, what is counted over all rings."""
    return take(state, work, PORTS_MAX) if state.n_workers > 1 else 0


@kernel(INT, STATE)
def let_tables_go(state: State) -> int:
    """The end of `take_tables`."""
    if state.n_workers > 1:
        store_release_i64(state.locks_hva + LOCK_LEN * PORTS_MAX, 0)
    return 0


@kernel(INT, STATE, WORK, INT)
def take_capture(state: State, work: Work, c: int) -> int:
    """Lock the ring of capture `c`, for one record."""
    return take(state, work, PORTS_MAX + 1 + c) if state.n_workers > 1 else 0


@kernel(INT, STATE, INT)
def let_capture_go(state: State, c: int) -> int:
    """The end of `take_capture`."""
    if state.n_workers > 1:
        store_release_i64(state.locks_hva + LOCK_LEN * (PORTS_MAX + 1 + c), 0)
    return 0
