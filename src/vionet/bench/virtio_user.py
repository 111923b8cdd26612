"""Another load, which shares no code with ours: DPDK's virtio-user driver, in a testpmd.

How it works: two virtio-user ports attach to a back-end's two sockets.  testpmd sends some frames
from each port and from then on sends what one port receives from the other, so the same frames go
round both ways for ever, fewer than a ring holds.  The rate is testpmd's own.

Invariants: GUEST_CSUM and CSUM are asked for by `--rx-offloads` and `--tx-offloads`
(`--enable-rx-cksum` does not reach this driver); whether they were negotiated, the back-end says.
"""

import os
import re
import time
from pathlib import Path
from typing import Final, NamedTuple

from vionet.bench import dpdk
from vionet.bench.peer import Peer

PROMPT: Final = "testpmd> "
MARK: Final = "end-of-answer"  # no command: testpmd says so, after it has answered the others
BURSTS: Final = 16  # of 32 frames, from each port; all of them fit into one ring
RING: Final = 1024
SUMS: Final = 0x0C  # RTE_ETH_RX_OFFLOAD_UDP_CKSUM and _TCP_CKSUM, and the same for transmission
COMMAND_TIMEOUT: Final = 10.0  # seconds
MACS: Final = ("02:00:00:00:00:01", "02:00:00:00:00:02")


class Bounce(NamedTuple):
    """What one round found."""

    rate: float  # frames a second received, both ports together
    frame_len: float  # of what was received, on average


class VirtioUser(Peer):
    """A testpmd with a virtio-user port on each of a peer's sockets."""

    memory_mb = 64
    prompts = True

    def __init__(self, target: Peer, folder: Path, core: int) -> None:
        """The load on `core`; `target` has to run when it is started and used."""
        super().__init__(f"virtio-user-{target.kind}", folder, core)
        self.other, self.targets = target.core, target.paths

    def need(self) -> None:
        """Raise `MissingError` where it cannot run."""
        dpdk.need_program("dpdk-testpmd", "dpdk-dev")
        dpdk.need_program("stdbuf", "coreutils")
        dpdk.need_driver("virtio")

    def argv(self) -> list[str]:
        """The command line."""
        devices = [
            f"net_virtio_user{i},path={path},queue_size={RING},mac={MACS[i]}"
            for i, path in enumerate(self.targets)
        ]
        options = ["-i", "--total-num-mbufs=8192", f"--rxd={RING}", f"--txd={RING}"]
        options += [f"--eth-peer={i},{mac}" for i, mac in enumerate(reversed(MACS))]
        options += [f"--rx-offloads={SUMS:#x}", f"--tx-offloads={SUMS:#x}"]
        # The prompt's thread waits, awake, for the one that forwards: never on the same core.
        lcores = f"0@{self.other},1@{self.core}"
        eal = dpdk.eal_arguments(self.prefix, "virtio")
        return ["stdbuf", "-oL", *dpdk.testpmd_argv(lcores, self.memory_mb, eal, devices, options)]

    @property
    def listens(self) -> bool:
        """It is there once it prompts."""
        return PROMPT in self.log.read_text(errors="replace")

    def command(self, *lines: str) -> str:
        """Type `lines`; what testpmd says until it has done them all."""
        assert self.process is not None and self.process.process.stdin is not None
        before = self.log.stat().st_size
        os.write(
            self.process.process.stdin.fileno(), "".join(f"{x}\n" for x in (*lines, MARK)).encode()
        )
        answer = ""

        def answered() -> bool:
            nonlocal answer
            with self.log.open("rb") as log:
                log.seek(before)
                answer = log.read().decode(errors="replace")
            return "Command not found" in answer

        self.wait(answered, COMMAND_TIMEOUT)
        return answer

    def run(self, length: int, seconds: float) -> Bounce:
        """Frames of `length` bytes go round for so long."""
        show = "show port stats all"
        first = self.command(f"set txpkts {length}", f"start tx_first {BURSTS}", show)
        time.sleep(seconds)
        second = self.command(show)
        self.command("stop")
        return bounce(first, second)


def bounce(first: str, second: str) -> Bounce:
    """Read two answers of `show port stats all`; the second has the rate since the first."""
    packets, octets = (_sum(key, second) - _sum(key, first) for key in ("RX-packets", "RX-bytes"))
    return Bounce(_sum("Rx-pps", second), octets / max(packets, 1))


def _sum(key: str, answer: str) -> int:
    """The sum over all ports."""
    return sum(map(int, re.findall(rf"{key}: +(\d+)", answer)))
