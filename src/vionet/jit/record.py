"""Records: one class declares a layout for NumPy, for Numba and for mypy.

    class Port(Record):
        kind: int
        ledger: Annotated[Ints, 32]

`dtype_of(Port)` is the NumPy structured type (every `int` is an int64), `record_type(Port)` the
type for a kernel's signature, and the annotations are what mypy sees inside kernels.  A record
reaches a kernel as one pointer; its nested arrays have constant shapes, which costs nothing and
lets the bounds lane check each index.
"""

from collections.abc import Iterator
from typing import Annotated, Any, Protocol, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

from vionet.jit.image import compiles

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
R = TypeVar("R", bound="Record")
T_co = TypeVar("T_co", covariant=True)


class Records(Protocol[T_co]):
    """An array of records."""

    def __getitem__(self, index: int) -> T_co: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[T_co]: ...


class Record:
    """Base of layout declarations; never instantiated, `allocate` gives the real thing."""


def _field(hint: Any) -> Any:
    if hint is int:
        return np.dtype(np.int64)
    if get_origin(hint) is not Annotated:
        raise TypeError(f"{hint}: a field is an int or an Annotated array with its shape")
    base, *shape = get_args(hint)
    if base is Ints:
        return np.dtype((np.int64, tuple(shape)))
    if base is Bytes:
        return np.dtype((np.uint8, tuple(shape)))
    (element,) = get_args(base)
    return np.dtype((dtype_of(element), tuple(shape)))


def dtype_of(layout: type[Record]) -> np.dtype[Any]:
    """The NumPy structured type of `layout`; the fields in the order of their declaration."""
    hints = get_type_hints(layout, include_extras=True)
    taken = [name for name in hints if hasattr(np.record, name)]
    if taken:
        raise TypeError(f"{layout.__name__}: NumPy's own attributes hide the fields {taken}")
    return np.dtype([(name, _field(hint)) for name, hint in hints.items()], align=True)


def record_type(layout: type[Record]) -> Any:
    """The type to name in a kernel's signature; nothing where nothing is compiled."""
    if not compiles():
        return None
    import numba

    return numba.from_dtype(dtype_of(layout))


def allocate(layout: type[R]) -> R:
    """One zeroed record of `layout`, which stays at its address for its whole life."""
    array = np.zeros(1, dtype_of(layout)).view(np.recarray)
    return array[0]  # type: ignore[no-any-return]


def address_of(array: Any) -> int:
    """The address of an array's or a record's first byte; valid while the object lives."""
    return int(np.asarray(array).ctypes.data)
