"""A switch of ours as a process with guests at its ports, for what is measured of a whole daemon.

How it works: `Daemon` starts `vionet switch` and waits for its line `ready`; `attach` connects a
driver of this process to one of its ports (`check.driver`), rings set up and receive buffers
posted.  What the kernel knows of the process is read from /proc: processor time and switches of
each thread, memory by mapping.
"""

import re
import select
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from vionet.bench.guest.process import Program
from vionet.bench.ours import ask, ports_of, vionet
from vionet.bench.peer import START_TIMEOUT
from vionet.bench.place import REAL_TIME_PRIORITY, threads_of
from vionet.check.driver import Port
from vionet.spec import virtio
from vionet.spec import virtio_net as net
from vionet.vhost_user.guest_memory import GuestMemory

MEMORY_LEN: Final = 1 << 20  # of one guest
RING: Final = 64
BUFFERS: Final = 32
FEATURES: Final = virtio.mask(
    (
        virtio.VIRTIO_F_VERSION_1,
        virtio.VIRTIO_F_EVENT_IDX,
        net.VIRTIO_NET_F_CSUM,
        net.VIRTIO_NET_F_GUEST_CSUM,
        net.VIRTIO_NET_F_MRG_RXBUF,
    )
)
KIB: Final = 1024


@dataclass(frozen=True)
class Usage:
    """What the threads of a process have used so far."""

    core_ns: int
    wakes: int  # switches that a thread asked for, by going to sleep

    def __sub__(self, before: "Usage") -> "Usage":
        return Usage(self.core_ns - before.core_ns, self.wakes - before.wakes)


@dataclass(frozen=True)
class Memory:
    """Resident memory of a process, in bytes."""

    own: int
    shared: int  # in mappings that it shares with others: its guests' memory


class Daemon:
    """A `vionet switch` process, with a folder of its own for as long as it runs."""

    def __init__(
        self,
        guests: int,
        *extra: str,
        core: int | None = None,
        cache: Path | None = None,
        real_time: bool = False,
    ) -> None:
        """Start it with so many guest ports, and `extra` ones; `seconds` says how long it took.

        `core` is all that it may run on.
        """
        self.made = tempfile.TemporaryDirectory(prefix="vionet-bench-")
        self.folder = Path(self.made.name)
        self.paths = [self.folder / f"{i}.sock" for i in range(guests)]
        self.guests: list[Port] = []
        ports = [f"p{i}=guest:{path}" for i, path in enumerate(self.paths)]
        place = ["chrt", "--fifo", str(REAL_TIME_PRIORITY)] if real_time else []
        place += [] if core is None else ["taskset", "-c", str(core)]
        argv = [*place, *vionet("switch", self.control, [*ports, *extra])]
        env = {"VIONET_CACHE_DIR": str(cache)} if cache else None
        before = time.monotonic()
        self.process = Program(argv, self.folder / "log", stdout=subprocess.PIPE, env=env)
        out = self.process.process.stdout
        assert out is not None
        if not select.select([out], [], [], START_TIMEOUT)[0] or out.readline() != b"ready\n":
            lines = self.process.output().strip().splitlines() or ["it said nothing"]
            self.close()
            raise RuntimeError(f"vionet switch did not start: {lines[-1]}")
        self.seconds = time.monotonic() - before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def control(self) -> str:
        """The path of its control socket."""
        return str(self.folder / "control")

    def close(self) -> None:
        """Detach all guests and end it."""
        for guest in self.guests:
            guest.close()
        self.guests.clear()
        self.process.kill()
        self.made.cleanup()

    def attach(self, number: int) -> Port:
        """A driver at a port, with all rings set up; it stays until the daemon is closed."""
        guest = open_guest(self.paths[number])
        self.guests.append(guest)
        return guest

    def ask(self, request: str, **members: object) -> dict[str, Any]:
        """What its control socket answers."""
        return ask(self.control, request, **members)

    def ports(self) -> dict[str, dict[str, Any]]:
        """What its status says, by port."""
        return ports_of(self.control)

    def faults(self) -> list[str]:
        """What is not as the attached guests believe."""
        attached = {n: p for n, p in self.ports().items() if p["state"] == "attached"}
        found = []
        if len(attached) != len(self.guests):
            found.append(f"{len(attached)} ports are attached, not {len(self.guests)}")
        wanted = set(virtio.names(FEATURES))
        for name, port in attached.items():
            if missing := wanted - set(port["features"]):
                found.append(f"{name}: {' '.join(sorted(missing))} was not negotiated")
        return found

    # --- what the kernel says -------------------------------------------------------------------
    def threads(self) -> list[int]:
        """The ids of its threads, the control plane's first."""
        return threads_of(self.process.pid)

    def usage(self) -> Usage:
        """Processor time and switches so far."""
        core_ns = wakes = 0
        for thread in self.threads():
            task = Path(f"/proc/{self.process.pid}/task/{thread}")
            core_ns += int((task / "schedstat").read_text().split()[0])
            found = re.search(
                r"^voluntary_ctxt_switches:\s*(\d+)", (task / "status").read_text(), re.M
            )
            wakes += int(found[1]) if found else 0
        return Usage(core_ns, wakes)

    def memory(self) -> Memory:
        """Resident memory, that of its guests apart."""
        own = shared = 0
        is_shared = False
        for line in Path(f"/proc/{self.process.pid}/smaps").read_text().splitlines():
            words = line.split()
            if not words[0].endswith(":"):
                is_shared = words[1].endswith("s")
            elif words[0] == "Rss:":
                own += 0 if is_shared else int(words[1]) * KIB
                shared += int(words[1]) * KIB if is_shared else 0
        return Memory(own, shared)


def open_guest(path: Path) -> Port:
    """A driver whose rings are ready; it says nothing by itself."""
    guest = Port.open(path, FEATURES, memory=GuestMemory((MEMORY_LEN,)), size=RING)
    try:
        return guest.start(BUFFERS)
    except BaseException:
        guest.close()
        raise
