"""Files of captures, as others read them: tshark, capinfos, scapy."""

import os
import resource
import subprocess
import time
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from tests import tools
from tests.reference.frame import Layers
from tests.reference.pcapng import blocks, options
from tests.seen import Ring, header
from vionet.capture.output import IsATerminal, Output
from vionet.capture.pcapng import Interface, section
from vionet.capture.reader import OUT_MAX, RECORD_MAX, Reader, View
from vionet.capture.session import Session
from vionet.engine.layout import FACT_JUDGED

FRAME = Layers().tcp(b"x" * 1000)
PARTIAL = {"state": 3, "accepts": 1, "action": 2, "header": header(1, csum_start=34)}
PARTIAL |= {"csum_offset": 16, "facts": FACT_JUDGED, "in_features": 1 << 32 | 1 << 11 | 1}
WEB, DB = Interface("web", "guest of lan", "52:54:00:00:00:01"), Interface("db", "guest of lan")
HEAD = section("a machine", "a system", "vionet of tests")
NOW_NS = 1_700_000_000_123_456_789


def reader_of(ring: Ring, view: View | None = None) -> Reader:
    """Of a ring between two ports."""
    of = {1: WEB, 2: DB}
    view = view or View(expression="tcp port 4000")
    return Reader(ring.fd, ring.notify_fd, ring.length, view, Interface("lan"), of.__getitem__)


def write_all(reader: Reader, output: Output) -> None:
    """What is in the ring into as many files as it takes."""
    while True:
        found, more = reader.blocks(output.room(reader))
        if found:
            output.write(reader, found)
        elif not more or not output.turn_over(reader):
            return


