"""The intrinsics behind `raw`: LLVM instructions that Numba does not offer.

Each is a few lines of IR over an int64 address, typed by a stub that mypy sees, and cacheable.
They exist only inside compiled code; the control plane calls kernels instead.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vionet.jit.kernel import INT, kernel

_I64 = ir.IntType(64)


def _load(bits: int, ordering: str | None = None) -> Any:
    def typed(typingctx: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = ir.IntType(bits)
            pointer = builder.inttoptr(args[0], word.as_pointer())
            if ordering is None:
                value = builder.load(pointer, align=1)
            else:
                value = builder.load_atomic(pointer, ordering, bits // 8)
            return value if bits == 64 else builder.zext(value, _I64)

        return types.int64(types.int64), generate

    return typed


def _store(bits: int, ordering: str | None = None) -> Any:
    def typed(typingctx: Any, address: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            word = ir.IntType(bits)
            pointer = builder.inttoptr(args[0], word.as_pointer())
            narrow = args[1] if bits == 64 else builder.trunc(args[1], word)
            if ordering is None:
                builder.store(narrow, pointer, align=1)
            else:
                builder.store_atomic(narrow, pointer, ordering, bits // 8)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return typed


load_u8: Callable[[int], int] = intrinsic(_load(8))
load_u16: Callable[[int], int] = intrinsic(_load(16))
load_u32: Callable[[int], int] = intrinsic(_load(32))
load_i64: Callable[[int], int] = intrinsic(_load(64))
store_u8: Callable[[int, int], None] = intrinsic(_store(8))
store_u16: Callable[[int, int], None] = intrinsic(_store(16))
store_u32: Callable[[int, int], None] = intrinsic(_store(32))
store_i64: Callable[[int, int], None] = intrinsic(_store(64))
load_acquire_u16: Callable[[int], int] = intrinsic(_load(16, "acquire"))
load_acquire_i64: Callable[[int], int] = intrinsic(_load(64, "acquire"))
store_release_u16: Callable[[int, int], None] = intrinsic(_store(16, "release"))
store_release_i64: Callable[[int, int], None] = intrinsic(_store(64, "release"))


@intrinsic  # type: ignore[untyped-decorator]
def _exchange_if(typingctx: Any, address: Any, expected: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        pair = builder.cmpxchg(pointer, args[1], args[2], "acquire", "monotonic")
        return builder.zext(builder.extract_value(pair, 1), _I64)

    return types.int64(types.int64, types.int64, types.int64), generate


def _fenced(ordering: str) -> Any:
    def typed(typingctx: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            builder.fence(ordering)
            return context.get_dummy_value()

        return types.void(), generate

    return typed


def _prefetch(write: int) -> Any:
    def typed(typingctx: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            i32, byte = ir.IntType(32), ir.IntType(8).as_pointer()
            kind = ir.FunctionType(ir.VoidType(), [byte, i32, i32, i32])
            function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
            pointer = builder.inttoptr(args[0], byte)
            builder.call(function, [pointer, i32(write), i32(3), i32(1)])
            return context.get_dummy_value()

        return types.void(types.int64), generate

    return typed


@intrinsic  # type: ignore[untyped-decorator]
def _relax(typingctx: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        # PAUSE on x86; elsewhere nothing.
        if builder.module.triple.startswith(("x86_64", "i386", "i686")):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(
                cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), []
            )
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic  # type: ignore[untyped-decorator]
def _as_words(typingctx: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], ir.IntType(32).as_pointer())

    return types.CPointer(types.uint32)(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _copy(typingctx: Any, destination: Any, source: Any, length: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        pointers = [builder.inttoptr(arg, byte) for arg in args[:2]]
        cgutils.raw_memcpy(builder, pointers[0], pointers[1], args[2], 1, 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _copy32(typingctx: Any, destination: Any, source: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(ir.IntType(8), 32).as_pointer()
        value = builder.load(builder.inttoptr(args[1], vector), align=1)
        builder.store(value, builder.inttoptr(args[0], vector), align=1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _copy_and_add(typingctx: Any, destination: Any, source: Any, blocks: Any) -> Any:
    """Copy blocks of 64 bytes and sum their 32-bit words from the registers they pass through."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = ir.VectorType(_I64, 4)
        zero, low = ir.Constant(vector, [0] * 4), ir.Constant(vector, [0xFFFFFFFF] * 4)
        half = ir.Constant(vector, [32] * 4)
        before = builder.block
        loop, end = builder.append_basic_block("loop"), builder.append_basic_block("end")
        builder.cbranch(builder.icmp_signed(">", args[2], _I64(0)), loop, end)
        builder.position_at_end(loop)
        i = builder.phi(_I64)
        sums = [builder.phi(vector) for _ in range(2)]
        after = []
        for j, total in enumerate(sums):
            off = builder.add(builder.shl(i, _I64(6)), _I64(32 * j))
            at = [builder.inttoptr(builder.add(a, off), vector.as_pointer()) for a in args[:2]]
            value = builder.load(at[1], align=1)
            builder.store(value, at[0], align=1)
            total = builder.add(total, builder.and_(value, low))
            after.append(builder.add(total, builder.lshr(value, half)))
        following = builder.add(i, _I64(1))
        builder.cbranch(builder.icmp_signed("<", following, args[2]), loop, end)
        for phi, first, later in (
            (i, _I64(0), following),
            *zip(sums, (zero, zero), after, strict=True),
        ):
            phi.add_incoming(first, before)
            phi.add_incoming(later, loop)
        builder.position_at_end(end)
        ends = [builder.phi(vector) for _ in range(2)]
        for phi, later in zip(ends, after, strict=True):
            phi.add_incoming(zero, before)
            phi.add_incoming(later, loop)
        lanes = builder.add(*ends)
        parts = [builder.extract_element(lanes, ir.IntType(32)(k)) for k in range(4)]
        return builder.add(builder.add(*parts[:2]), builder.add(*parts[2:]))

    return types.int64(types.int64, types.int64, types.int64), generate


