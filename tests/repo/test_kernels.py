"""What the compiler made of the kernels."""

import subprocess
import sys

import pytest

from scripts.compile_kernels import import_kernels
from tests.tools import ROOT
from vionet.jit import LANE, Lane
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
COUNTED = """
from scripts.compile_kernels import import_kernels
from vionet.jit.kernel import KERNELS
import_kernels()
texts = {k.__name__: text for k in KERNELS for text in k.inspect_llvm().values()}
counting = [name for name, text in texts.items() if "NRT_incref" in text or "NRT_decref" in text]
print(len(texts), "kernels, counting:", counting)
assert texts and all(texts.values()) and not counting
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kernels_count_no_references(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No kernel's code counts references: that made frames four times slower."""
    done = subprocess.run(
        [sys.executable, "-c", COUNTED],
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
