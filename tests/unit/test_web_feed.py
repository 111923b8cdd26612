"""The samples: one poll for all who look, none while nobody does."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.scripted import Scripted, fabric, port
from vionet.web import feed
from vionet.web.feed import VIEWERS_MAX, Feed

WAIT_S = 10


@asynccontextmanager
async def watching(shown: Feed) -> AsyncIterator[AsyncGenerator[bytes]]:
    """A viewer, until the end of the block."""
    samples = shown.watch()
    try:
        yield samples
    finally:
        await samples.aclose()


async def following(samples: AsyncGenerator[bytes]) -> Any:
    """The next sample."""
    async with asyncio.timeout(WAIT_S):
        return json.loads(await anext(samples))


async def asked(control: Scripted, count: int) -> None:
    """Wait until the socket was asked so often."""
    async with asyncio.timeout(WAIT_S):
        while control.asked < count:
            await asyncio.sleep(0.005)


async def until_names(samples: AsyncGenerator[bytes], names: Sequence[str]) -> Any:
    """The first sample in which these fabrics run."""
    while True:
        sample = await following(samples)
        if list(names) == [one["name"] for one in sample["fabrics"]]:
            return sample


async def test_viewers_share_one_sample(run_dir: Path, monkeypatch: Any) -> None:
    """Who look see the same sample, also who comes later; the socket is asked once for all."""
    monkeypatch.setattr(feed, "PERIOD_S", 60)
    monkeypatch.setattr(feed, "ANSWER_S", WAIT_S)
    with Scripted(run_dir / "s.control", fabric("s", port("a"))) as control:
        shown = Feed(lambda: [control.path])
        async with watching(shown) as one, watching(shown) as other, watching(shown) as late:
            first, second = await asyncio.gather(following(one), following(other))
            assert first == second == await following(late)
            assert ["a"] == [it["name"] for it in first["fabrics"][0]["ports"]]
        assert 1 == control.asked


async def test_nothing_is_asked_while_nobody_looks(run_dir: Path, monkeypatch: Any) -> None:
    """Before the first viewer and after the last one: no task, no connection, no question."""
    monkeypatch.setattr(feed, "PERIOD_S", 0.01)
    with Scripted(run_dir / "s.control", fabric("s", port("a"))) as control:
        shown = Feed(lambda: [control.path])
        await asyncio.sleep(0)
        assert 0 == control.asked
        async with watching(shown) as samples:
            await following(samples)
            await asked(control, 3)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*tasks, return_exceptions=True)
        assert set() == asyncio.all_tasks() - {asyncio.current_task()}
        async with watching(shown) as samples:  # and it begins anew
            await until_names(samples, ["s"])


async def test_viewers_are_bounded(run_dir: Path) -> None:
    """One more than the most has nothing to see; when one goes, there is room again."""
    with Scripted(run_dir / "s.control", fabric("s", port("a"))) as control:
        shown = Feed(lambda: [control.path])
        viewers = [shown.watch() for _ in range(VIEWERS_MAX)]
        await asyncio.gather(*map(following, viewers))
        assert [] == [sample async for sample in shown.watch()]
        await viewers.pop().aclose()
        async with watching(shown) as samples:
            await following(samples)
        for viewer in viewers:
            await viewer.aclose()
        assert 0 == shown.viewers


async def test_a_fabric_goes_and_comes_back(run_dir: Path, monkeypatch: Any) -> None:
    """A socket that is gone, and one that nobody serves, are no problem, merely not there."""
    monkeypatch.setattr(feed, "PERIOD_S", 0.01)
    path = run_dir / "s.control"
    shown = Feed(lambda: [path, run_dir / "other.control"])
    async with watching(shown) as samples:
        with Scripted(path, fabric("s", port("a"))):
            await until_names(samples, ["s"])
        assert [] == (await until_names(samples, []))["problems"]
        with Scripted(path, fabric("again", port("a"))):
            await until_names(samples, ["again"])


async def test_a_socket_that_does_not_answer_delays_nobody(run_dir: Path, monkeypatch: Any) -> None:
    """Others are shown meanwhile; it is named, and so is one that answers something else."""
    monkeypatch.setattr(feed, "PERIOD_S", 0.01)
    monkeypatch.setattr(feed, "ANSWER_S", 0.2)
    silent, strange, good = (Scripted(run_dir / f"{n}.control", fabric(n)) for n in "abc")
    with silent, strange, good:
        silent.silent = True
        strange.line = b'{"version": 1, "status": 7}\n'
        shown = Feed(lambda: [silent.path, strange.path, good.path])
        async with watching(shown) as samples:
            sample = await until_names(samples, ["c"])
            assert ["a.control", "b.control"] == [
                problem.partition(":")[0] for problem in sample["problems"]
            ]
            silent.silent, strange.line = False, None
            assert [] == (await until_names(samples, ["a", "b", "c"]))["problems"]


async def test_the_end_sends_viewers_away(run_dir: Path) -> None:
    """The server that ends does not wait for them."""
    with Scripted(run_dir / "s.control", fabric("s")) as control:
        shown = Feed(lambda: [control.path])
        async with watching(shown) as samples:
            await following(samples)
            waiting = asyncio.create_task(anext(samples, None))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            shown.end()
            async with asyncio.timeout(WAIT_S):
                while (sample := await waiting) is not None:
                    assert sample
                    waiting = asyncio.create_task(anext(samples, None))  # type: ignore[arg-type]
