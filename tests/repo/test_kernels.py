"""What the compiler made of the kernels."""

import json
import re
import subprocess
import sys

import pytest

import vionet.jit.fault  # noqa: F401 - its descriptor lasts as long as the process
from scripts.compile_kernels import import_kernels
from tests.tools import ROOT
from vionet.jit import LANE, Lane, libc
from vionet.jit.kernel import KERNELS

pytestmark = pytest.mark.skipif(LANE is not Lane.COMPILED, reason="looks at compiled code")


def signatures(dispatcher: object) -> int:
    """For how many signatures a kernel was compiled."""
    return len(dispatcher.signatures)  # type: ignore[attr-defined]


@pytest.mark.timeout(600)
def test_kernels_have_one_signature_each() -> None:
    """Importing compiles each kernel once, for the signature it declares."""
    import_kernels()
    assert KERNELS
    assert {} == {k.__name__: signatures(k) for k in KERNELS if signatures(k) != 1}


# The kernels are compiled anew here, because a cached one has no IR to look at.
LOOKED_AT = r"""
import json, re
import vionet.jit.fault  # noqa: F401 - its descriptor lasts as long as the process
from scripts.compile_kernels import import_kernels
from vionet.jit.kernel import KERNELS
import_kernels()
full_name = lambda k: f"{k.py_func.__module__}.{k.__name__}"
texts = {full_name(k): text for k in KERNELS for text in k.inspect_llvm().values()}
declared = re.compile(r'^declare [^@]*@"?([^"(]+)', re.M)
between = [text for name, text in texts.items() if not name.startswith("vionet.bench.")]
called = sorted({name for text in between for name in declared.findall(text)})
numbers = re.compile(r"\b(half|float|double|fp128)\b")
real = [name for name, text in texts.items() if numbers.search(text)]
empty = [name for name, text in texts.items() if "define" not in text]
print(json.dumps({"called": called, "real": real, "empty": empty, "kernels": len(texts)}))
"""
OURS = re.compile(r"vionet\.|_ZN.*vionet|vionet_fault_table")  # other kernels, by name or mangled
LIBRARY = {name for name in libc.__all__ if name != "errno"} | {"__errno_location"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kernels_are_integers_and_system_calls(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No kernel's code has a floating-point number in it, and the engine's call nothing but
    kernels, the C library and the processor: no Python object is touched, no reference is counted
    (that made frames four times slower), nothing is allocated.
    """
    done = subprocess.run(
        [sys.executable, "-c", LOOKED_AT],
        cwd=ROOT,
        env={
            "PATH": "",
            "PYTHONPATH": "src:.",
            "VIONET_CACHE_DIR": str(tmp_path_factory.mktemp("c")),
        },
        capture_output=True,
        text=True,
        timeout=590,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert found["kernels"] > 100 and not found["empty"]
    assert [] == found["real"]
    others = {name for name in found["called"] if not name.startswith("llvm.")}
    assert set() == {name for name in others if not OURS.match(name)} - LIBRARY


OTHER_ARGUMENT = """
from vionet.jit.kernel import INT, kernel
@kernel(INT, INT)
def double(value: int) -> int:
    return value + value
assert 6 == double(3)
try:
    double("3")
except TypeError:
    assert 1 == len(double.signatures)
    print("refused")
"""


def test_another_argument_type_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A kernel is never compiled again for an argument of another type; it raises TypeError."""
    script = tmp_path_factory.mktemp("kernel") / "double.py"
    script.write_text(OTHER_ARGUMENT)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=False
    )
    assert "refused\n" == done.stdout, done.stderr
