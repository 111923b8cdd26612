"""The monotonic clock, for kernels; whoever asks has room for what the system call writes."""

from typing import Final

from vionet.jit import libc, raw
from vionet.jit.kernel import INT, kernel

CLOCK_MONOTONIC: Final = 1
SECOND_NS: Final = 1_000_000_000


@kernel(INT, INT, inline=True)
def now_ns(clock_hva: int) -> int:
    """Nanoseconds; `clock_hva` is room for two numbers."""
    libc.clock_gettime(CLOCK_MONOTONIC, clock_hva)
    return raw.load_i64(clock_hva) * SECOND_NS + raw.load_i64(clock_hva + 8)
