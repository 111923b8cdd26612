"""Captures between two kernels: taps in namespaces, which send partial sums and large frames."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import tools
from tests.interop.lab import Lab
from tests.interop.peers.process import Peer
from tests.interop.peers.traffic import PORT, transfer

pytestmark = pytest.mark.root
NAMES = "frame.interface_name", "tcp.checksum.status", "tcp.len", "frame.comment"
FILES = {"whole": (), "segments": ("--segment",), "delivered": ("--as-delivered",)}


@contextmanager
def captures(lab: Lab, control: Path) -> Iterator[dict[str, Path]]:
    """A file of each kind; complete afterwards."""
    paths = {kind: lab.folder / f"{kind}.pcapng" for kind in FILES}
    running = []
    for kind, options in FILES.items():
        argv = [sys.executable, "-m", "vionet", "capture", "a", "-w", str(paths[kind]), *options]
        argv += ["--filter", "tcp", "--control", str(control)]
        child = Peer(argv, lab.folder / f"{kind}.log")
        lab.stack.callback(child.kill)
        running.append(child)
    for child in running:
        child.await_line("capturing", 200)
    yield paths
    for child in running:
        child.process.terminate()
    for child in running:
        assert 0 == child.process.wait(60), child.tail()
        assert " 0 records lost" in child.tail()


def packets(path: Path) -> list[list[str]]:
    """What tshark says of each that carries what was sent: the answer came after all of them."""
    asked = [word for name in NAMES for word in ("-e", name)]
    command = [str(tools.need("tshark")), "-r", str(path), "-o", "tcp.check_checksum:TRUE"]
    command += ["-Y", f"tcp.len > 0 && tcp.dstport == {PORT}", "-T", "fields", *asked]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_two_kernels(lab: Lab) -> None:
    """Both ways, IPv4 and IPv6: nothing is bad in a default file, whole or in segments, though
    kernels gave and took partial sums, as the third file shows; all three have the same bytes."""
    places = [lab.namespace(label) for label in ("cap-a", "cap-b")]
    ports = [
        f"{name}=tap:{place.name[-8:]}{name},netns={place.name}"
        for name, place in zip("ab", places, strict=True)
    ]
    vionet = lab.switch({}, *ports)
    for number, (name, place) in enumerate(zip("ab", places, strict=True), 1):
        place.interface = f"{place.name[-8:]}{name}"
        place.configure(number)
    one, two = places
    with captures(lab, vionet.control) as paths:
        for sender, receiver in ((one, two), (two, one)):
            for address in (receiver.address4, receiver.address6):
                transfer(sender, receiver, address, 1_000_000).check()
    whole, segments, delivered = (packets(paths[kind]) for kind in FILES)
    assert {"a"} == {packet[0] for packet in whole}
    for found in (whole, segments):
        assert {"1"} == {status for _, status, *_ in found}, "good, each of them"
    assert {"0"} == {status for _, status, *_ in delivered if status != "1"}
    partial = [comment for _, status, _, comment in delivered if status == "0"]
    assert partial
    assert all("PARTIAL" in one and "→ passed partial" in one for one in partial)
    assert any("; gso tcp4 size=" in packet[3] and ", whole" in packet[3] for packet in whole)
    assert any("; gso tcp6 size=" in packet[3] for packet in whole)
    assert len(whole) == len(delivered) < len(segments)
    assert all(int(packet[2]) <= 1460 for packet in segments)
    lengths = {sum(int(length) for _, _, length, _ in f) for f in (whole, segments, delivered)}
    (length,) = lengths
    assert length >= 4_000_000, "a slow machine sends some of it again"
