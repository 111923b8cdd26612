"""A capture shows what happened, and changes nothing: guests transfer while all of it is looked at.

Who judges: tshark, every checksum; a few lines here for sums that are meant to be unfinished; the
hashes that the receiving guests computed.
"""

import re
import signal
import struct
import subprocess
import sys

import pytest
from scapy.utils import RawPcapNgReader

from tests.interop.end import End
from tests.interop.endpoint import fold
from tests.interop.lab import Lab
from tests.interop.peers.netns import Recording
from tests.interop.peers.process import Peer, until
from tests.interop.peers.shell import Shell
from tests.interop.peers.traffic import addresses, converse, no_bad_checksums, transfer
from tests.interop.peers.vionet import SOURCE, Vionet
from tests.reference.pcapng import blocks, options

pytestmark = pytest.mark.root
TAP = "vntruth0"
SIZE = 3_000_000
BAD_PORT = 9  # that the broken datagram comes from
# An ICMP error quotes the datagram as its receiver got it, unfinished sum and all.
TRAFFIC = f"(tcp or udp) and not icmp and not icmpv6 and not udp.srcport == {BAD_PORT}"


class Seeing(Recording):
    """One `vionet capture`; its ring has room for all the traffic of this test."""

    def __init__(self, lab: Lab, vionet: Vionet, name: str, label: str, *options: str) -> None:
        """Wait until it captures."""
        super().__init__(lab.folder / f"{label}.pcapng")
        argv = [sys.executable, "-m", "vionet", "capture", name, "--control", str(vionet.control)]
        argv += ["-w", str(self.file), "--buffer", "128M", *options]
        self.child = Peer(argv, self.file.with_suffix(".log"), env={"PYTHONPATH": str(SOURCE)})
        lab.stack.callback(self.child.kill)
        self.child.await_line("capturing", 120)

    def stop(self) -> None:
        """End it as a person does; it has lost nothing."""
        self.child.process.send_signal(signal.SIGINT)
        assert 0 == self.child.wait(120), self.child.tail()
        assert re.search(r"[1-9]\d* packets, 0 records lost", self.child.output())

    def macs(self) -> dict[str, str]:
        """Of the interfaces in the file, by their names."""
        found = [options(body[8:]) for kind, body in blocks(self.file.read_bytes()) if kind == 1]
        return {said[2].decode(): said.get(6, b"").hex(":") for said in found}

    def frames(self) -> list[bytes]:
        """All frames, in the order of the file."""
        with RawPcapNgReader(str(self.file)) as reader:
            return [data for data, _ in reader]


def partial(frame: bytes) -> bool | None:
    """Whether the sum of a TCP or UDP frame is only that of its pseudo-header; None: it is another
    frame."""
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind == 0x0800:
        start, addresses, l4 = 14 + (frame[14] & 15) * 4, frame[26:34], frame[23]
    elif kind == 0x86DD:
        start, addresses, l4 = 54, frame[22:54], frame[20]
    else:
        return None
    if l4 not in (6, 17):
        return None
    field = start + (16 if l4 == 6 else 6)
    pseudo = addresses + struct.pack("!II", len(frame) - start, l4)
    return fold(pseudo) == struct.unpack_from("!H", frame, field)[0]


def to(*shells: Shell) -> str:
    """What is for these."""
    return " or ".join(f"ip.dst == {s.address4} or ipv6.dst == {s.address6}" for s in shells)


def hashes(one: Shell, other: Shell) -> list[str]:
    """Of what arrived over both families, by the receiver."""
    found = []
    for address in addresses(other):
        move = transfer(one, other, address, SIZE, timeout=90)
        (_,), (received,) = move.sending.results(90), move.serving.results(90)
        assert SIZE == received["bytes"]
        found.append(str(received["sha256"]))
    return found


def stalled(lab: Lab, vionet: Vionet) -> Peer:
    """A capture whose pipe is full and that nobody reads."""
    log = lab.folder / "stalled.log"
    argv = [sys.executable, "-m", "vionet", "capture", "a", "--control", str(vionet.control)]
    argv += ["-w", "-", "--buffer", "100K"]
    child = Peer(argv, log, stdout=subprocess.PIPE, env={"PYTHONPATH": str(SOURCE)})
    lab.stack.callback(child.kill)
    child.await_line("capturing", 120)
    return child


