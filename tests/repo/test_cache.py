"""The compiler's cache and its bounds checks: the traps that `jit.lane` exists for."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import vionet
from vionet.jit import LANE, Lane

pytestmark = pytest.mark.skipif(LANE is not Lane.COMPILED, reason="starts lanes of its own")

CALLEE = """
from vionet.jit.kernel import INT, kernel
@kernel(INT, INT)
def step(value: int) -> int:
    return value + {step}
"""
CALLER = """
from vionet.engine.callee import step
from vionet.jit.kernel import INT, kernel
@kernel(INT, INT)
def twice(value: int) -> int:
    return step(step(value))
"""
REPORT = """
from vionet.engine.caller import twice
from vionet.jit.lane import CACHE_DIR
hits = sum(twice.stats.cache_hits.values())
print(twice(0), hits, CACHE_DIR)
"""


def python(
    source: str, *, path: Path, cache: Path, lane: str = "compiled"
) -> subprocess.CompletedProcess[str]:
    """Run `source` in a new interpreter with the package found in `path`."""
    env = {
        **os.environ,
        "PYTHONPATH": str(path),
        "VIONET_CACHE_DIR": str(cache),
        "VIONET_LANE": lane,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", source],
        cwd=path,
        env=env,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a copy of the package that has two kernels more, one calling the other."""
    source = Path(vionet.__file__).parent
    copy = tmp_path / "package" / "vionet"
    for folder in ("jit", "spec"):
        shutil.copytree(
            source / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(source / "__init__.py", copy)
    engine = copy / "engine"
    engine.mkdir()
    (engine / "__init__.py").touch()
    (engine / "callee.py").write_text(CALLEE.format(step=1))
    (engine / "caller.py").write_text(CALLER)
    return copy.parent


def report(package: Path, cache: Path) -> list[str]:
    """What `twice(0)` is in a new process, whether it came from the cache, and which cache."""
    done = python(REPORT, path=package, cache=cache)
    assert done.returncode == 0, done.stderr
    return done.stdout.split(maxsplit=2)


def test_edited_callee_reaches_its_caller(package: Path, tmp_path: Path) -> None:
    """A caller in an untouched file runs the new code of a callee edited in another one."""
    assert ["2", "0"] == report(package, tmp_path / "cache")[:2]
    assert ["2", "1"] == report(package, tmp_path / "cache")[:2]
    (package / "vionet" / "engine" / "callee.py").write_text(CALLEE.format(step=5))
    assert ["10", "0"] == report(package, tmp_path / "cache")[:2]


BENCH = """
from vionet.engine.caller import twice
from vionet.jit.kernel import INT, kernel
@kernel(INT, INT)
def more(value: int) -> int:
    return twice(value) + {more}
"""
BOTH = """
from vionet.bench.caller import more
from vionet.engine.caller import twice
print(more(0), *(sum(k.stats.cache_hits.values()) for k in (more, twice)))
"""


def test_edited_bench_leaves_the_engine_compiled(package: Path, tmp_path: Path) -> None:
    """An edit of a bench compiles its kernels anew and none of the engine's; an edit of the engine
    reaches the benches' too."""

    def run(step: int, more: int) -> list[str]:
        (package / "vionet" / "bench").mkdir(exist_ok=True)
        (package / "vionet" / "bench" / "caller.py").write_text(BENCH.format(more=more))
        (package / "vionet" / "engine" / "callee.py").write_text(CALLEE.format(step=step))
        done = python(BOTH, path=package, cache=tmp_path / "cache")
        assert 0 == done.returncode, done.stderr
        return done.stdout.split()

    assert ["3", "0", "0"] == run(step=1, more=1)
    assert ["3", "1", "1"] == run(step=1, more=1)
    assert ["4", "0", "1"] == run(step=1, more=2)
    assert ["12", "0", "0"] == run(step=5, more=2)


def test_unwritable_cache_is_replaced_by_a_temporary_one(package: Path, tmp_path: Path) -> None:
    """Where the cache cannot be written the process compiles into a folder that it removes."""
    blocked = tmp_path / "file"
    blocked.write_text("a file stands where the cache should be")
    value, hits, folder = report(package, blocked)
    assert ["2", "0"] == [value, hits]
    assert not Path(folder.strip()).exists()
    assert blocked.is_file()


def test_cache_that_others_may_write_is_not_used(package: Path, tmp_path: Path) -> None:
    """What lies in the cache is run: a folder where anybody may put something is no cache."""
    _, _, folder = report(package, tmp_path / "cache")
    kept = Path(folder.strip())
    assert 0o700 == kept.stat().st_mode & 0o777
    kept.chmod(0o777)
    value, hits, folder = report(package, tmp_path / "cache")
    assert ["2", "0"] == [value, hits]
    assert kept != Path(folder.strip())
    kept.chmod(0o700)
    assert ["2", "1"] == report(package, tmp_path / "cache")[:2]


def test_lanes_do_not_share_machine_code(package: Path, tmp_path: Path) -> None:
    """Code compiled without bounds checks is never found by the bounds lane."""
    first = python(REPORT, path=package, cache=tmp_path / "cache")
    second = python(REPORT, path=package, cache=tmp_path / "cache", lane="bounds")
    assert ["2", "0"] == first.stdout.split()[:2], first.stderr
    assert ["2", "0"] == second.stdout.split()[:2], second.stderr
    assert first.stdout.split()[2] != second.stdout.split()[2]


PAST_THE_END = """
from typing import Annotated
from vionet.jit.kernel import INT, kernel
from vionet.jit.record import Ints, Record, allocate, record_type
class Ring(Record):
    slots: Annotated[Ints, 4]
@kernel(INT, record_type(Ring), INT)
def read_slot(ring: Ring, slot: int) -> int:
    return ring.slots[slot]
ring = allocate(Ring)
ring["slots"][:] = 7
print(read_slot(ring, 3))
try:
    read_slot(ring, 4)
except IndexError:
    print("IndexError")
"""


@pytest.mark.parametrize(
    ("lane", "expected"),
    [("bounds", "7\nIndexError\n"), ("interpreted", "7\nIndexError\n"), ("compiled", "7\n")],
)
def test_index_past_a_ring(lane: str, expected: str, tmp_path: Path) -> None:
    """One past the end raises in two lanes; compiled code says nothing, hence those lanes."""
    (tmp_path / "ring.py").write_text(PAST_THE_END)
    done = python(
        "import runpy; runpy.run_path('ring.py', run_name='ring')",
        path=tmp_path,
        cache=tmp_path / "cache",
        lane=lane,
    )
    assert expected == done.stdout, done.stderr


def test_unknown_lane_is_named() -> None:
    """A lane that does not exist ends the process with one line that lists those that do."""
    done = python("import vionet.jit", path=Path.cwd(), cache=Path.cwd(), lane="fast")
    assert 1 == done.returncode
    assert "vionet: VIONET_LANE=fast" in done.stderr
    assert 1 == len(done.stderr.splitlines())


IMAGED = """
import sys
from vionet.jit import image
missing = image.use()
from vionet.engine.caller import twice
from vionet.engine.callee import longest
from vionet.engine.callee import made
from vionet.jit import fault
fault.install()
if missing:
    image.write()
print(missing, twice(0), longest(made()), "numba" in sys.modules)
"""
# Compiles one function more, and so gives the kernels other names.
OTHER = """
import numba
numba.njit("int64(int64)")(lambda value: value)
import vionet.engine.caller
from vionet.jit import fault
fault.install()
"""
BESIDE = f"""
    import shutil, subprocess
    for folder in image.CACHE_DIR.iterdir():
        shutil.rmtree(folder)
    subprocess.run([sys.executable, "-c", {OTHER!r}], check=True)
    image.write()"""
RECORD = """
from typing import Annotated
from vionet.jit.record import Ints, Record, allocate, record_type
class Lengths(Record):
    slots: Annotated[Ints, 4]
LENGTHS = record_type(Lengths)
@kernel(INT, LENGTHS)
def longest(lengths: Lengths) -> int:
    found = -1
    for slot in range(4):
        found = max(found, lengths.slots[slot])
    return found
def made() -> Lengths:
    lengths = allocate(Lengths)
    lengths.slots[:] = [-5, 3, 1 << 40, 7]
    return lengths
"""


def imaged(package: Path, cache: Path) -> list[str]:
    """Whether there was no image; what two kernels return; whether Numba was loaded."""
    done = python(IMAGED, path=package, cache=cache)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_image_serves_kernels_without_the_compiler(package: Path, tmp_path: Path) -> None:
    """After one process has made the image, the next one runs the same kernels without Numba."""
    callee = package / "vionet" / "engine" / "callee.py"
    callee.write_text(CALLEE.format(step=1) + RECORD)
    largest = str(1 << 40)
    assert ["True", "2", largest, "True"] == imaged(package, tmp_path / "cache")
    assert ["False", "2", largest, "False"] == imaged(package, tmp_path / "cache")
    callee.write_text(CALLEE.format(step=5) + RECORD)
    assert ["True", "10", largest, "True"] == imaged(package, tmp_path / "cache")


def test_processes_that_compile_at_once(package: Path, tmp_path: Path) -> None:
    """Where two processes fill an empty cache at once, no image is made of halves of both; the
    next process makes a whole one."""
    callee = package / "vionet" / "engine" / "callee.py"
    callee.write_text(CALLEE.format(step=1) + RECORD)
    expected = ["True", "2", str(1 << 40), "True"]
    beside = IMAGED.replace("\n    image.write()", BESIDE)
    done = python(beside, path=package, cache=tmp_path / "cache")
    assert expected == done.stdout.split(), done.stderr
    assert expected == imaged(package, tmp_path / "cache")
    assert "False" == imaged(package, tmp_path / "cache")[0]


def signed(data: bytes) -> bytes:
    """An image with its digest."""
    return data + hashlib.sha256(data).digest()


def test_image_of_another_machine_or_damaged_is_not_used(package: Path, tmp_path: Path) -> None:
    """An image whose first line differs, or in which anything is not as it was, is made again."""
    (package / "vionet" / "engine" / "callee.py").write_text(CALLEE.format(step=1) + RECORD)
    assert "True" == imaged(package, tmp_path / "cache")[0]
    (path,) = (tmp_path / "cache").glob("compiled/*/image")
    whole = path.read_bytes()
    data = whole[:-32]
    head, _, code = data.partition(b"\n")
    assert signed(data) == whole
    for damaged in (
        signed(data.replace(b'"machine": ["', b'"machine": ["x', 1)),
        signed(b""),
        head + b"\n" + bytes(len(code)) + whole[-32:],  # as after a power cut
        whole[:100],
        whole[:-1],
        b"",
    ):
        path.write_bytes(damaged)
        assert "True" == imaged(package, tmp_path / "cache")[0]
    assert "False" == imaged(package, tmp_path / "cache")[0]
