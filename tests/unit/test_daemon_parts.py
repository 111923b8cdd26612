"""Parts of a site: programs that are kept running, and machines that are in no file."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import structlog

from vionet.daemon import child
from vionet.daemon.child import Supervised
from vionet.daemon.defined import Defined
from vionet.site.model import Site
from vionet.site.toml_vm import vm_from_table
from vionet.vm.keeping import Keeper

WAIT_S = 60


@pytest.fixture
async def keeper(run_dir: Path) -> AsyncIterator[Keeper]:
    """A keeper alone."""
    reached = await Keeper.reach(run_dir)
    yield reached
    await reached.end()


async def until(condition: Callable[[], object]) -> None:
    """Wait until it is true; for other processes, which raise no event here."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.01)


async def test_supervised(keeper: Keeper, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that ends is started again; one that runs is gone on with, if it is the same; and
    it can be ended for good."""
    monkeypatch.setattr(child, "FIRST_S", 0.02)
    program = Supervised(keeper, ":one", ["sleep", "1000"], run_dir / "log")
    first = await program.start()
    await keeper.signal(":one", 9)
    await until(lambda: ":one" in keeper.children and keeper.children[":one"].pid != first)
    second = keeper.children[":one"].pid
    program.leave()
    program = Supervised(keeper, ":one", ["sleep", "1000"], run_dir / "log")
    assert second == await program.start()
    program.leave()
    program = Supervised(keeper, ":one", ["sleep", "1001"], run_dir / "log")
    assert second != await program.start()
    await program.stop()
    assert {} == keeper.children
    await asyncio.sleep(0.1)
    assert {} == keeper.children, "and stays so"


async def test_supervised_that_cannot_start(
    keeper: Keeper, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that is away for a while is tried again until it is there."""
    monkeypatch.setattr(child, "FIRST_S", 0.02)
    path, away = run_dir / "program", run_dir / "away"
    path.write_text("#!/bin/sh\nexec sleep 1000\n")
    path.chmod(0o700)
    program = Supervised(keeper, ":one", [str(path)], run_dir / "log")
    first = await program.start()
    path.rename(away)
    await keeper.signal(":one", 9)
    await until(lambda: ":one" not in keeper.children)
    await asyncio.sleep(0.1)
    away.rename(path)
    await until(lambda: ":one" in keeper.children and keeper.children[":one"].pid != first)
    await program.stop()


async def test_supervised_says_what_the_program_said(
    keeper: Keeper, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why a program ends again and again is in the log: its last words."""
    monkeypatch.setattr(child, "FIRST_S", 0.02)
    program = Supervised(keeper, ":one", ["sh", "-c", "echo no route; exit 3"], run_dir / "log")
    with structlog.testing.capture_logs() as lines:
        await program.start()
        await until(lambda: lines)
        await program.stop()
    assert (3, "no route") == (lines[0]["status"], lines[0]["said"])


def test_defined(run_dir: Path) -> None:
    """Machines without a file are remembered, judged anew by the file of the day, and forgotten; a
    spoilt record is none."""
    path = run_dir / "defined.json"
    known = Defined(path)
    known.add("one", {"kernel": "/k", "memory": "64M"}, None)
    known.add("two", {"memory": "96M"}, "base")
    known = Defined(path)
    assert "one" in known
    assert ["one"] == [entry.vm.name for entry in known.entries(Site(name="s"))]
    base = vm_from_table("base", {"kernel": "/k"}, None, Path("/"))
    site = Site(name="s", vms=(base,))
    assert [64 << 20, 96 << 20] == [entry.vm.memory_len for entry in known.entries(site)]
    taken = vm_from_table("one", {"kernel": "/other"}, None, Path("/"))
    assert [] == [*known.entries(Site(name="s", vms=(taken,)))], "the name is the file's"
    known.add("odd", {"memroy": 1}, None)
    assert ["one"] == [entry.vm.name for entry in known.entries(Site(name="s"))]
    for name in ("one", "two", "odd", "never"):
        known.forget(name)
    assert "{}" == path.read_text()
    for spoilt in ("{", ""):
        path.write_text(spoilt)
        assert [] == [*Defined(path).entries(site)]
