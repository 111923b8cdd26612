"""Consoles and logs of machines on the control socket, and clients that do their worst."""

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.unit.still_site import (
    BOB,
    WAIT_S,
    asked,
    serving,
)
from tests.unit.test_daemon_control import connected, hung_up, said
from vionet.daemon.control import CLIENTS_MAX, RequestError
from vionet.daemon.control import connected as attached
from vionet.daemon.machines import LOG_MAX


async def test_console(run_dir: Path) -> None:
    """After the answer the connection is the serial line, both ways, until either ends it."""
    async with serving(run_dir) as (site, path):
        machine = site.machines["web"].machine
        await asked(path, "vm.start", name="web")

        def typed(last: bytes) -> bytes:
            with attached(path, "vm.console", name="web") as (client, answer, rest):
                assert "vm.console" == answer["reply"]
                client.settimeout(WAIT_S)
                client.sendall(b"root\n")
                while b"ROOT\n" not in rest:
                    rest += client.recv(100)
                client.sendall(last)
                while last and (more := client.recv(100)):
                    rest += more
                return rest

        assert b"login: ROOT\n" == await asyncio.to_thread(typed, b"q")
        assert b"login: ROOT\n" == await asyncio.to_thread(typed, b"")
        deadline = asyncio.get_running_loop().time() + WAIT_S
        while machine.console.attached:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.005)


async def test_console_that_takes_no_more(run_dir: Path) -> None:
    """Who is one reader too many is told on the line itself, which then ends."""
    async with serving(run_dir) as (site, path):
        await asked(path, "vm.start", name="web")
        site.machines["web"].machine.console.refuses = True
        reader, writer = await connected(path)
        writer.write(b'{"version":1,"request":"vm.console","name":"web"}\n')
        assert "reply" in await said(reader)
        last = await asyncio.wait_for(reader.read(), WAIT_S)
        assert b"\r\nvionet: web: the console has 16 readers already; close one of them\r\n" == last
        writer.close()


async def test_console_of_a_client_that_does_not_read(run_dir: Path) -> None:
    """It holds its own line only; others are answered, and the end of vionet does not wait."""
    async with serving(run_dir) as (site, path):
        await asked(path, "vm.start", name="web")
        reader, writer = await connected(path)
        writer.write(b'{"version":1,"request":"vm.console","name":"web"}\n')
        assert "reply" in await said(reader)
        with socket.socket(socket.AF_UNIX) as deaf:
            deaf.connect(str(path))
            deaf.sendall(b'{"version":1,"request":"vm.console","name":"web"}\n')
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    while True:
                        await loop.sock_sendall(deaf, b"flood" * 1000)
            assert 2 == site.machines["web"].machine.console.attached
            assert "running" == (await asked(path, "vm.reset", name="web"))["vm"]["state"]
            writer.write(b"hello")
            assert b"login: HELLO" == await asyncio.wait_for(reader.readexactly(12), WAIT_S)
    assert 0 == site.machines["web"].machine.console.attached
    assert await hung_up(reader)
    writer.close()


@pytest.mark.root
async def test_flood_of_a_stranger_pushes_out_itself(run_dir: Path) -> None:
    """A user who opens connections without end loses their own first; root's console stays."""
    async with serving(run_dir) as (_, path):
        await asked(path, "vm.start", name="web")
        reader, writer = await connected(path)
        writer.write(b'{"version":1,"request":"vm.console","name":"web"}\n')
        assert "reply" in await said(reader)
        flood = await asyncio.create_subprocess_exec(
            "/usr/bin/python3", "-c", _FLOOD, str(path), str(BOB),
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await asyncio.wait_for(flood.communicate(), 90)
        counts = json.loads(out)
        assert {"kept": CLIENTS_MAX - 1, "lost": 201 - CLIENTS_MAX} == counts
        writer.write(b"still here")
        assert b"login: STILL HERE" == await asyncio.wait_for(reader.readexactly(17), WAIT_S)
        writer.close()


_FLOOD = """
import json, os, socket, sys
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[2]))
clients, lost = [], 0
for number in range(200):
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    client.connect(sys.argv[1])
    client.sendall(b'{"version":1,"request":"vm.list"}\\n')
    assert client.recv(1000), number
    clients.append(client)
for client in clients:
    client.setblocking(False)
    try:
        lost += client.recv(1) == b""
    except ConnectionResetError:
        lost += 1
    except BlockingIOError:
        pass
print(json.dumps({"lost": lost, "kept": len(clients) - lost}))
"""


async def test_log(run_dir: Path) -> None:
    """The tail, then what came since; every byte as it was; a log begun anew is read anew."""
    async with serving(run_dir) as (site, path):
        log = site.machines["web"].log
        assert {"text": "", "next": 0} == {
            key: value for key, value in (await asked(path, "vm.log", name="web")).items()
            if key in ("text", "next")
        }  # fmt: skip
        every = bytes(range(256))
        log.write_bytes(b"x" * LOG_MAX + every)
        answer = await asked(path, "vm.log", name="web")
        assert (b"x" * LOG_MAX + every)[-LOG_MAX:] == answer["text"].encode("latin-1")
        with log.open("ab") as file:
            file.write(b"more")
        answer = await asked(path, "vm.log", name="web", **{"from": answer["next"]})
        assert ("more", LOG_MAX + 260) == (answer["text"], answer["next"])
        log.write_bytes(b"new")
        answer = await asked(path, "vm.log", name="web", **{"from": answer["next"]})
        assert ("new", 3) == (answer["text"], answer["next"])


async def test_who_asked_is_logged(run_dir: Path) -> None:
    """What changes a machine is logged with who asked and for what, in bounded numbers; looking is
    not."""
    async with serving(run_dir) as (_, path):
        with capture_logs() as lines:
            await asked(path, "vm.list")
            await asked(path, "vm.log", name="web")
            assert [] == lines
            await asked(path, "vm.start", name="web")
            (line,) = lines
            expected = ("asked", "info", "vm.start", "web", os.getuid(), "home")
            keys = ("event", "log_level", "request", "vm", "uid", "site")
            assert expected == tuple(line[key] for key in keys)
            for _ in range(100):
                with pytest.raises(RequestError):
                    await asked(path, "vm.reset", name="\x1b[2J" + "x" * 1000)
            assert "?[2Jxx" == lines[-1]["vm"][:6]
            assert 30 <= len(lines) < 60
            assert max(len(line.get("vm", "")) for line in lines) <= 64
