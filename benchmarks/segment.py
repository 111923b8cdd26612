"""What segmenting in software costs: bytes a second from guest to guest, against a plain copy.

    PYTHONPATH=src python benchmarks/segment.py

Two ports of one switch in this process, no driver and no other core: rings and buffers are laid
out once, then the engine forwards bursts of 64 KiB frames from one to the other, in each way that
a receiver can ask for.  Beside it, in the same rounds: memcpy over the same bytes in the same
pieces.  The table has medians; the ratio to the copy comes first.  The buffers are larger than
the last-level cache unless --cached is given.
"""

import argparse
import struct
import time
from collections import defaultdict
from statistics import median
from typing import Any

import numpy as np

from vionet.engine.layout import STATE, WORK, State, Work
from vionet.engine.status import GSO_ALL, Accepts, FabricKind, PortKind
from vionet.engine.worker import serve
from vionet.fabric.fabric import prepare_state, prepared_work
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import copy, store_u16
from vionet.jit.record import address_of, allocate
from vionet.spec.virtio_net import VIRTIO_NET_HDR_F_NEEDS_CSUM, NetHeader

HDR_LEN = 12
SIZE = 1448
PAYLOAD = 44 * SIZE
HEADERS = 66  # Ethernet, IPv4, TCP with timestamps
FRAME = HEADERS + PAYLOAD
ENTRIES = 4096
BUFFER = 2048
WAYS = {
    "whole": (GSO_ALL, Accepts.UNIFORM),
    "segmented, partial": (0, Accepts.UNIFORM),
    "segmented, complete": (0, Accepts.COMPLETE),
}


