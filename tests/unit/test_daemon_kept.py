"""Taps that a successor finds at the keeper, in a network namespace of the test's own."""

import os
import subprocess
from pathlib import Path

import pytest
import structlog

from vionet.config.port import parse_port
from vionet.daemon.kept import KeptTaps
from vionet.daemon.notify import Notify
from vionet.ports import link
from vionet.ports.tap import Tap
from vionet.vm.keeper import DESCRIPTORS_MAX
from vionet.vm.keeping import Keeper

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("namespace")]
PORT = parse_port("up", "tap:vk0,address=192.0.2.1/24")


async def successor(folder: Path, keeper: Keeper) -> KeptTaps:
    """The taps of a vionet that comes after another."""
    return KeptTaps(folder / "taps.json", keeper, Notify(None), await keeper.take())


async def kept(folder: Path, keeper: Keeper) -> None:
    """A tap of a vionet that has gone."""
    taps = await successor(folder, keeper)
    tap = taps.open_port(PORT)
    assert isinstance(tap, Tap)
    await taps.keep({"up": (PORT, tap)})
    tap.close()
    taps.close()
    assert link.exists("vk0")


async def test_a_successor_goes_on_with_it(tmp_path: Path) -> None:
    """The interface is never gone; it is when nobody wants it any more."""
    keeper = await Keeper.reach(tmp_path)
    try:
        await kept(tmp_path, keeper)
        before = subprocess.check_output(["ip", "-o", "link", "show", "vk0"], timeout=60)
        taps = await successor(tmp_path, keeper)
        tap = taps.open_port(PORT)
        assert before == subprocess.check_output(["ip", "-o", "link", "show", "vk0"], timeout=60)
        tap.close()
        await taps.release([])
        taps.close()
        assert not link.exists("vk0")
    finally:
        await keeper.end()


async def test_one_that_was_deleted_is_made_anew(tmp_path: Path) -> None:
    """Somebody deletes the interface: a successor makes another, and has that one kept."""
    keeper = await Keeper.reach(tmp_path)
    try:
        await kept(tmp_path, keeper)
        subprocess.run(["ip", "link", "delete", "vk0"], timeout=60, check=True)
        taps = await successor(tmp_path, keeper)
        await taps.release([PORT])
        tap = taps.open_port(PORT)
        assert isinstance(tap, Tap)
        await taps.keep({"up": (PORT, tap)})
        tap.close()
        taps.close()
        assert link.exists("vk0")
        assert {"up"} == keeper.descriptors
    finally:
        await keeper.end()


async def test_a_keeper_that_is_full(tmp_path: Path) -> None:
    """A tap that the keeper has no room for works all the same, and is named in the log."""
    keeper = await Keeper.reach(tmp_path)
    null = os.open(os.devnull, os.O_RDONLY)
    try:
        taps = KeptTaps(tmp_path / "taps.json", keeper, Notify(None), {})
        for number in range(DESCRIPTORS_MAX):
            await keeper.put(f"n{number}", null)
        tap = taps.open_port(PORT)
        assert isinstance(tap, Tap)
        with structlog.testing.capture_logs() as lines:
            await taps.keep({"up": (PORT, tap)})
        assert ["tap not kept for a successor"] == [line["event"] for line in lines]
        assert link.exists("vk0")
        tap.close()
    finally:
        os.close(null)
        await keeper.end()
