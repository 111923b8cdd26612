"""What a delivery is, in words, and whether it is what was meant."""

from collections.abc import Iterator
from contextlib import contextmanager

from vionet.check import judge
from vionet.check.driver import Broken, Delivery


@contextmanager
def during(what: str) -> Iterator[None]:
    """Say what was being tried when it broke."""
    try:
        yield
    except Broken as error:
        raise Broken(f"{what}: {error}") from error


def describe(delivery: Delivery) -> str:
    """The header of a delivery and the state of its checksum, for people."""
    header = delivery.header
    return (
        f"flags {header.flags:#x}, gso_type {header.gso_type:#x}, csum_start {header.csum_start},"
        f" csum_offset {header.csum_offset}, {len(delivery.frame)} bytes,"
        f" checksum field: {judge.l4_sum(delivery.frame).value}"
    )


def same(delivery: Delivery, expected: bytes) -> str:
    """The delivery, once finished as its header asks, is `expected`, and nothing is wrong."""
    if found := judge.objections(delivery.header, delivery.frame):
        raise Broken(f"{'; '.join(found)} ({describe(delivery)})")
    finished = judge.finish(delivery.header, delivery.frame)
    if finished != expected:
        raise Broken(f"{difference(finished, expected)} ({describe(delivery)})")
    return describe(delivery)


def difference(seen: bytes, expected: bytes) -> str:
    """Where two frames differ first."""
    if len(seen) != len(expected) and seen[: len(expected)] == expected[: len(seen)]:
        return f"{len(seen)} bytes instead of {len(expected)}"
    place = next(i for i, (s, e) in enumerate(zip(seen, expected, strict=False)) if s != e)
    return f"byte {place} is {seen[place]:#04x}, expected {expected[place]:#04x}"


def expect(condition: bool, seen: str) -> None:
    """Raise `Broken` with what was seen unless `condition`."""
    if not condition:
        raise Broken(seen)
