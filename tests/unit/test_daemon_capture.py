"""`vionet capture` and the request behind it, on a switch between two streams."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import tools
from tests.process import Children
from tests.reference.frame import Layers
from tests.serving import starter
from vionet.capture.expression import compiled
from vionet.daemon.capture import USAGE
from vionet.daemon.control import RequestError, ask, ask_status, connected

FRAME = Layers().tcp(b"x" * 500).data
OTHER = Layers(6).udp(b"y" * 100).data
WANTED: dict[str, Any] = {"snap": 65535, "ring": 1 << 20, "whole": True, "code": ""}
WAIT_S = 60


class Lan:
    """A switch that runs, and whoever is at its two ports."""

    def __init__(self, folder: Path, start: Children) -> None:
        self.folder = folder
        self.start = start
        self.control = folder / "lan.control"
        self.switch = starter(start)(
            "switch", "--name", "lan", "--control", str(self.control),
            f"a=stream:{folder}/a", f"b=stream:{folder}/b",
        )  # fmt: skip
        self.ends = []
        for name in "ab":
            end = socket.socket(socket.AF_UNIX)
            end.settimeout(WAIT_S)
            end.connect(str(folder / name))
            self.ends.append(end)
        until(lambda: all(port["state"] == "attached" for port in self.fabric["ports"]))

    @property
    def fabric(self) -> dict[str, Any]:
        """Its part of the status document."""
        return ask_status(self.control)["fabrics"][0]

    def send(self, *frames: bytes) -> None:
        """From a to b, where each arrives."""
        for frame in frames:
            self.ends[0].sendall(len(frame).to_bytes(4, "big") + frame)
            got = b""
            while len(got) < 4 + len(frame):
                got += self.ends[1].recv(4 + len(frame) - len(got))
            assert frame == got[4:]

    def capture(self, *arguments: str, **settings: Any) -> subprocess.Popen[bytes]:
        """`vionet capture`, which has begun; what it says besides is at its `stderr`."""
        command = [sys.executable, "-m", "vionet", "capture", *arguments]
        child = subprocess.Popen(
            [*command, "--control", str(self.control)],
            stdout=settings.get("stdout", subprocess.PIPE), stderr=subprocess.PIPE,
        )  # fmt: skip
        begin(child)
        return child

    def recorded(self, count: int) -> None:
        """Wait until the first capture has so many records: a frame's is made when it was sent."""
        until(lambda: self.fabric["captures"][0]["records"] == count)

    def close(self) -> None:
        """Hang up."""
        for end in self.ends:
            end.close()


def until(happened: Any) -> None:
    """Wait for it."""
    deadline = time.monotonic() + WAIT_S
    while not happened():
        assert time.monotonic() < deadline
        select.select([], [], [], 0.01)


def begin(child: subprocess.Popen[bytes]) -> None:
    """Wait until a capture has begun."""
    assert child.stderr is not None
    said = b""
    while b"capturing" not in said:
        assert select.select([child.stderr], [], [], 3 * WAIT_S)[0], said
        piece = os.read(child.stderr.fileno(), 4096)
        assert piece, said
        said += piece


def end(child: subprocess.Popen[bytes], number: int | None = signal.SIGINT) -> tuple[str, str]:
    """End a capture; what was on its two outputs."""
    if number is not None:
        child.send_signal(number)
    try:
        out, err = child.communicate(timeout=WAIT_S)
    finally:
        child.kill()
    assert 0 == child.returncode, err
    return (out or b"").decode(), err.decode()


