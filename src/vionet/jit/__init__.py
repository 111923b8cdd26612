"""All knowledge of the compiler: lanes, cache, the kernel decorator, raw memory, libc.

Three lanes run the same sources (environment variable `VIONET_LANE`):

* `compiled` (default): Numba machine code without the GIL.
* `bounds`: the same with every array index checked; an index out of range raises IndexError.
* `interpreted`: plain Python; the intrinsics are replaced by stand-ins made of ctypes.
"""

from vionet.jit.lane import LANE, Lane

__all__ = ["LANE", "Lane"]
