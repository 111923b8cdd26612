"""What everything made of DPDK needs: huge pages, and the arguments of its environment.

How it works: `--in-memory` has DPDK take its huge pages from the kernel's pool without a mounted
hugetlbfs and without a file, and RUNTIME_DIRECTORY keeps the rest in our own folder, so nothing
is left behind.  `huge_pages` sees to it that the pool is large enough while it is needed.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from vionet.bench.guest.process import find

POOL: Final = Path("/proc/sys/vm/nr_hugepages")
FREE: Final = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
PAGE_MB: Final = 2
LIBRARY_FOLDERS: Final = ("/usr/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu")
DRIVERS: Final = {  # driver: Debian package
    "vhost": "librte-net-vhost23",
    "virtio": "librte-net-virtio23",
}
POOL_DRIVER: Final = "librte_mempool_ring.so"


class MissingError(RuntimeError):
    """Something that this machine has not: what, and how to have it."""


def need_program(program: str, package: str) -> None:
    """`program` is installed."""
    if find(program) is None:
        raise MissingError(f"{program} is not installed (Debian: {package})")


def need_driver(driver: str) -> None:
    """DPDK's driver for `driver` devices is installed."""
    name = f"dpdk/pmds-*/librte_net_{driver}.so"
    if not any(any(Path(folder).glob(name)) for folder in LIBRARY_FOLDERS):
        raise MissingError(f"librte_net_{driver}.so is not installed (Debian: {DRIVERS[driver]})")


@contextmanager
def huge_pages(megabytes: int) -> Iterator[None]:
    """At least so much of free 2 MiB pages; root adds what is missing and gives it back."""
    added = max(-(-megabytes // PAGE_MB) - _number(FREE), 0)
    hint = f"sysctl vm.nr_hugepages={_number(POOL) + added}"
    if added and os.geteuid() != 0:
        raise MissingError(f"too few free huge pages: run `{hint}` as root")
    try:
        _change_pool(added)
        if added and _number(FREE) * PAGE_MB < megabytes:
            raise MissingError(f"no memory for {megabytes} MiB of huge pages ({hint})")
        yield
    finally:
        _change_pool(-added)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except OSError:
        return 0


def _change_pool(pages: int) -> None:
    """Others may change it too, so by a difference."""
    if pages:
        POOL.write_text(str(max(_number(POOL) + pages, 0)))


def eal_arguments(prefix: str, driver: str) -> list[str]:
    """DPDK's own arguments, but for cores and memory, which Open vSwitch has other words for."""
    libraries = ("-d", f"librte_net_{driver}.so", "-d", POOL_DRIVER)
    prefixed = ("--file-prefix", prefix, *libraries)
    return ["--no-pci", "--no-telemetry", "--single-file-segments", *prefixed]


def testpmd_argv(
    lcores: str,
    megabytes: int,
    eal: Sequence[str],
    devices: Sequence[str],
    options: Sequence[str],
) -> list[str]:
    """A whole command line of testpmd that forwards as it receives."""
    return [
        *("dpdk-testpmd", "--lcores", lcores, "--in-memory", "--socket-mem", str(megabytes)),
        *eal,
        *(part for device in devices for part in ("--vdev", device)),
        *("--", "--forward-mode=io", *options),
    ]
