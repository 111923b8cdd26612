"""A guest's memory in this process: regions inside one block, with guard bytes around each.

How it works: every byte starts as a canary.  `freeze` remembers the whole block; `changed` says
which bytes differ since, so that a test can name every byte that the device was not to touch,
guards included.  Two regions may touch in guest-physical space and still lie apart here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

GUARD_LEN: Final = 4096
GUARD: Final = 0x5A
CANARY: Final = 0xAA


@dataclass(frozen=True, slots=True)
class Range:
    """One region: [gpa, gpa + size), at `off` of the block."""

    gpa: int
    size: int
    off: int


class Memory:
    """What a guest and the device share."""

    def __init__(self, layout: Sequence[tuple[int, int]]) -> None:
        """`layout` is (gpa, size) for each region; they must not overlap."""
        total = GUARD_LEN + sum(-(-size // GUARD_LEN) * GUARD_LEN + GUARD_LEN for _, size in layout)
        raw = np.full(total + GUARD_LEN, GUARD, np.uint8)
        skip = -raw.ctypes.data % GUARD_LEN
        self.block: npt.NDArray[np.uint8] = raw[skip : skip + total]
        self.hva = self.block.ctypes.data
        self.ranges: list[Range] = []
        off = GUARD_LEN
        for gpa, size in layout:
            self.ranges.append(Range(gpa, size, off))
            self.block[off : off + size] = CANARY
            off += -(-size // GUARD_LEN) * GUARD_LEN + GUARD_LEN
        self._frozen = self.block.copy()

    def pieces(self, gpa: int, length: int) -> Iterable[tuple[int, int]]:
        """(offset in the block, length) of a guest-physical range, which may span regions."""
        while length > 0:
            region = next(r for r in self.ranges if r.gpa <= gpa < r.gpa + r.size)
            piece = min(length, region.gpa + region.size - gpa)
            yield region.off + gpa - region.gpa, piece
            gpa += piece
            length -= piece

    def write(self, gpa: int, data: bytes) -> None:
        """The guest stores bytes."""
        done = 0
        for off, length in self.pieces(gpa, len(data)):
            self.block[off : off + length] = np.frombuffer(data, np.uint8, length, done)
            done += length

    def read(self, gpa: int, length: int) -> bytes:
        """The guest loads bytes."""
        return b"".join(
            self.block[off : off + piece].tobytes() for off, piece in self.pieces(gpa, length)
        )

    def hva_of(self, gpa: int) -> int:
        """Where a guest-physical address lies in this process."""
        return self.hva + next(iter(self.pieces(gpa, 1)))[0]

    def freeze(self) -> None:
        """From now on every change is the device's."""
        np.copyto(self._frozen, self.block)

    def changed(self, allowed: Iterable[tuple[int, int]] = ()) -> list[int]:
        """Offsets of bytes that changed since `freeze`, outside the allowed (gpa, length)."""
        differs = self.block != self._frozen
        for gpa, length in allowed:
            for off, piece in self.pieces(gpa, length):
                differs[off : off + piece] = False
        return [int(off) for off in np.flatnonzero(differs)]