def fields(path: Path, *names: str) -> list[list[str]]:
    """What tshark says of each packet; checksums judged."""
    asked = [word for name in names for word in ("-e", name)]
    checked = ["-o", "tcp.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]
    command = [str(tools.need("tshark")), "-r", str(path), *checked, "-T", "fields", *asked]
    out = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return [line.split("\t") for line in out.splitlines()]


def infos(path: Path) -> str:
    """What capinfos says."""
    command = [tools.need("capinfos"), path]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def test_file_as_tshark_has_it(tmp_path: Path) -> None:
    """Times to the nanosecond, ports, directions, comments; finished sums are good, and a bad one
    is bad.  scapy finds the same sums."""
    path = tmp_path / "a.pcapng"
    with Ring() as ring:
        reader = reader_of(ring)
        output = Output(str(path), HEAD)
        output.begin(reader)
        ring.put(FRAME.partial, time_ns=NOW_NS, **PARTIAL)
        ring.put(FRAME.bad, time_ns=NOW_NS + 1, side=0, state=1, accepts=1, action=5, facts=16 | 32)
        large = Layers().tcp(bytes(9000))
        ring.put(
            large.partial, time_ns=NOW_NS + 2, **PARTIAL
            | {"header": header(1, 1, 1448, 34), "facts": FACT_JUDGED | 1},
        )  # fmt: skip
        write_all(reader, output)
        output.end(reader)
    found = fields(
        path, "frame.time_epoch", "frame.interface_name", "frame.packet_flags_direction",
        "tcp.checksum.status", "frame.comment",
    )  # fmt: skip
    assert [
        ["1700000000.123456789", "db", "0x00000001", "1"],
        ["1700000000.123456790", "web", "0x00000002", "0"],
        ["1700000000.123456791", "db", "0x00000001", "1"],
    ] == [one[:4] for one in found]
    comments = [one[4] for one in found]
    assert comments[0].startswith(
        "web → db: PARTIAL csum_start=34 csum_offset=16 → passed partial; finished in this copy; "
        "negotiated web: CSUM HOST_TSO4"
    )
    assert "web → db: UNKNOWN → verified: bad, passed as it is" == comments[1]
    assert "; gso tcp4 size=1448, whole; finished in this copy; " in comments[2]
    data = [body[20:][: len(FRAME.data)] for kind, body in blocks(path.read_bytes()) if kind == 6]
    for raw, good in zip(data, (True, False), strict=False):
        packet = Ether(raw)
        sum_there = packet[TCP].chksum
        del packet[TCP].chksum
        assert good == (Ether(bytes(packet))[TCP].chksum == sum_there)
    assert 1 == len({Ether(raw)[IP].src for raw in data})


def test_interfaces_and_statistics(tmp_path: Path) -> None:
    """Who wrote it where, what the ports are, the filter, and what was lost on the way."""
    path = tmp_path / "a.pcapng"
    with Ring(1 << 14) as ring:
        reader = reader_of(ring)
        output = Output(str(path), HEAD)
        output.begin(reader)
        fit = sum(ring.put(FRAME.data) for _ in range(30))
        write_all(reader, output)
        output.say(reader)
        ring.put(FRAME.data, side=0)
        write_all(reader, output)
        output.end(reader)
    said = infos(path)
    assert 0o600 == path.stat().st_mode & 0o777
    for line in (
        "Capture hardware:    a machine", "Capture oper-sys:    a system",
        "Capture application: vionet of tests", "Number of interfaces in file: 3",
        f"Number of packets:   {fit + 1}", "Time precision = nanoseconds (9)",
        "Name = web", "Name = db", "Name = lan", "Filter string = tcp port 4000",
    ):  # fmt: skip
        assert line in said
    last = {}
    for kind, body in blocks(path.read_bytes()):
        if kind == 5:
            counts = {c: int.from_bytes(v, "little") for c, v in options(body[12:]).items()}
            last[body[0]] = (counts[4], counts[5])
    assert {0: (30 - fit, 30 - fit), 1: (fit, 0), 2: (1, 0)} == last
    macs = [options(b[8:]).get(6) for kind, b in blocks(path.read_bytes()) if kind == 1]
    assert [None, None, bytes.fromhex("525400000001")] == macs


def test_files_in_turn(tmp_path: Path) -> None:
    """Each is complete by itself and at most as large as asked; the oldest go; none is lost that
    was kept."""
    with Ring(1 << 20) as ring:
        reader = reader_of(ring)
        output = Output(str(tmp_path / "a.pcapng"), HEAD, rotate=100_000, keep=3)
        output.begin(reader)
        for n in range(500):
            ring.put(FRAME.data, time_ns=NOW_NS + n)
        write_all(reader, output)
        output.end(reader)
    paths = sorted(tmp_path.iterdir())
    assert 3 == len(paths)
    numbers = [int(path.name.split("_")[1]) for path in paths]
    assert [numbers[-1] - 2, numbers[-1] - 1, numbers[-1]] == numbers
    stamp = paths[-1].stem.split("_")[2]
    assert stamp == time.strftime("%Y%m%d%H%M%S", time.strptime(stamp, "%Y%m%d%H%M%S"))
    assert all(path.stat().st_size <= 100_000 for path in paths)
    kept = [line[0] for path in paths for line in fields(path, "frame.time_epoch")]
    assert [f"1700000000.{123456789 + n}" for n in range(500 - len(kept), 500)] == kept
    assert 200 < len(kept)


def test_largest_file(tmp_path: Path) -> None:
    """Without files in turn a full one is the end."""
    path = tmp_path / "a.pcapng"
    with Ring(1 << 20) as ring:
        reader = reader_of(ring)
        output = Output(str(path), HEAD, max_size=70_000)
        output.begin(reader)
        for _ in range(500):
            ring.put(FRAME.data)
        write_all(reader, output)
        assert (0, True) == (len(reader.blocks(output.room(reader))[0]), True)
        output.end(reader)
    assert 60_000 < path.stat().st_size <= 70_000
    assert 40 < len(fields(path, "frame.number"))


def test_silence_is_said_once(tmp_path: Path) -> None:
    """A file does not grow while nothing comes."""
    path = tmp_path / "a.pcapng"
    with Ring() as ring:
        reader = reader_of(ring)
        output = Output(str(path), HEAD)
        output.begin(reader)
        output.say(reader)
        length = path.stat().st_size
        output.say(reader)
        assert length == path.stat().st_size
        output.end(reader)
    assert length < path.stat().st_size


def test_full_disk_leaves_whole_blocks(tmp_path: Path) -> None:
    """What of a block could not be written is taken back."""
    path = tmp_path / "a.pcapng"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Ring(1 << 20) as ring:
        reader = reader_of(ring)
        output = Output(str(path), HEAD)
        output.begin(reader)
        for _ in range(100):
            ring.put(FRAME.data)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                write_all(reader, output)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        output.close()
    assert 48_000 < path.stat().st_size < 50_000
    assert 40 < len(fields(path, "frame.number")) < 50


@pytest.mark.one_lane  # of thousands
def test_frame_of_most_segments(tmp_path: Path) -> None:
    """2048 packets with long comments are more than is written at once, and than a file may have:
    none is left out, and nothing waits for ever."""
    many = Layers().tcp(bytes(2048 * 31))
    words = PARTIAL | {"header": header(1, 1, 31, 34), "facts": FACT_JUDGED | 1}
    words |= dict.fromkeys(("in_features", "out_features"), (1 << 63) - 1)
    for rotate in (0, 70_000):
        with Ring(1 << 20) as ring:
            reader = reader_of(ring, View(segment=True))
            reader._ports = {1: Interface("w" * 32), 2: Interface("d" * 32)}
            path = tmp_path / f"{rotate}.pcapng"
            session = Session(reader, Output(str(path), HEAD, rotate=rotate), ring.notify_fd)
            ring.put(FRAME.data)
            ring.put(many.partial, **words)
            ring.put(FRAME.data)
            session.run(0)
        paths = sorted(tmp_path.glob(f"{rotate}*"))
        assert OUT_MAX < paths[-1].stat().st_size < RECORD_MAX
        found = [len(fields(one, "frame.number")) for one in paths]
        assert ([1, 2049] if rotate else [2050]) == found


def test_a_terminal_is_no_file() -> None:
    """Nobody wants packets on their screen."""
    ours, theirs = os.openpty()
    with Ring() as ring, pytest.raises(IsATerminal, match="a terminal; write to a file"):
        Output(os.ttyname(theirs), HEAD).begin(reader_of(ring))
    for fd in (ours, theirs):
        os.close(fd)