def read_file(path: Path) -> list[list[str]]:
    """Length and comment of each packet, by tshark."""
    command = [str(tools.need("tshark")), "-r", str(path), "-T", "fields"]
    command += ["-e", "frame.len", "-e", "frame.comment"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


@pytest.fixture
def lan(run_dir: Path, start: Children) -> Iterator[Lan]:
    """It runs."""
    with contextlib.closing(Lan(run_dir, start)) as lan:
        back = OTHER[6:12] + OTHER[:6] + OTHER[12:]  # so that a knows who b is
        lan.ends[1].sendall(len(back).to_bytes(4, "big") + back)
        assert back == lan.ends[0].recv(4 + len(back), socket.MSG_WAITALL)[4:]
        yield lan


def test_requests(lan: Lan) -> None:
    """Two descriptors come with the answer and the capture is in the status; it ends with the
    connection. What is wrong is said in one line, and nothing is left of it."""
    fds: list[int] = []
    with connected(lan.control, "capture", fds=fds, port="a", **WANTED) as (_, answer, _):
        assert ("lan", "a", 1 << 20) == (answer["fabric"], answer["port"], answer["ring"])
        assert 2 == len(fds)
        lan.send(FRAME)
        lan.recorded(1)
        (one,) = lan.fabric["captures"]
        assert {"number": 0, "ports": ["a"], "records": 1, "lost": 0} == one
        with connected(lan.control, "capture", **WANTED):
            assert [["a"], None] == [one["ports"] for one in lan.fabric["captures"]]
    until(lambda: lan.fabric["captures"] == [])
    for fd in fds:
        os.close(fd)
    for wrong, says in (
        ({"port": "z"}, "z: no such port; use one of a, b"),
        ({"port": ["a"]}, "['a']: no such port; use one of a, b"),
        ({"snap": -1}, USAGE),
        ({"ring": True}, USAGE),
        ({"whole": 1}, USAGE),
        ({"code": "?"}, USAGE),
        ({"code": 7}, USAGE),
        ({"ring": 100_000}, "power of two"),
        ({"code": b64encode(b"1234567").decode()}, "8 bytes"),
        ({"code": b64encode(bytes(8)).decode()}, "instruction 0 of the filter"),
    ):
        with pytest.raises(RequestError) as caught:
            ask(lan.control, "capture", **WANTED | wrong)
        assert says in str(caught.value)
    assert [] == lan.fabric["captures"]


def test_clients_that_do_their_worst(lan: Lan) -> None:
    """Who hangs up before the answer, talks into it, never reads, or asks for too many, ends or
    keeps a capture of their own; frames pass, and others are answered."""
    line = json.dumps({"version": 1, "request": "capture", **WANTED}).encode() + b"\n"
    for _ in range(3):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(lan.control))
            client.sendall(line)
    until(lambda: lan.fabric["captures"] == [])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(lan.control))
        client.sendall(line + b"more")
        until(lambda: b"" == client.recv(1 << 16))
    until(lambda: lan.fabric["captures"] == [])
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            small = WANTED | {"ring": 1 << 16}
            stack.enter_context(connected(lan.control, "capture", **small))
        with pytest.raises(RequestError, match="4 captures of this fabric are on"):
            ask(lan.control, "capture", **WANTED)
        lan.send(*[FRAME] * 200)  # more than fits into rings that nobody reads
        until(lambda: all(one["lost"] > 0 for one in lan.fabric["captures"]))
    until(lambda: lan.fabric["captures"] == [])


def test_file(lan: Lan, tmp_path: Path) -> None:
    """What passed a port since it has begun, until it is told to end; then it is complete."""
    path = tmp_path / "a.pcapng"
    child = lan.capture("a", "-w", str(path), "--filter", "tcp")
    lan.send(FRAME, OTHER, FRAME)
    lan.recorded(2)
    _, said = end(child)
    assert "2 packets, 0 records lost" in said
    assert [[str(len(FRAME)), "a → b: UNKNOWN → passed as it is"]] * 2 == read_file(path)


def test_fabric_that_ends(lan: Lan, tmp_path: Path) -> None:
    """With vionet the capture ends, and its file is complete: all that passed is there."""
    path = tmp_path / "a.pcapng"
    child = lan.capture("lan", "-w", str(path))
    lan.send(*[FRAME] * 50)
    lan.recorded(50)
    lan.switch.process.send_signal(signal.SIGTERM)
    assert 0 == lan.switch.wait(WAIT_S)
    end(child, None)
    assert [str(len(FRAME))] * 50 == [length for length, _ in read_file(path)]


def test_lines(lan: Lan) -> None:
    """Without a file there is a line for each packet, until there are as many as wanted."""
    child = lan.capture("--count", "2")
    lan.send(FRAME, OTHER, FRAME)
    out, _ = end(child, None)
    first, second = out.splitlines()
    assert (
        " a → b 192.0.2.1:4000 > 192.0.2.2:4001 tcp length 554: UNKNOWN → passed as it is" in first
    )
    assert " a → b [2001:db8::1]:4000 > [2001:db8::2]:4001 udp length 162: UNKNOWN" in second