fence: Callable[[], None] = intrinsic(_fenced("seq_cst"))
fence_acquire: Callable[[], None] = intrinsic(_fenced("acquire"))
fence_release: Callable[[], None] = intrinsic(_fenced("release"))
prefetch: Callable[[int], None] = intrinsic(_prefetch(0))
prefetch_write: Callable[[int], None] = intrinsic(_prefetch(1))
exchange_if: Callable[[int, int, int], int] = _exchange_if
relax: Callable[[], None] = _relax
copy: Callable[[int, int, int], None] = _copy
copy32: Callable[[int, int], None] = _copy32


@kernel(INT, INT, INT)
def sum_words(address: int, length: int) -> int:
    """The sum of the 32-bit words in `length` bytes, an odd tail padded with zeros.

    Indexing a typed pointer from 0 is what LLVM vectorises: 43-49 GB/s of cached data.
    """
    words = _as_words(address)
    total = np.int64(0)
    for i in range(length >> 2):
        total += np.int64(words[i])
    rest = length & 3
    base = address + (length & ~3)
    for i in range(rest):
        total += load_u8(base + i) << (8 * i)
    return int(total)


@kernel(INT, INT, INT, INT)
def copy_words(destination: int, source: int, length: int) -> int:
    """Copy `length` bytes and *return* the sum of their 32-bit words, as `sum_words`.

    Each word is summed in the register that it passes through: over memory beyond the cache not
    slower than memcpy alone, and what is summed is what was stored.
    """
    total = _copy_and_add(destination, source, length >> 6)
    off = length & ~63
    while off + 8 <= length:
        word = load_i64(source + off)
        store_i64(destination + off, word)
        total += (word & 0xFFFFFFFF) + (word >> 32 & 0xFFFFFFFF)
        off += 8
    rest = length - off
    if rest >= 4:
        word = load_u32(source + off)
        store_u32(destination + off, word)
        total += word
        off += 4
        rest -= 4
    word = 0
    if rest >= 2:
        word = load_u16(source + off)
        store_u16(destination + off, word)
    if rest & 1:
        octet = load_u8(source + length - 1)
        store_u8(destination + length - 1, octet)
        word |= octet << 8 * (rest - 1)
    return int(total + word)