@kernel(INT, INT, INT, INT, INT)
def copy_frames(destination: int, source: int, frames: int, piece: int) -> int:
    """memcpy of the same bytes, piece by piece into buffers of the same stride."""
    for i in range(frames):
        off = 0
        at = destination + i * (FRAME // piece + 1) * BUFFER
        while off < FRAME:
            n = min(piece, FRAME - off)
            copy(at, source + i * 65536 + off, n)
            off += n
            at += BUFFER
    return 0


@kernel(INT, STATE, WORK, INT)
def pump(state: State, work: Work, frames: int) -> int:
    """Forward `frames`, in bursts of the engine's own size; the receiver never runs short."""
    tx = state.ports[0].queues[1]
    rx = state.ports[1].queues[0]
    done = 0
    while done < frames:
        store_u16(tx.avail_hva + 2, tx.avail_idx + min(64, frames - done))
        store_u16(rx.avail_hva + 2, rx.avail_idx + ENTRIES - 1)
        tx.avail_seen = tx.avail_idx
        rx.avail_seen = rx.avail_idx
        done += serve(state, work)
    return done


def build_frame() -> bytes:
    """One TCP frame of 64 KiB that still has to be segmented, its virtio-net header in front."""
    header = NetHeader(VIRTIO_NET_HDR_F_NEEDS_CSUM, 1, HEADERS, SIZE, 34, 16)
    ethernet = bytes.fromhex("02766e00000b02766e00000a0800")
    ip = struct.pack("!BBHHHBBH", 0x45, 0, FRAME - 14, 1, 0x4000, 64, 6, 0)
    tcp = struct.pack("!HHIIBBHHH", 7000, 7001, 1, 1, 0x80, 0x18, 500, 0, 0) + bytes(12)
    addresses = bytes((192, 0, 2, 1, 192, 0, 2, 2))
    return (
        header.pack() + ethernet + ip + addresses + tcp + bytes(range(256)) * (PAYLOAD // 256 + 1)
    )


class Bench:
    """Two ports whose memory is this process's own."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.state = allocate(State)
        prepare_state(self.state, FabricKind.SWITCH)
        self.work: Work = prepared_work(self.state)
        self.state.n_ports = 2
        rx_len = frames * (FRAME // SIZE + 1) * BUFFER
        self.memory = np.zeros(frames * 65536 + rx_len + (1 << 20), np.uint8)
        base = address_of(self.memory) + 63 & ~63
        self.tx_hva, self.rx_hva = base, base + frames * 65536
        at = self.rx_hva + rx_len
        data = np.frombuffer(build_frame()[: HDR_LEN + FRAME], np.uint8)
        for i in range(frames):
            off = self.tx_hva - address_of(self.memory) + i * 65536
            self.memory[off : off + len(data)] = data
        tx = [(self.tx_hva + 65536 * i, HDR_LEN + FRAME, 0) for i in range(ENTRIES)][:frames]
        rx = [(self.rx_hva + BUFFER * i, BUFFER, 2) for i in range(ENTRIES)]
        rx = [rx[i % (rx_len // BUFFER)] for i in range(ENTRIES)]
        for index, (ring, chains) in enumerate(((1, tx), (0, rx))):
            at = self._port(index, ring, chains, at)

    def _port(self, index: int, ring: int, chains: list[tuple[int, int, int]], at: int) -> int:
        port: Any = self.state.ports[index]
        port.kind, port.up, port.header_len, port.mergeable = int(PortKind.GUEST), 1, HDR_LEN, 1
        port.offers_partial, port.offers_gso, port.n_regions = 1, GSO_ALL, 1
        port.n_pairs = 1
        port.regions[0].gpa = port.regions[0].hva = address_of(self.memory)
        port.regions[0].region_len = self.memory.nbytes
        port.mac = 0x02766E00000A + index
        queue: Any = port.queues[ring]
        queue.entries, queue.call_fd, queue.err_fd = ENTRIES, -1, -1
        queue.ready = queue.started = queue.enabled = queue.live = 1
        queue.desc_hva, queue.avail_hva, queue.used_hva = at, at + 65536, at + 131072
        for i, (gpa, length, flags) in enumerate(chains):
            self._store(at + 16 * i, struct.pack("<QIHH", gpa, length, flags, 0))
        heads = np.arange(ENTRIES, dtype="<u2") % len(chains)
        self._store(queue.avail_hva, struct.pack("<HH", 1, 0) + heads.tobytes())
        return at + 262144

    def _store(self, hva: int, data: bytes) -> None:
        off = hva - address_of(self.memory)
        self.memory[off : off + len(data)] = np.frombuffer(data, np.uint8)

    def forward(self, way: str) -> float:
        """Forward every frame once; *returns* payload bytes a second."""
        takes, accepts = WAYS[way]
        receiver: Any = self.state.ports[1]
        receiver.takes_gso, receiver.accepts = takes, int(accepts)
        before = int(self.work.ledger[1, 2])
        start = time.perf_counter()
        pump(self.state, self.work, self.frames)
        seconds = time.perf_counter() - start
        received = int(self.work.ledger[1, 2]) - before
        expected = self.frames * (1 if takes else 44)
        if received != expected:
            raise SystemExit(f"{way}: {received} frames arrived, expected {expected}")
        return self.frames * PAYLOAD / seconds

    def copy(self, piece: int) -> float:
        """Copy every frame once in pieces of so many bytes."""
        start = time.perf_counter()
        copy_frames(self.rx_hva, self.tx_hva, min(self.frames, 512), piece)
        return min(self.frames, 512) * FRAME / (time.perf_counter() - start)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Segment in software, against a plain copy.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--cached", action="store_true", help="few frames, so that they stay cached"
    )
    arguments = parser.parse_args()
    bench = Bench(8 if arguments.cached else 1024)
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(arguments.rounds):
        rates[f"copy, pieces of {SIZE + HEADERS}"].append(bench.copy(SIZE + HEADERS))
        for way in WAYS:
            rates[way].append(bench.forward(way))
    base = median(next(iter(rates.values())))
    print(" ratio   GB/s")
    for name, values in rates.items():
        print(f"{median(values) / base:6.2f} {median(values) / 1e9:6.2f}   {name}")


if __name__ == "__main__":
    main()
