"""A capture of a fabric: its filter judged, its ring made, its record in the state block.

How it works: `judged` reads a filter as Linux reads that of a process (`bpf_check_classic`): each
opcode known, jumps inside (forward is the only way that they have), the store's words in bounds and
written to on every way to where they are read, no constant 0 to divide by, RET at the end.
`CaptureRing` has a sealed memory file, which neither side can shrink, and a pipe whose reading end
is the reader's: a write to the other one never blocks, whatever the reader does with its own.

Trust: filter and ring are a client's.  The engine reads one word of the ring (`engine.capture`).

Threads: the control plane's.
"""

import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any, Final

import numpy as np

from vionet.engine import bpf
from vionet.engine.layout import (
    CAPTURES_MAX,
    CODE_MAX,
    FRAME_MAX,
    PORTS_MAX,
    RING_PAGE,
    STORE_LEN,
    Capture,
    State,
)
from vionet.jit.record import Ints, address_of

RING_MIN: Final = 64 << 10
RING_MAX: Final = 1 << 30
EVERY_PORT: Final = -1
INSTRUCTION: Final = struct.Struct("<HBBI")  # struct sock_filter
_WIDTHS: Final = (bpf.W, bpf.H, bpf.B)
_LOADS: Final = [bpf.LD | mode | width for mode in (bpf.ABS, bpf.IND) for width in _WIDTHS]
_OPERATIONS: Final = (
    bpf.ADD, bpf.SUB, bpf.MUL, bpf.DIV, bpf.OR, bpf.AND, bpf.LSH, bpf.RSH, bpf.MOD, bpf.XOR,
)  # fmt: skip
_CONDITIONS: Final = (bpf.JEQ, bpf.JGT, bpf.JGE, bpf.JSET)
_STORES: Final = (bpf.ST, bpf.STX)
_STORED: Final = (bpf.LD | bpf.MEM, bpf.LDX | bpf.MEM)
_JUMP: Final = bpf.JMP | bpf.JA
_BRANCHES: Final = [bpf.JMP | how | what for how in _CONDITIONS for what in (0, bpf.X)]
_RETURNS: Final = (bpf.RET, bpf.RET | bpf.A)
KNOWN: Final = {
    *_LOADS, *_STORES, *_STORED, _JUMP, *_BRANCHES, *_RETURNS,
    *(bpf.ALU | how | what for how in _OPERATIONS for what in (0, bpf.X)),
    *(kind | mode for kind in (bpf.LD, bpf.LDX) for mode in (bpf.IMM, bpf.LEN)),
    bpf.LDX | bpf.MSH | bpf.B, bpf.ALU | bpf.NEG, bpf.MISC, bpf.MISC | bpf.TXA,
}  # fmt: skip


class FilterError(ValueError):
    """A filter that is none."""


def judged(code: bytes) -> Ints:
    """The instructions of a filter, a word each.  Raises `FilterError`."""
    count, rest = divmod(len(code), INSTRUCTION.size)
    if rest or count > CODE_MAX:
        raise FilterError(f"a filter has at most {CODE_MAX} instructions of 8 bytes each")
    written = 0  # words of store that every way to here has written to, a bit each
    ways = [-1] * count  # the same of those ways that jump
    for at, (opcode, jt, jf, k) in enumerate(INSTRUCTION.iter_unpack(code)):
        targets = [k] if opcode == _JUMP else [jt, jf] if opcode in _BRANCHES else []
        written &= ways[at]
        fault = _fault(opcode, k)
        if opcode not in _RETURNS and at + 1 + max(targets, default=0) >= count:
            fault = fault or "it leads out of the filter"
        if not fault and opcode in _STORED and not written >> k & 1:
            fault = f"word {k} of the store may not be written yet"
        if fault:
            raise FilterError(f"instruction {at} of the filter ({opcode:#04x}): {fault}")
        if opcode in _STORES:
            written |= 1 << k
        for target in targets:
            ways[at + 1 + target] &= written
        if targets:
            written = -1  # nobody comes here from above
    return np.frombuffer(code, "<i8").astype(np.int64)


