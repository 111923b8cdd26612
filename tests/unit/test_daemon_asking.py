"""Who asks a control socket, and gets something else than an answer."""

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest

from vionet.daemon.control import ControlError, ask, ask_status


async def test_asking_nobody(run_dir: Path) -> None:
    """A missing and a stale socket are told from one that answers nonsense."""
    with pytest.raises(ControlError, match="nobody answers") as caught:
        ask_status(run_dir / "none")
    assert caught.value.stale

    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"220 mail\n")
        writer.close()

    async with await asyncio.start_unix_server(nonsense, run_dir / "c"):
        with pytest.raises(ControlError, match="not vionet's") as caught:
            await asyncio.to_thread(ask_status, run_dir / "c")
        assert not caught.value.stale


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"[" * 100_000, "the answer is not vionet's"),
        (b'{"status":{}}', "no status"),
        (b'{"status":{"fabrics":[1]}}', "no status"),
        (b'{"status":{"fabrics":[{"name":"a"}]}}', "no status"),
        (b'{"status":{"fabrics":[{"name":"a","ports":[{"name":7}]}]}}', "no status"),
        (None, "no answer for"),
    ],
)
async def test_an_answer_that_is_no_status(
    run_dir: Path, answer: bytes | None, problem: str
) -> None:
    """Any other JSON than a status document is refused in a line, and so is what never ends."""
    over = asyncio.Event()

    async def strange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        with suppress(ConnectionError):
            while answer is None:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
            writer.write(answer + b"\n")
        writer.close()
        over.set()

    async with await asyncio.start_unix_server(strange, run_dir / "c"):
        with pytest.raises(ControlError, match=problem) as caught:
            if answer is None:
                await asyncio.to_thread(ask, run_dir / "c", "status", wait_s=0.2)
            await asyncio.to_thread(ask_status, run_dir / "c")
        assert 1 == len(str(caught.value).splitlines())
        await asyncio.wait_for(over.wait(), 60)