@pytest.mark.timeout(300)
def test_w32_w65_captures_are_true_and_change_nothing(lab: Lab) -> None:
    """The same bytes arrive with captures, without, and with one that is not read (W32).  tshark
    finds no bad sum in finished copies but the one that was broken on purpose; what receivers got
    has the sums that they agreed to leave unfinished (W65)."""
    vionet = lab.switch({"a": "", "b": "", "c": "offload=off"}, f"host=tap:{TAP}")
    place = lab.namespace("truth")
    place.take(TAP)
    a, b, c = (lab.uml(name) for name in "abc")
    lab.boot(a, b, c)
    place.configure(9)
    ports = vionet.ports()
    for name, guest in zip("abc", (a, b, c), strict=True):
        End.read("uml offload=off" if name == "c" else "uml").check(guest, ports[name])
    assert "VIRTIO_NET_F_CSUM" in ports["host"]["features"]
    before = hashes(a, b)

    finished = Seeing(lab, vionet, "a", "finished")
    delivered = Seeing(lab, vionet, "a", "delivered", "--as-delivered")
    fabric = Seeing(lab, vionet, "vionet" if "vionet" in ports else "switch", "all", "--segment")
    during = hashes(a, b)
    converse(a, b, size=1_000_000, largest=300)
    converse(a, c, size=1_000_000, largest=300)
    place.endpoint(f"bad-udp {TAP} 5201")
    until(lambda: a.bad_checksums()["UdpInCsumErrors"], 60, "the broken datagram")
    for capture in (finished, delivered, fabric):
        capture.stop()

    child = stalled(lab, vionet)
    unread = hashes(a, b)
    lost = {c["lost"] for f in vionet.status()["fabrics"] for c in f["captures"]}
    assert max(lost) > 0, "its ring was full"
    child.kill()
    assert before == during == unread
    no_bad_checksums(b, c)
    assert 1 == a.bad_checksums()["UdpInCsumErrors"], "and nothing else was ever bad"
    macs = {guest.name: guest.run("cat /sys/class/net/eth0/address").strip() for guest in (a, b, c)}
    assert macs.items() <= fabric.macs().items()
    judge(finished, delivered, fabric, (a, b, c))


def judge(finished: Seeing, delivered: Seeing, fabric: Seeing, guests: tuple[Shell, ...]) -> None:
    """What the three files show."""
    a, b, c = guests
    broken = f"udp.srcport == {BAD_PORT}"
    assert (0, 1) == (finished.bad(TRAFFIC), finished.bad(broken))
    assert (0, 3) == (fabric.bad(TRAFFIC), fabric.bad(broken)), "one for each that got it"
    assert 2000 < finished.judged(TRAFFIC) < fabric.judged(TRAFFIC)
    assert 1 == finished.count(f'{broken} and frame.comment contains "bad"')
    # Finished copies of large frames are whole, or as they would be on a wire.
    assert 100 < finished.count("frame.len > 1514")
    assert 0 == fabric.count("frame.len > 1514")
    for said in ("PARTIAL csum_start=34 csum_offset=16 → passed partial", "→ filled", "segments"):
        assert 50 < finished.count(f'frame.comment contains "{said}"'), said
    assert 500 < fabric.count('frame.interface_name == "b"')

    assert (0, 0) == (delivered.bad(to(c)), delivered.count(f"({to(c)}) and frame.len > 1514"))
    assert 1000 < delivered.judged(to(c))
    sums = [partial(frame) for frame in delivered.frames()]
    shown = delivered.count(f"({TRAFFIC}) and ({to(a, b)})")
    assert shown == sums.count(True), "what a and b got is unfinished, all of it"
    assert 2000 < shown
    # A wrong sum is right by chance once in 65536 times.
    assert 0.99 * shown < delivered.bad(f"({TRAFFIC}) and ({to(a, b)})") <= shown
