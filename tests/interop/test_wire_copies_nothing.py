"""What a wire gives to the kernel: every vector of its readv and writev, seen by ptrace.

How it works: the guest's memory is known from the wire's own memory map, where it is what is
mapped shared and writable from a file.  Behind the private header window every vector has to lie
there, for frames in both directions.
"""

import sys
from pathlib import Path

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.netns import TAP
from tests.interop.peers.process import Peer
from tests.interop.peers.traffic import transfer

pytestmark = pytest.mark.root
HEADER_WINDOW_MAX = 128 + 12
SIZE = 300_000
TRACER = Path(__file__).with_name("vectors.py")


def guest_memory(pid: int) -> list[tuple[int, int]]:
    """The shared writable file mappings in the address space of `pid`: its guests' memory."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        where, mode, _offset, _device, inode, *_name = line.split(maxsplit=5)
        if mode[3] == "s" and mode[1] == "w" and int(inode):
            start, end = (int(part, 16) for part in where.split("-"))
            found.append((start, end))
    return found


def test_every_payload_vector_lies_in_the_guests_memory(lab: Lab) -> None:
    """A bulk transfer each way: no vector after the header window is vionet's own memory."""
    place = lab.namespace("host")
    vionet = lab.wire(lab.guest("a"), f"tap:{TAP}")
    place.take(TAP)
    guest = lab.uml("a")
    lab.boot(guest)
    place.configure(2)
    End.read("uml").check(guest, vionet.ports()["a"])
    tracer = Peer([sys.executable, str(TRACER), str(vionet.pid)], lab.folder / "trace")
    try:
        tracer.await_line("attached", 60)
        regions = guest_memory(vionet.pid)
        for sender, receiver in ((guest, place), (place, guest)):
            transfer(sender, receiver, receiver.address4, SIZE).check()
    finally:
        tracer.kill()
    assert regions
    carried = {"readv": 0, "writev": 0}
    for line in tracer.output().splitlines()[1:]:
        name, result, *texts = line.split()
        pairs = [text.split(":") for text in texts]
        window, *payload = [(int(base, 16), int(size)) for base, size in pairs]
        assert window[1] <= HEADER_WINDOW_MAX, line
        outside = [
            vector
            for vector in payload
            if not any(low <= vector[0] and sum(vector) <= high for low, high in regions)
        ]
        assert [] == outside, line
        carried[name] += max(int(result), 0)
    assert SIZE < min(carried.values()), "all of the transfer came this way"
    for port in vionet.ports().values():
        assert 0 == port["ledger"]["payload_bytes_copied"]
        assert 0 < port["ledger"]["gso_passed"]
