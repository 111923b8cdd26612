"""Back-ends to measure, as processes pinned to one core: vionet's fabrics and DPDK's testpmd.

How it works: `Peer.start` starts a program that listens on two sockets and waits until both are
there.  A peer that polls would take its core from the next one, so peers are stopped (SIGSTOP)
while another is measured: several can be compared in turns within one run without starting anew.
`close` ends the process by its id and removes what it leaves behind, hugepage files included.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Self

START_TIMEOUT: Final = 300.0  # seconds; a cold start of ours compiles, 20 s where nothing else runs
STOP_TIMEOUT: Final = 5.0
HUGEPAGES: Final = Path("/dev/hugepages")
DPDK_RUN: Final = Path("/var/run/dpdk")
REAL_TIME_PRIORITY: Final = 10
KINDS: Final = ("vionet-switch", "vionet-wire", "testpmd")


class Peer:
    """One running back-end; `paths` are its two sockets."""

    def __init__(self, kind: str, folder: Path, core: int) -> None:
        """Describe it: one of KINDS, its sockets and its log in `folder`, its work on `core`."""
        self.kind, self.folder = kind, folder
        self.paths = [str(folder / f"{kind}.{name}") for name in "ab"]
        self.log = folder / f"{kind}.log"
        self.prefix = f"vionetbench{os.getpid()}"
        self.argv = ["taskset", "-c", str(core), *self._command(kind, core)]
        self.process: subprocess.Popen[bytes] | None = None

    def _command(self, kind: str, core: int) -> list[str]:
        a, b = self.paths
        control = ["--control", str(self.folder / f"{kind}.control")]
        if kind == "vionet-switch":
            ports = [f"a=guest:{a}", f"b=guest:{b}"]
            return [sys.executable, "-m", "vionet", "switch", *control, *ports]
        if kind == "vionet-wire":
            return [sys.executable, "-m", "vionet", "wire", *control, f"guest:{a}", f"guest:{b}"]
        other = next(c for c in (*range(os.cpu_count() or 1), core) if c != core)
        return [
            *("dpdk-testpmd", "--lcores", f"0@{other},1@{core}", "--no-pci"),
            *("--file-prefix", self.prefix, "--socket-mem", "128", "--single-file-segments"),
            *("-d", "librte_net_vhost.so", "-d", "librte_mempool_ring.so"),
            *("--vdev", f"net_vhost0,iface={a}", "--vdev", f"net_vhost1,iface={b}", "--"),
            *("--forward-mode=io", "--auto-start", "--stats-period", "0"),
            "--total-num-mbufs=16384",
        ]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def missing(self) -> str | None:
        """Why this peer cannot run here, or None."""
        if self.kind != "testpmd":
            return None
        if not shutil.which("dpdk-testpmd"):
            return "dpdk-testpmd is not installed (Debian: dpdk-dev)"
        if not os.path.ismount(HUGEPAGES):
            return f"no hugetlbfs is mounted on {HUGEPAGES}"
        return None

    def start(self) -> None:
        """Start it and wait until it listens; RuntimeError with the end of its log if not."""
        if self.kind == "testpmd":
            del self.argv[:3]  # DPDK places its threads itself
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not all(Path(path).is_socket() for path in self.paths):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError(f"{self.kind} did not start: {self.log_end()}")
            time.sleep(0.02)
        self.pause()

    def log_end(self) -> str:
        """The last line that it wrote."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"

    def pause(self) -> None:
        """Let it stand still."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        if self.process is not None:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.kind} has ended: {self.log_end()}")
            self.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End it and remove what it leaves."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGCONT)
        self.process.send_signal(signal.SIGTERM)
        if self.process.stdin is not None:
            with suppress(OSError):
                self.process.stdin.close()
        try:
            self.process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_TIMEOUT)
        self.process = None
        for path in (*HUGEPAGES.glob(f"{self.prefix}map_*"), *map(Path, self.paths)):
            path.unlink(missing_ok=True)
        shutil.rmtree(DPDK_RUN / self.prefix, ignore_errors=True)


@contextmanager
def real_time(peer: Peer | None = None) -> Iterator[None]:
    """Run this process and `peer` before all others, for measuring on a machine that is shared.

    The kernel still keeps some of each second for the rest, so rounds should be short.
    """
    processes = [os.getpid()]
    if peer is not None and peer.process is not None:
        processes.append(peer.process.pid)
    threads = [int(task.name) for pid in processes for task in Path(f"/proc/{pid}/task").iterdir()]
    for thread in threads:
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(REAL_TIME_PRIORITY))
    try:
        yield
    finally:
        for thread in threads:
            with suppress(ProcessLookupError):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
