"""The machine that was measured on, and the versions of everything that has a part in it.

Said is what figures depend on, and nothing that tells one machine of a kind from another: no
names, no addresses, no paths.
"""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import vionet

_CACHES: Final = Path("/sys/devices/system/cpu/cpu0/cache")
_HUGE: Final = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_LIBRARIES: Final = ("numba", "llvmlite", "numpy")
_PATIENCE_S: Final = 10.0
# What is measured beside vionet, and how each tells its version.  DPDK has it first of all, even
# where it then does not like the other options.
_PROGRAMS: Final = {
    "QEMU": ("qemu-system-x86_64", "--version"),
    "DPDK": ("dpdk-testpmd", "-v", "--no-huge", "--no-pci", "--in-memory"),
    "Open vSwitch": ("ovs-vswitchd", "--version"),
    "User Mode Linux": ("linux.uml", "--version"),
    "VDE": ("vde_switch", "--version"),
    "iperf3": ("iperf3", "--version"),
}
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)+")


def machine() -> dict[str, Any]:
    """What is here, for JSON."""
    processor = _fields(_text("/proc/cpuinfo"))
    memory = _fields(_text("/proc/meminfo"))
    return {
        "processor": processor.get("model name", platform.machine()),
        "virtual": "hypervisor" in processor.get("flags", "").split(),
        "cores": len(os.sched_getaffinity(0)),
        "caches": caches(_CACHES),
        "memory_gib": round(int(memory.get("MemTotal", "0").split()[0]) / 2**20, 1),
        "page_size": os.sysconf("SC_PAGE_SIZE"),
        "huge_pages": f"{memory.get('HugePages_Total', 0)} of {memory.get('Hugepagesize', '?')}",
        "transparent_huge_pages": chosen(_text(_HUGE)),
        "kernel": first_number(platform.release()),
        "versions": versions(),
    }


def conditions(core: int, load_core: int) -> dict[str, Any]:
    """What may differ from one bench to the next: other load, the cores, the sources."""
    return {
        "load": round(os.getloadavg()[0], 2),
        "core_to_core_ns": _distance(core, load_core),
        "vionet": commit(),
    }


def rows(document: dict[str, Any]) -> list[tuple[str, str]]:
    """`machine()` as words and texts, for people."""
    kind = "a virtual machine's" if document["virtual"] else "a machine's"
    caches = ", ".join(f"{name} {size}" for name, size in document["caches"].items())
    return [
        ("processor", f"{document['processor']}, {kind} {document['cores']} cores; {caches}"),
        ("memory", f"{document['memory_gib']} GiB, pages of {document['page_size']} bytes"),
        (
            "huge pages",
            f"{document['huge_pages']}; transparent: {document['transparent_huge_pages']}",
        ),
        ("kernel", f"Linux {document['kernel']}"),
        ("versions", ", ".join(f"{name} {v}" for name, v in document["versions"].items())),
    ]


def versions() -> dict[str, str]:
    """Of vionet, of what it is made of, and of what it is compared with."""
    found = {"vionet": vionet.__version__, "Python": platform.python_version()}
    found |= {name: importlib.metadata.version(name) for name in _LIBRARIES}
    for name, argv in _PROGRAMS.items():
        if shutil.which(argv[0]):
            found[name] = first_number(_output(argv)) or "of unknown version"
    return found


def commit() -> str:
    """The commit of the sources in use, and whether they differ from it; else the version."""
    root = Path(vionet.__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return vionet.__version__
    git = ("git", "-c", "safe.directory=*", "-C", str(root))
    name = _output((*git, "rev-parse", "--short", "HEAD")).strip()
    changed = _output((*git, "status", "--porcelain", "--", "src")).strip()
    return f"{name}, changed" if changed else name


def caches(folder: Path) -> dict[str, str]:
    """`{"L2": "512 KiB", …}`, of what holds data."""
    found = {}
    for index in sorted(folder.glob("index*")):
        level, kind, size = (_text(index / name) for name in ("level", "type", "size"))
        if kind != "Instruction":
            kib = int(size.rstrip("K") or 0)
            mib = kib >= 1024 and kib % 1024 == 0
            found[f"L{level}"] = f"{kib // 1024} MiB" if mib else f"{kib} KiB"
    return found


def chosen(text: str) -> str:
    """The choice that the kernel shows in brackets."""
    found = re.search(r"\[(\w+)\]", text)
    return found[1] if found else "unknown"


def first_number(text: str) -> str:
    """The first dotted number: `6.1.0` of `6.1.0-18-amd64`."""
    found = _NUMBER.search(text)
    return found[0] if found else ""


def _distance(core: int, load_core: int) -> int | None:
    from vionet.bench.distance import round_trip_ns
    from vionet.jit import LANE, Lane

    here = os.sched_getaffinity(0)
    if core == load_core or not {core, load_core} <= here or LANE is not Lane.COMPILED:
        return None
    try:
        return round(round_trip_ns(load_core, core))
    finally:
        os.sched_setaffinity(0, here)


def _fields(text: str) -> dict[str, str]:
    """`name: value` lines; of a name that comes again, the first."""
    pairs = (line.split(":", 1) for line in reversed(text.splitlines()) if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _text(path: str | Path) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _output(argv: tuple[str, ...]) -> str:
    """All that a program says; nothing if it takes too long."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_PATIENCE_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
