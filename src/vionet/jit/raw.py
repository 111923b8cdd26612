"""Raw memory: loads, stores, ordering, prefetch and copies by address.

Addresses and values are int64; a load widens without sign.  Only `engine/guest.py` and the ring
modules, which have compared every address and length with the memory map, may call these.

Ordering: `load_acquire_u16` and `store_release_u16` for ring indices; `fence` is a full barrier,
needed where a store has to be seen before a later load (event index, spec SP-29, SP-30).
`fence_release` keeps earlier accesses before later stores, `fence_acquire` earlier loads before
later accesses; on x86 both are no instruction.  The former stands before the store of a used entry
that may not lie where an atomic store could go.  `exchange_if` takes a lock, `store_release_i64`
gives it back.
"""

import ctypes
import threading

from vionet.jit.image import compiles

if not compiles():

    def load_u8(address: int) -> int:
        """The byte at `address`."""
        return ctypes.c_uint8.from_address(int(address)).value

    def load_u16(address: int) -> int:
        """The 16-bit word at `address`, host order."""
        return ctypes.c_uint16.from_address(int(address)).value

    def load_u32(address: int) -> int:
        """The 32-bit word at `address`, host order."""
        return ctypes.c_uint32.from_address(int(address)).value

    def load_i64(address: int) -> int:
        """The 64-bit word at `address`, as a signed number."""
        return ctypes.c_int64.from_address(int(address)).value

    def store_u16(address: int, value: int) -> None:
        """Store the low 16 bits of `value`."""
        ctypes.c_uint16.from_address(int(address)).value = int(value)

    def store_u32(address: int, value: int) -> None:
        """Store the low 32 bits of `value`."""
        ctypes.c_uint32.from_address(int(address)).value = int(value)

    def store_i64(address: int, value: int) -> None:
        """Store 64 bits."""
        ctypes.c_int64.from_address(int(address)).value = int(value)

    def load_acquire_u16(address: int) -> int:
        """Load; no later access may be moved before it."""
        return load_u16(address)

    def store_release_u16(address: int, value: int) -> None:
        """Store; no earlier access may be moved after it."""
        store_u16(address, value)

    def load_acquire_i64(address: int) -> int:
        """Load; no later access may be moved before it."""
        return load_i64(address)

    _atomic = threading.Lock()

    def exchange_if(address: int, expected: int, value: int) -> int:
        """Store `value` where `expected` is; *returns* 1 if it was.  No later access may be moved
        before it."""
        with _atomic:
            word = ctypes.c_int64.from_address(int(address))
            found = word.value == expected
            if found:
                word.value = int(value)
            return int(found)

    def store_release_i64(address: int, value: int) -> None:
        """Store; no earlier access may be moved after it."""
        store_i64(address, value)

    def fence() -> None:
        """Full memory barrier."""

    def fence_acquire() -> None:
        """No later access may be moved before an earlier load."""

    def fence_release() -> None:
        """No earlier access may be moved after a later store."""

    def prefetch(address: int) -> None:
        """Hint that the line at `address` will be read; harmless for any address."""

    def prefetch_write(address: int) -> None:
        """Hint that the line at `address` will be written; harmless for any address."""

    def relax() -> None:
        """Tell the processor that this is a spin loop."""

    def copy(destination: int, source: int, length: int) -> None:
        """Copy `length` bytes between areas that do not overlap."""
        ctypes.memmove(int(destination), int(source), int(length))

    def copy32(destination: int, source: int) -> None:
        """Copy 32 bytes between areas that do not overlap."""
        ctypes.memmove(int(destination), int(source), 32)

    def copy_words(destination: int, source: int, length: int) -> int:
        """Copy `length` bytes and *return* the sum of their 32-bit words, as `sum_words`."""
        copy(destination, source, length)
        return sum_words(destination, length)

    def sum_words(address: int, length: int) -> int:
        """The sum of the 32-bit words in `length` bytes, an odd tail padded with zeros."""
        data = ctypes.string_at(int(address), int(length))
        data += b"\0" * (-len(data) % 4)
        return sum(memoryview(data).cast("I"))

else:
    from vionet.jit.intrinsic import (  # type: ignore[assignment]  # noqa: F401
        copy,
        copy32,
        copy_words,
        exchange_if,
        fence,
        fence_acquire,
        fence_release,
        load_acquire_i64,
        load_acquire_u16,
        load_i64,
        load_u8,
        load_u16,
        load_u32,
        prefetch,
        prefetch_write,
        relax,
        store_i64,
        store_release_i64,
        store_release_u16,
        store_u16,
        store_u32,
        sum_words,
    )