def _fault(opcode: int, k: int) -> str:
    """What is wrong with one instruction in itself."""
    if opcode not in KNOWN:
        return "no such opcode"
    operation = opcode & 0xF0
    if opcode in (*_STORES, *_STORED) and k >= STORE_LEN:
        return f"the store has {STORE_LEN} words"
    if opcode & 7 == bpf.ALU and not opcode & bpf.X:
        if operation in (bpf.DIV, bpf.MOD) and k == 0:
            return "a division by 0"
        if operation in (bpf.LSH, bpf.RSH) and k >= 32:
            return "a shift by more than 31"
    if opcode & 0xE0 == bpf.ABS and opcode & 7 == bpf.LD and k >= 1 << 31:
        return "what the kernel knows of a packet is not known here"
    return ""


class CaptureRing:
    """One capture, until `close`: a reader gets `fd` (the ring) and `notify_fd` (its pipe)."""

    def __init__(
        self,
        state: State,
        hold: Callable[[], AbstractContextManager[None]],
        indices: Iterable[int] | None,
        ring_len: int,
        code: bytes,
    ) -> None:
        """Of the ports with these indices, or of all that are and will be; nothing yet.

        A filter of no instructions accepts every frame.  Raises ValueError.
        """
        free = [c for c in range(CAPTURES_MAX) if not state.captures[c].on]
        if not free:
            raise ValueError(f"{CAPTURES_MAX} captures of this fabric are on: end one of them")
        if ring_len & ring_len - 1 or not RING_MIN <= ring_len <= RING_MAX:
            raise ValueError(f"a ring of {ring_len} bytes: take a power of two, 64 KiB to 1 GiB")
        self.number = free[0]
        self._state, self._hold, self._ring_len = state, hold, ring_len
        self._words = judged(code)
        self._tx_ports = 0 if indices is None else signed(sum(1 << index for index in set(indices)))
        self._rx_ports = EVERY_PORT if indices is None else self._tx_ports
        self.notify_fd, self._wake_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            self.fd, self._memory = _sealed_memory(RING_PAGE + ring_len)
        except OSError:
            os.close(self.notify_fd)
            os.close(self._wake_fd)
            raise

    def start(self, snap_len: int, whole: bool) -> None:
        """Record, at most so many bytes of a frame; `whole` where its sum is to be finished."""
        record: Any = self._state.captures
        with self._hold():
            record[self.number] = np.zeros(1, record.dtype)[0]
            capture = self._record
            capture.tx_ports, capture.rx_ports = self._tx_ports, self._rx_ports
            capture.snap_len, capture.whole = min(max(snap_len, 0), FRAME_MAX), int(whole)
            capture.ring_hva = address_of(np.frombuffer(self._memory, np.uint8))
            capture.ring_len, capture.notify_fd = self._ring_len, self._wake_fd
            capture.code[: len(self._words)] = self._words
            capture.code_len = len(self._words)
            capture.on = 1
            self._state.n_captures = max(int(self._state.n_captures), self.number + 1)

    @property
    def _record(self) -> Capture:
        return self._state.captures[self.number]

    @property
    def indices(self) -> list[int] | None:
        """Of the ports that it is asked for; None: all."""
        mask = int(self._record.tx_ports)
        return [i for i in range(PORTS_MAX) if mask >> i & 1] if self._tx_ports else None

    @property
    def records(self) -> int:
        """Written so far."""
        return int(self._record.records)

    @property
    def lost(self) -> int:
        """Records that found no room, because the reader is slow."""
        return int(self._record.lost)

    def close(self) -> None:
        """Record no more, and let go of ring and pipe."""
        with self._hold():
            self._record.on = 0
            on = [c for c in range(CAPTURES_MAX) if self._state.captures[c].on]
            self._state.n_captures = max(on, default=-1) + 1
        self._memory.close()
        for fd in (self.fd, self.notify_fd, self._wake_fd):
            os.close(fd)


def forget_captured(state: State, index: int) -> None:
    """Whoever is plugged in at `index` next is another.  *requires* hold."""
    for capture in state.captures:
        if capture.tx_ports:  # one of all ports has none
            capture.tx_ports &= ~signed(1 << index)
            capture.rx_ports = capture.tx_ports


def signed(mask: int) -> int:
    """A mask of 64 ports as the int64 of a record."""
    return mask - (1 << 64) if mask >> 63 else mask


def _sealed_memory(size: int) -> tuple[int, mmap.mmap]:
    """A memory file that has all its pages and keeps its size, and it mapped."""
    fd = os.memfd_create("vionet-capture", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(
            fd, 0, size
        )  # what cannot be had is the client's trouble, not a worker's
        fcntl.fcntl(
            fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
        return fd, mmap.mmap(fd, size)
    except OSError:
        os.close(fd)
        raise
