"""DPDK's testpmd: a vhost switch, a pair of virtio-user guests, a bridge from one into the kernel.

How it works: `hugepages` reserves pages and mounts them on a folder of its own for as long as they
are needed.  `Testpmd` is one testpmd with an interactive prompt; its commands are typed into its
standard input and its answers are read from its log.
"""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.interop.peers.netns import Namespace
from tests.interop.peers.process import Peer, PeerError, call, until
from tests.tools import absent, need

PAGES = Path("/proc/sys/vm/nr_hugepages")
DROP, COMPACT = Path("/proc/sys/vm/drop_caches"), Path("/proc/sys/vm/compact_memory")
MEMORY = 96  # MiB of hugepages for one testpmd


@contextlib.contextmanager
def hugepages(folder: Path, megabytes: int = 256) -> Iterator[Path]:
    """`megabytes` of 2 MiB pages on a mounted folder, given back afterwards."""
    before = int(PAGES.read_text())
    mount = folder / "huge"
    mount.mkdir()
    try:
        _reserve(before + megabytes // 2)
        call("mount", "-t", "hugetlbfs", "-o", "pagesize=2M", "none", str(mount))
        try:
            yield mount
        finally:
            call("umount", "--lazy", str(mount))  # a killed testpmd may hold it a little longer
    finally:
        PAGES.write_text(str(max(int(PAGES.read_text()) - megabytes // 2, 0)))


def _reserve(pages: int) -> None:
    """Have so many pages; where memory is in pieces, it is put together first."""

    def there() -> bool:
        PAGES.write_text(str(pages))
        if int(PAGES.read_text()) >= pages:
            return True
        DROP.write_text("3")
        COMPACT.write_text("1")
        return False

    try:
        until(there, 30, "hugepages", 0.2)
    except PeerError:
        absent("no memory for hugepages")


class Testpmd:
    """One testpmd; see the constructors below."""

    __test__ = False  # a name that pytest would take for a test

    def __init__(
        self,
        name: str,
        folder: Path,
        huge: Path,
        devices: Sequence[str],
        *,
        libraries: Sequence[str],
        cores: str = "0@0,1@1",
        forward: str = "io",
        options: Sequence[str] = (),
        enter: Sequence[str] = (),
    ) -> None:
        """Start testpmd with `devices` (--vdev texts) and wait for its prompt."""
        need("dpdk-testpmd")
        self.prefix = f"vionet-{name}-{os.getpid()}"
        argv = [
            *enter,
            "stdbuf",
            "-oL",
            "dpdk-testpmd",
            "--lcores",
            cores,
            "--no-pci",
            "--no-telemetry",
        ]
        argv += ["--file-prefix", self.prefix, "--huge-dir", str(huge)]
        argv += ["--socket-mem", str(MEMORY), "--single-file-segments"]
        for library in (*libraries, "librte_mempool_ring.so"):
            argv += ["-d", library]
        for device in devices:
            argv += ["--vdev", device]
        argv += ["--", f"--forward-mode={forward}", "-i", "--total-num-mbufs=8192", *options]
        self.child = Peer(argv, folder / f"{name}.log", stdin=subprocess.PIPE)
        self.child.await_line("testpmd> ", 60)

    def command(self, line: str, timeout: float = 60) -> str:
        """Type `line` and return what testpmd says until it prompts again."""
        assert self.child.process.stdin is not None
        before = len(self.child.output())
        # Two lines: the echo of an unknown one marks the end of the answer to the first.
        os.write(self.child.process.stdin.fileno(), f"{line}\nvionet-end\n".encode())
        deadline = time.monotonic() + timeout
        while "Command not found" not in (answer := self.child.output()[before:]):
            if time.monotonic() > deadline or not self.child.running:
                raise PeerError(f"testpmd: no answer to {line!r}: {self.child.tail()}")
            time.sleep(0.02)
        return answer

    def counters(self, port: int) -> dict[str, int]:
        """The statistics of `port`, by testpmd's names."""
        text = self.command(f"show port stats {port}")
        return {name: int(value) for name, value in re.findall(r"([RT]X-[\w-]+): +(\d+)", text)}

    def end(self) -> None:
        """Kill it; what it left in its run folder goes too."""
        self.child.kill()
        call("rm", "-rf", f"/var/run/dpdk/{self.prefix}", check=False)


@contextlib.contextmanager
def vhost_switch(folder: Path, huge: Path, sockets: Sequence[Path]) -> Iterator[Testpmd]:
    """testpmd as a back-end: two vhost ports that forward to each other."""
    devices = [f"net_vhost{n},iface={socket}" for n, socket in enumerate(sockets)]
    made = Testpmd("vhost", folder, huge, devices, libraries=["librte_net_vhost.so"])
    try:
        made.command("start")
        yield made
    finally:
        made.end()


@contextlib.contextmanager
def virtio_user(
    folder: Path, huge: Path, sockets: Sequence[Path], arguments: str = "", **options: str
) -> Iterator[Testpmd]:
    """testpmd as a guest with one virtio-user device on each socket; `start` is the caller's."""
    devices = [
        f"net_virtio_user{n},path={socket},mac=02:00:00:00:00:{n + 1:02x}{arguments}"
        for n, socket in enumerate(sockets)
    ]
    flags = [f"--{key.replace('_', '-')}" + (f"={v}" if v else "") for key, v in options.items()]
    made = Testpmd("load", folder, huge, devices, libraries=["librte_net_virtio.so"], options=flags)
    try:
        yield made
    finally:
        made.end()


@contextlib.contextmanager
def into_kernel(
    folder: Path, huge: Path, socket: Path, interface: str, place: Namespace
) -> Iterator[Testpmd]:
    """A virtio-user guest on `socket` that forwards to and from tap `interface` in `place`."""
    devices = [f"net_virtio_user0,path={socket}", f"net_tap0,iface={interface}"]
    libraries = ["librte_net_virtio.so", "librte_net_tap.so"]
    made = Testpmd("tap", folder, huge, devices, libraries=libraries, enter=place.enter)
    try:
        made.command("start")
        yield made
    finally:
        made.end()
