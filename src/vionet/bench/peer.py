"""Back-ends to measure, as processes pinned to one core: vionet's fabrics and DPDK's testpmd.

How it works: `Peer.start` starts a program that listens on two sockets and waits until both are
there.  A peer that polls would take its core from the next one, so peers are stopped (SIGSTOP)
while another is measured: several can be compared in turns within one run without starting anew.
`close` ends the processes by their ids; whatever they made lies in their folder.
Open vSwitch takes more steps: `ovs`.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from vionet.bench import dpdk
from vionet.bench.guest.process import Program
from vionet.bench.ours import ports_of, vionet
from vionet.bench.place import REAL_TIME_PRIORITY, other_core, threads_of
from vionet.spec import virtio

START_TIMEOUT: Final = 300.0  # seconds; a cold start of ours compiles, 20 s where nothing else runs
TESTPMD_MB: Final = 128
NAMES: Final = {
    "vionet-wire": "vionet wire",
    "vionet-switch": "vionet switch",
    "testpmd": "testpmd io",
    "ovs-normal": "Open vSwitch NORMAL",
    "ovs-flows": "Open vSwitch, two flows",
}
OURS: Final = ("vionet-wire", "vionet-switch")
KINDS: Final = (*OURS, "testpmd")  # those of this module
# What DPDK's vhost library says of a socket, in testpmd and in Open vSwitch.
NEGOTIATED: Final = re.compile(r"VHOST_CONFIG: \((\S+)\) negotiated Virtio features: (0x[0-9a-f]+)")


class Peer:
    """One running back-end; `paths` are its two sockets."""

    memory_mb = TESTPMD_MB  # of huge pages, where it is made of DPDK
    prompts = False  # it is told what to do while it runs, by a thread on another core

    def __init__(self, kind: str, folder: Path, core: int) -> None:
        """Describe it: one of KINDS, all its files in a folder of its own, its work on `core`."""
        self.kind, self.core, self.folder = kind, core, folder / kind
        self.other = other_core(core)
        self.paths = [str(self.folder / name) for name in "ab"]
        self.log = self.folder / "log"
        self.control = str(self.folder / "control")
        self.prefix = f"vionet-{kind}-{os.getpid()}"
        self.process: Program | None = None  # that which forwards
        self.processes: list[Program] = []
        self.resources = ExitStack()

    @property
    def name(self) -> str:
        """For people."""
        return NAMES.get(self.kind, self.kind)

    @property
    def ours(self) -> bool:
        """It is vionet itself."""
        return self.kind in OURS

    def argv(self) -> list[str]:
        """The command line of what forwards."""
        if self.ours:
            fabric = self.kind.removeprefix("vionet-")
            names = ("a=", "b=") if fabric == "switch" else ("", "")
            ports = [f"{name}guest:{path}" for name, path in zip(names, self.paths, strict=True)]
            return ["taskset", "-c", str(self.core), *vionet(fabric, self.control, ports)]
        return dpdk.testpmd_argv(
            f"0@{self.other},1@{self.core}",  # DPDK places its threads itself
            self.memory_mb,
            dpdk.eal_arguments(self.prefix, "vhost"),
            [f"net_vhost{i},iface={path}" for i, path in enumerate(self.paths)],
            ["--auto-start", "--stats-period", "0", "--total-num-mbufs=16384"],
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def need(self) -> None:
        """Raise `MissingError` where this peer cannot run."""
        if not self.ours:
            dpdk.need_program("dpdk-testpmd", "dpdk-dev")
            dpdk.need_driver("vhost")

    def start(self) -> None:
        """Start it and wait until it listens; RuntimeError with what is wrong if not."""
        self.need()
        self.folder.mkdir()
        try:
            if not self.ours:  # each peer that is made of DPDK has its pages from the same pool
                self.resources.enter_context(dpdk.huge_pages(self.memory_mb))
            self._launch()
            self.wait(lambda: self.listens)
        except BaseException:
            self.close()
            raise
        self.pause()

    @property
    def listens(self) -> bool:
        """It can be attached to."""
        return all(Path(path).is_socket() for path in self.paths)

    def _launch(self) -> None:
        self.process = self._spawn(self.argv())

    def _spawn(self, argv: Sequence[str]) -> Program:
        process = Program(argv, self.log, stdin=subprocess.PIPE, env=self.environment())
        self.processes.append(process)
        return process

    def environment(self) -> dict[str, str]:
        """Of its processes."""
        return {"RUNTIME_DIRECTORY": str(self.folder)}  # DPDK leaves nothing elsewhere

    def wait(self, true: Callable[[], bool], timeout: float = START_TIMEOUT) -> None:
        """Wait until something is true while all processes live."""
        deadline = time.monotonic() + timeout
        while not true():
            if not all(p.running for p in self.processes) or time.monotonic() > deadline:
                raise RuntimeError(f"{self.kind} did not do its part: {self.log_end()}")
            time.sleep(0.02)

    def log_end(self) -> str:
        """The last line that it wrote."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it wrote nothing"

    def features(self) -> list[int]:
        """What it says was negotiated at its two sockets: the other end's view."""
        if self.ours:
            return [mask_of(port["features"]) for port in ports_of(self.control).values()]
        return logged_features(self.log.read_text(errors="replace"), self.paths)

    def pause(self) -> None:
        """Let it stand still."""
        if self.process is not None and self.process.running:
            os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        if self.process is not None:
            if not self.process.running:
                raise RuntimeError(f"{self.kind} has ended: {self.log_end()}")
            os.kill(self.process.pid, signal.SIGCONT)

    def close(self) -> None:
        """End all its processes, the last one first."""
        while self.processes:
            self.processes.pop().kill()
        self.process = None
        self.resources.close()


def mask_of(names: Sequence[str]) -> int:
    """The feature word of names."""
    return virtio.mask(virtio.BITS[name] for name in names)


def logged_features(log: str, paths: Sequence[str]) -> list[int]:
    """The last word that DPDK's vhost library logged for each socket; 0 where there is none."""
    last = {path: int(word, 16) for path, word in NEGOTIATED.findall(log)}
    return [last.get(path, 0) for path in paths]


@contextmanager
def real_time(*peers: Peer) -> Iterator[None]:
    """Run this process and `peers` before all others, for measuring on a machine that is shared.

    Of a peer only what is confined to its core; this process a little before them, so that it
    can end what it began, and so is a peer's prompt.  The kernel still keeps some of each second
    for the rest, so rounds should be short.
    """
    priorities = dict.fromkeys(threads_of(os.getpid()), REAL_TIME_PRIORITY + 1)
    for peer in peers:
        if peer.process is not None:
            for thread in threads_of(peer.process.pid):
                if os.sched_getaffinity(thread) == {peer.core}:
                    priorities[thread] = REAL_TIME_PRIORITY
                elif peer.prompts:
                    priorities[thread] = REAL_TIME_PRIORITY + 1
    for thread, priority in priorities.items():
        os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
    try:
        yield
    finally:
        for thread in priorities:
            with suppress(ProcessLookupError):
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))
