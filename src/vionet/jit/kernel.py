"""The one decorator for everything that is compiled.

`@kernel(INT, STATE, INT)` compiles a function that returns an int64 and takes a state record and
an int64.  The signature is explicit, so nothing is ever compiled again afterwards: an argument of
another type is a TypeError and not a silent second specialisation.

`_nrt=False`: kernels allocate nothing, and array arguments are not reference-counted; counting
them made the same engine 4 times slower (329 ns against 76 ns a frame).

`inline=True` forces LLVM to inline the kernel into its callers: for the few small kernels on the
path of every frame.  Every other kernel is reached by a symbol of the process: Numba would link
its whole call tree into each caller, to be optimised there once more (a cold compile took twice
as long, and 64-byte frames went no faster for it).

Compiling costs Python's time more than LLVM's, and little depends on how long a kernel is.  So
nothing is made that nobody needs: no pass that finds nothing (`jit.pipeline`), no wrapper for
calls from Python (`jit.call` does without) but in the bounds lane, where kernels raise.
"""

import copy
from collections.abc import Callable
from typing import Any, Final, ParamSpec, TypeVar

from vionet.jit import image
from vionet.jit.lane import CACHE_DIR, LANE, Lane, cache_of, kernel_sources

P = ParamSpec("P")
R = TypeVar("R")

Progress = Callable[[int, int, str], None]
_progress: list[Progress] = []
_compiled: list[str] = []
KERNELS: Final[list[Any]] = []  # every dispatcher, for the tests of the compiler's output

if LANE is Lane.INTERPRETED:
    INT: Any = None

    def kernel(
        returns: Any, *arguments: Any, inline: bool = False
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """In the interpreted lane a kernel is the Python function itself."""

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            KERNELS.append(function)
            return function

        return decorate

elif not image.compiles():
    INT = None

    def kernel(
        returns: Any, *arguments: Any, inline: bool = False
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """A kernel of the image is linked, and called by ctypes."""

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            name = f"{function.__module__}.{function.__qualname__}"
            linked: Any = image.taken().function(name, len(arguments))
            KERNELS.append(linked)
            return linked  # type: ignore[no-any-return]

        return decorate

else:
    import llvmlite.binding
    import numba
    from numba import types
    from numba.core.registry import CPUDispatcher

    from vionet.jit.call import caller
    from vionet.jit.pipeline import KernelCompiler

    INT = types.int64

    class _Called(CPUDispatcher):  # type: ignore[misc]
        """A kernel without a wrapper."""

        by_address: Callable[..., int]

        def __call__(self, *args: Any) -> int:
            return self.by_address(*args)

    def _call_by_address(dispatcher: Any, address: int) -> None:
        """Have Python call it without a wrapper."""
        (signature,) = dispatcher.signatures
        kinds = [None if t is INT else (tuple(t.fields), t.size) for t in signature]
        dispatcher.__class__ = _Called
        dispatcher.by_address = caller(dispatcher.__name__, address, kinds)

    def _call_by_symbol(result: Any, address: int) -> None:
        """Have the callers of a compiled kernel find it by a name that is the same in every
        process, so that they can be cached."""
        description = copy.copy(result.fndesc)
        description.mangled_name = f"{image.ALIAS}{description.modname}.{description.qualname}"
        llvmlite.binding.add_symbol(description.mangled_name, address)
        result.target_context.remove_user_function(result.entry_point)
        result.target_context.insert_user_function(result.entry_point, description, ())

    def kernel(
        returns: Any, *arguments: Any, inline: bool = False
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Compile for exactly one signature; loads from the cache where it can."""
        signature = returns(*arguments)
        options: dict[str, Any] = {
            "nogil": True,
            "cache": True,
            "error_model": "numpy",
            "_nrt": False,
            "boundscheck": LANE is Lane.BOUNDS,
            "no_cfunc_wrapper": True,
            "no_cpython_wrapper": LANE is Lane.COMPILED,
            "pipeline_class": KernelCompiler,
            # Under bounds checking an exception must be able to leave the callee.
            "forceinline": inline and LANE is Lane.COMPILED,
        }

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            numba.config.CACHE_DIR = str(cache_of(function.__module__))
            dispatcher = numba.jit(signature, nopython=True, **options)(function)
            numba.config.CACHE_DIR = str(CACHE_DIR)
            (result,) = dispatcher.overloads.values()
            address = result.library.get_pointer_to_function(result.fndesc.llvm_func_name)
            if LANE is Lane.COMPILED:
                _call_by_address(dispatcher, address)
            if not inline:
                _call_by_symbol(result, address)
            KERNELS.append(dispatcher)
            _compiled.append(function.__name__)
            for report in _progress:
                report(len(_compiled), kernel_count(), function.__name__)
            return dispatcher  # type: ignore[no-any-return]

        return decorate


def kernel_count() -> int:
    """About how many kernels there are: the decorators in the sources of the engine."""
    return sum(path.read_text().count("\n@kernel(") for path in kernel_sources())


def watch_compilation(report: Progress) -> None:
    """Have `report(done, total, name)` called after each kernel is compiled or loaded."""
    _progress.append(report)
