"""Area 2.4 from the other side: drivers that break the split ring's rules."""

import time
from collections.abc import Callable, Mapping
from functools import partial

from vionet.check.case import INDIRECT, VERSION_1, Lab, check
from vionet.check.driver import QUIET, RX, TX, Port
from vionet.check.ring import DESC, Piece
from vionet.check.verdict import expect
from vionet.spec import virtio

NEXT, TABLE = virtio.VRING_DESC_F_NEXT, virtio.VRING_DESC_F_INDIRECT
Wicked = Callable[[Port, int], None]


def _raw(port: Port) -> int:
    """A place in guest memory that looks like a header and a frame."""
    return port.place(bytes(12) + b"\xff" * 6 + b"\x02\x66" * 3 + bytes(88))


def _go(port: Port, head: int) -> None:
    port.tx.expose(head)
    port.publish()


def _news(port: Port) -> bool:
    return bool(port.tx.fresh)


def _breach(
    lab: Lab, breaches: Mapping[str, Wicked], want: int = VERSION_1, *, returned: bool = True
) -> str:
    """Commit each of `breaches` on a connection of its own; the neighbour keeps being served."""
    b = lab.port(1)
    seen = []
    for name, breach in breaches.items():
        a = lab.port(0, want)
        lab.joined(a, b)
        a.sent(lab.patience)
        head = a.tx.reserve(4)[0]
        breach(a, head)
        deadline = time.monotonic() + QUIET
        came_back = a.wait(partial(_news, a), TX, deadline)
        seen.append(f"{name}: {'returned' if came_back else 'not returned'}")
        b.frontend.synchronise()
        lab.survived(b)
        if returned:
            expect(came_back, f"{name}: the chain was not returned; but the device survived")
        b.fill(8)
    return "; ".join(seen)


@check("SP-04", does="send a chain that begins writable", expects="returned", survival=True)
def writable_first(lab: Lab) -> str:
    """Readable descriptors come first."""

    def mixed(port: Port, _: int) -> None:
        gpa = _raw(port)
        _go(port, port.tx.chain([Piece(gpa, 12, True), Piece(gpa + 12, 100)]))

    def only(port: Port, _: int) -> None:
        _go(port, port.tx.chain([Piece(_raw(port), 112, True)]))

    return _breach(lab, {"writable, then readable": mixed, "only writable": only})


@check(
    "SP-08",
    does="loops, a next beyond the table, lengths of 0 and 4 GiB",
    expects="survival",
    survival=True,
)
def loops(lab: Lab) -> str:
    """No loops, no more than 2^32 bytes."""

    def to_itself(port: Port, head: int) -> None:
        port.tx.write_desc(head, _raw(port), 60, NEXT, head)
        _go(port, head)

    def in_a_ring(port: Port, head: int) -> None:
        slots = port.tx.slots(head)
        for slot, following in zip(slots, slots[1:] + slots[:1], strict=True):
            port.tx.write_desc(slot, _raw(port), 60, NEXT, following)
        _go(port, head)

    def beyond(port: Port, head: int) -> None:
        port.tx.write_desc(head, _raw(port), 60, NEXT, port.tx.size)
        _go(port, head)

    def far_beyond(port: Port, head: int) -> None:
        port.tx.write_desc(head, _raw(port), 60, NEXT, 0xFFFF)
        _go(port, head)

    def empty(port: Port, head: int) -> None:
        port.tx.write_desc(head, _raw(port), 0)
        _go(port, head)

    def huge(port: Port, head: int) -> None:
        port.tx.write_desc(head, _raw(port), 0xFFFFFFFF)
        _go(port, head)

    def bad_head(port: Port, _: int) -> None:
        _go(port, port.tx.size)

    breaches = {
        "a loop of one": to_itself,
        "a loop of four": in_a_ring,
        "next = size": beyond,
        "next = 65535": far_beyond,
        "length 0": empty,
        "4 GiB": huge,
        "head = size": bad_head,
    }
    return _breach(lab, breaches, returned=False)


def _table(port: Port, entries: list[tuple[int, int, int, int]]) -> int:
    gpa = port.memory.allocate(16 * len(entries), 16)
    port.memory.write(gpa, b"".join(DESC.pack(*entry) for entry in entries))
    return gpa


@check("SP-11", does="indirect tables as they must not be", expects="survival", survival=True)
def indirect_misused(lab: Lab) -> str:
    """Indirect only as negotiated, once, last, and no longer than the ring."""

    def plain(port: Port, head: int) -> None:
        gpa = _table(port, [(_raw(port), 112, 0, 0)])
        port.tx.write_desc(head, gpa, 16, TABLE)
        _go(port, head)

    def nested(port: Port, head: int) -> None:
        inner = _table(port, [(_raw(port), 112, 0, 0)])
        outer = _table(port, [(inner, 16, TABLE, 0)])
        port.tx.write_desc(head, outer, 16, TABLE)
        _go(port, head)

    def followed(port: Port, head: int) -> None:
        gpa = _table(port, [(_raw(port), 112, 0, 0)])
        slot = port.tx.slots(head)[1]
        port.tx.write_desc(head, gpa, 16, TABLE | NEXT, slot)
        port.tx.write_desc(slot, _raw(port), 60)
        _go(port, head)

    def looped(port: Port, head: int) -> None:
        gpa = _table(port, [(_raw(port), 60, NEXT, 1), (_raw(port), 60, NEXT, 0)])
        port.tx.write_desc(head, gpa, 32, TABLE)
        _go(port, head)

    def long(port: Port, head: int) -> None:
        gpa = _table(port, [(_raw(port), 1, NEXT, i + 1) for i in range(4000)])
        port.tx.write_desc(head, gpa, 64000, TABLE)
        _go(port, head)

    unnegotiated = _breach(lab, {"not negotiated": plain}, returned=False)
    lab.need(INDIRECT)
    breaches = {"nested": nested, "with NEXT": followed, "a loop": looped, "4000 entries": long}
    more = _breach(lab, breaches, VERSION_1 | INDIRECT, returned=False)
    return f"{unnegotiated}; {more}"


@check("SP-12", does="tables of 17, 8 and 0 bytes", expects="survival", survival=True)
def odd_tables(lab: Lab) -> str:
    """A table is a multiple of 16 bytes."""

    def of(length: int) -> Wicked:
        def breach(port: Port, head: int) -> None:
            gpa = _table(port, [(_raw(port), 112, 0, 0)] * 2)
            port.tx.write_desc(head, gpa, length, TABLE)
            _go(port, head)

        return breach

    lab.need(INDIRECT)
    breaches = {f"{length} bytes": of(length) for length in (17, 8, 0)}
    return _breach(lab, breaches, VERSION_1 | INDIRECT, returned=False)


@check(
    "SP-14",
    does="move avail.idx by more than the ring, and back",
    expects="survival",
    survival=True,
)
def index_jumps(lab: Lab) -> str:
    """avail.idx only grows, and by what was exposed."""

    def by(step: int) -> Wicked:
        def breach(port: Port, _: int) -> None:
            for index in (RX, TX):
                ring = port.rings[index]
                ring.avail_idx = ring.avail_idx + step
                port.kick(index)

        return breach

    breaches = {f"{step:+}": by(step) for step in (-1, 300, 0x8000, 0xFFF0)}
    return _breach(lab, breaches, returned=False)
