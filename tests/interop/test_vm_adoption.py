"""A machine and the vionets that come and go: adopted, found ended, left without one."""

import asyncio
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.interop.vm_lab import (
    FIRMWARE,
    WAIT_S,
    States,
    Terminal,
    build_image,
    guest,
    machine,
    until_gone,
)
from tests.process import Children
from tests.tools import ROOT
from vionet.vm.keeping import Keeper
from vionet.vm.machine import MachineError, State
from vionet.vm.model import Restart

# A vionet that is killed while a guest runs; what follows is another process.
PREDECESSOR = """
import asyncio, sys
from pathlib import Path
from tests.interop.vm_lab import guest, machine
from vionet.vm.keeping import Keeper

async def main(folder, image, linger_s):
    keeper = await Keeper.reach(folder, linger_s)
    one = machine(folder, keeper, guest(image))
    await one.start()
    print(one.pid, keeper.pid, flush=True)
    await asyncio.sleep(1000)

asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The initramfs of `guest`."""
    return build_image(tmp_path_factory.mktemp("image") / "initramfs")


@pytest.mark.slow
async def test_guest_outlives_vionet(run_dir: Path, start: Children, image: Path) -> None:
    """vionet is killed; the next one finds the same QEMU, its console goes on, and it can stop."""
    predecessor = start(
        sys.executable, "-c", PREDECESSOR, run_dir, image, "60", env={"PYTHONPATH": str(ROOT)}
    )
    pid, keeper_pid = map(int, predecessor.wait_for(r"^\d+ \d+$", WAIT_S).group().split())
    os.kill(predecessor.pid, signal.SIGKILL)
    predecessor.wait()
    keeper = await Keeper.reach(run_dir)
    try:
        assert keeper_pid == keeper.pid
        one = machine(run_dir, keeper, guest(image))
        assert await one.adopt()
        assert (State.RUNNING, pid) == (one.state, one.pid)
        terminal = await Terminal().open(one)
        while "@@ready" not in (run_dir / "one.log").read_text(errors="replace"):
            await asyncio.sleep(0.05)
        terminal.type("echo $((6 * 7))")
        await terminal.until("42")
        await one.pause()
        # A planned restart finds it as it was left.
        await one.leave()
        await terminal.close()
        keeper.leave()
        keeper = await Keeper.reach(run_dir)
        one = machine(run_dir, keeper, guest(image))
        assert await one.adopt()
        assert (State.PAUSED, pid) == (one.state, one.pid)
        await one.stop(force=True)
        assert (State.STOPPED, None) == (one.state, one.pid)
        await one.close()
    finally:
        await keeper.end()
    until_gone(pid, keeper_pid)


async def test_guest_that_ended_meanwhile(run_dir: Path) -> None:
    """QEMU dies while no vionet is there: the next one calls that a crash and starts it again."""
    vm = replace(FIRMWARE, restart=Restart.ON_FAILURE)
    keeper = await Keeper.reach(run_dir)
    one = machine(run_dir, keeper, vm)
    assert not await one.adopt()
    assert "stopped" == one.state
    await one.start()
    pid = one.pid
    assert pid is not None
    await one.leave()
    keeper.leave()
    os.kill(pid, signal.SIGKILL)
    until_gone(pid)
    keeper = await Keeper.reach(run_dir)
    states = States()
    one = machine(run_dir, keeper, vm, told=states)
    assert not await one.adopt()
    assert (State.CRASHED, "killed by SIGKILL", True) == (one.state, one.reason, one.restart_due)
    await states.until(State.RUNNING)
    await one.close()
    assert {} == keeper.children
    await keeper.end()


async def test_nobody_follows(run_dir: Path, start: Children, image: Path) -> None:
    """vionet is killed and none comes after it: neither QEMU nor keeper is left."""
    predecessor = start(
        sys.executable, "-c", PREDECESSOR, run_dir, image, "0.5", env={"PYTHONPATH": str(ROOT)}
    )
    pids = [*map(int, predecessor.wait_for(r"^\d+ \d+$", WAIT_S).group().split())]
    assert all(Path(f"/proc/{pid}").exists() for pid in pids)
    os.kill(predecessor.pid, signal.SIGKILL)
    until_gone(*pids)
    assert not (run_dir / "keeper.sock").exists()


async def test_keeper_is_killed(run_dir: Path) -> None:
    """QEMU dies with a keeper that is killed, and the machine has crashed."""
    states = States()
    keeper = await Keeper.reach(run_dir)
    one = machine(run_dir, keeper, told=states)
    await one.start()
    pid = one.pid
    assert pid is not None
    os.kill(keeper.pid, signal.SIGKILL)
    until_gone(pid)
    await states.until(State.CRASHED)
    with pytest.raises(MachineError, match="the keeper is gone"):
        await one.start()
    await one.close()
    keeper.leave()