def test_pipe(lan: Lan) -> None:
    """tshark reads what passes as it passes; a capture whose reader has gone ends in peace, and
    one whose reader has fallen asleep ends with a signal."""
    reader, writer = os.pipe()
    child = lan.capture("a", "-w", "-", stdout=writer)
    os.close(writer)
    command = [str(tools.need("tshark")), "-l", "-r", "-", "-T", "fields", "-e", "frame.comment"]
    with subprocess.Popen(command, stdin=reader, stdout=subprocess.PIPE, text=True) as tshark:
        os.close(reader)
        assert tshark.stdout is not None
        lan.send(FRAME)
        assert "a → b: UNKNOWN → passed as it is\n" == tshark.stdout.readline()
        tshark.kill()
    while child.poll() is None:
        lan.send(FRAME)
    end(child, None)
    reader, writer = os.pipe()
    child = lan.capture("a", "-w", "-", stdout=writer)
    os.close(writer)
    lan.send(*[FRAME] * 1000)  # more than a pipe takes
    assert select.select([reader], [], [], WAIT_S)[0]
    child.send_signal(signal.SIGINT)
    assert 1 == child.wait(WAIT_S)
    assert b"no whole file" in child.communicate()[1]
    os.close(reader)


def test_a_signal_does_not_cut_what_is_read(lan: Lan, tmp_path: Path) -> None:
    """Whoever reads a pipe late gets the file to its end; nobody at a pipe's other end is no reason
    to stay."""
    reader, writer = os.pipe()
    child = lan.capture("a", "-w", "-", stdout=writer)
    os.close(writer)
    lan.send(*[FRAME] * 500)
    lan.recorded(500)
    child.send_signal(signal.SIGTERM)
    path = tmp_path / "a.pcapng"
    with path.open("wb") as file, os.fdopen(reader, "rb") as pipe:
        file.write(pipe.read())
    end(child, None)
    assert 500 == len(read_file(path))
    os.mkfifo(tmp_path / "fifo")
    child = lan.capture("a", "-w", str(tmp_path / "fifo"))
    child.send_signal(signal.SIGINT)
    assert 1 == child.wait(WAIT_S)
    child.communicate()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["z"], 1, "z: no such port or fabric; use one of lan, a, b"),
        (["a", "--filter", "tcp prt 3"], 1, "--filter 'tcp prt 3': can't parse filter expression"),
        (["a", "-w", "/none/such"], 1, "/none/such: No such file or directory"),
        (["a", "-w", "/dev/full"], 1, "No space left on device"),
        (["a", "--filter", "\udcff"], 1, "--filter: not UTF-8"),
        (["a", "-w", "/", "--rotate", "1M"], 2, "-w /: names no file"),
        (["a", "--rotate", "1M"], 2, "--rotate and --max-size are for files; give -w FILE"),
        (["a", "-w", "x", "--keep", "3"], 2, "--keep is for the files of --rotate; give both"),
        (["a", "-w", "x", "--rotate", "1M", "--max-size", "1M"], 2, "give one of them"),
        (["a", "--segment", "--as-delivered"], 2, "leave out --as-delivered"),
        (["a", "--duration", "soon"], 2, "soon: a number and s, ms, m, h"),
        (["a", "-w", "x", "--max-size", "1"], 2, "1: at least 65536"),
    ],
)
def test_mistakes(lan: Lan, arguments: list[str], status: int, says: str) -> None:
    """One line says what is wrong; nothing is left of it."""
    command = [sys.executable, "-m", "vionet", "capture", *arguments, "-q"]
    done = subprocess.run(
        [*command, "--control", str(lan.control)],
        capture_output=True,
        text=True,
        timeout=3 * WAIT_S,
    )
    assert (status, "") == (done.returncode, done.stdout), done.stderr
    assert says in done.stderr.splitlines()[-1]
    assert [] == lan.fabric["captures"]


def test_expressions() -> None:
    """What libpcap makes is whole instructions; where it is not there, the line says what to do."""
    assert 0 == len(compiled("tcp port 80")) % 8
    assert 10 < len(compiled("tcp port 80")) // 8 < 40
    assert b"" == compiled("  ")
    with pytest.raises(ValueError, match=r"--filter needs libpcap.*apt install libpcap0\.8"):
        compiled("tcp", "libnone.so.0")
