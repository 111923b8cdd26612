"""The life of a machine, with a real QEMU: firmware alone, and Debian's kernel with a shell."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from tests.interop.vm_lab import (
    BUTTON,
    FIRMWARE,
    LISTEN,
    PANICS,
    TAKEN_OVER,
    WAIT_S,
    States,
    Terminal,
    build_image,
    guest,
    machine,
    places,
    until_gone,
)
from tests.tools import need
from vionet.vm import machine as module
from vionet.vm.keeping import Keeper
from vionet.vm.machine import Machine, MachineError, State
from vionet.vm.model import Restart


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The initramfs of `guest`."""
    return build_image(tmp_path_factory.mktemp("image") / "initramfs")


@pytest.fixture
async def keeper(run_dir: Path) -> AsyncIterator[Keeper]:
    """A keeper in the test's folder."""
    reached = await Keeper.reach(run_dir)
    yield reached
    await reached.end()
    assert {} == reached.children


@pytest.mark.slow
async def test_life_of_a_guest(run_dir: Path, keeper: Keeper, image: Path) -> None:
    """It starts, is paused and resumed, is reset, talks, and stops when its button is pressed."""
    states = States()
    one = machine(run_dir, keeper, guest(image), told=states)
    assert (State.STOPPED, None, None) == (one.state, one.pid, one.reason)
    await one.start()
    assert "running" == one.state
    assert one.pid is not None
    assert b"qemu-system-x86_64" in Path(f"/proc/{one.pid}/cmdline").read_bytes()
    terminal = await Terminal().open(one)
    await terminal.until("@@ready")
    terminal.type("echo $((6 * 7))")
    await terminal.until("42")
    with pytest.raises(MachineError, match="one: cannot be unpaused: it is running; pause it"):
        await one.resume()
    await one.pause()
    assert "paused" == one.state
    with pytest.raises(MachineError, match="one: cannot be paused: it is paused; unpause it"):
        await one.pause()
    await one.resume()
    assert "running" == one.state
    await one.reset()
    assert "running" == one.state
    await terminal.until("@@ready")
    terminal.type(f"echo listening; {BUTTON}")
    await terminal.until("listening")
    await one.pause()  # it is woken to see its button
    await one.stop(timeout_s=WAIT_S)
    assert ["stopped", "power-off", None] == [one.state, one.reason, one.pid]
    expected = ["starting", "running", "paused", "running", "paused", "stopping", "stopped"]
    assert expected == states.seen
    assert b"@@ready" in (run_dir / "one.log").read_bytes()
    await terminal.close()
    await one.close()


async def test_guest_that_does_not_listen(run_dir: Path, keeper: Keeper) -> None:
    """A guest that ignores its button is stopped by force after the time limit, or at once."""
    one = machine(run_dir, keeper, replace(FIRMWARE, restart=Restart.ALWAYS))
    await one.start()
    pid = one.pid
    await one.stop(timeout_s=0.3)
    assert (State.STOPPED, "stopped by force") == (one.state, one.reason)
    assert not one.restart_due, "it was asked to stop"
    with pytest.raises(MachineError, match="one: cannot be stopped: it is stopped; start it first"):
        await one.stop()
    with pytest.raises(MachineError, match="one: cannot be reset: it is stopped; start it first"):
        await one.reset()
    await one.start()
    assert pid != one.pid
    with pytest.raises(MachineError, match="one: cannot be started: it is running; stop it first"):
        await one.start()
    slow = asyncio.create_task(one.stop(timeout_s=1000))
    await asyncio.sleep(0)
    assert "stopping" == one.state
    with pytest.raises(MachineError, match="cannot be started: it is stopping; wait until"):
        await one.start()
    await one.stop(force=True)
    assert "stopped" == one.state
    await slow
    await one.close()


async def test_qemu_that_hangs(
    run_dir: Path, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A QEMU that is frozen is killed when it is to stop by force."""
    monkeypatch.setattr(module, "QUIT_S", 0.5)
    one = machine(run_dir, keeper)
    await one.start()
    assert one.pid is not None
    os.kill(one.pid, signal.SIGSTOP)
    async with asyncio.timeout(WAIT_S):
        await one.stop(force=True)
    assert (State.STOPPED, "stopped by force") == (one.state, one.reason)
    await one.close()


async def test_crash_is_noticed_and_mended(run_dir: Path, keeper: Keeper) -> None:
    """QEMU is killed: that is a crash with its reason, and with `on-failure` it starts again."""
    states = States()
    one = machine(run_dir, keeper, replace(FIRMWARE, restart=Restart.ON_FAILURE), told=states)
    await one.start()
    await states.until(State.RUNNING)
    for count in (1, 2):
        before = one.pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        await states.until(State.CRASHED)
        await states.until(State.RUNNING)
        assert count == one.restarts
        assert one.pid not in (None, before)
    # Killed once more, and stopped while it waits to be started again.
    assert one.pid is not None
    os.kill(one.pid, signal.SIGKILL)
    await states.until(State.CRASHED)
    assert "killed by SIGKILL" == one.reason
    assert one.restart_due
    await one.stop()
    assert "stopped" == one.state
    assert not one.restart_due
    assert {} == keeper.children
    await one.close()


async def test_guest_that_panics(run_dir: Path, keeper: Keeper, image: Path) -> None:
    """A panic of the guest's kernel is a crash, and said to be one."""
    states = States()
    one = machine(run_dir, keeper, guest(image), told=states)
    await one.start()
    terminal = await Terminal().open(one)
    await terminal.until("@@ready")
    terminal.type("echo c > /proc/sysrq-trigger")
    await states.until(State.CRASHED)
    assert ("panic", False) == (one.reason, one.restart_due)
    await terminal.close()
    await one.close()


@pytest.mark.slow
@pytest.mark.parametrize("policy", list(Restart))
async def test_guest_that_powers_off(
    run_dir: Path, keeper: Keeper, image: Path, policy: Restart
) -> None:
    """A guest that powers off by itself has stopped; only `always` starts it again."""
    states = States()
    one = machine(run_dir, keeper, replace(guest(image), restart=policy), told=states)
    await one.start()
    terminal = await Terminal().open(one)
    await terminal.until("@@ready")
    terminal.type("poweroff -f")
    await states.until(State.STOPPED)
    assert (policy is Restart.ALWAYS) == one.restart_due
    assert "power-off" == one.reason
    if policy is Restart.ALWAYS:
        await states.until(State.RUNNING)
        await terminal.until("@@ready")
        assert 1 == one.restarts
    await terminal.close()
    await one.close()


async def test_start_that_fails(
    run_dir: Path, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why a machine does not start is said in one line, and nothing is left running."""
    monkeypatch.setattr(module, "LOST_S", 0.5)
    qemu = str(need("qemu-system-x86_64"))
    vm = replace(FIRMWARE, restart=Restart.ALWAYS)
    for argv, start_s, words in (
        (
            [qemu, "-bogus"],
            WAIT_S,
            "one: did not start: QEMU ended with status 1: .*-bogus: invalid opt",
        ),
        (["/nowhere/qemu"], WAIT_S, "/nowhere/qemu: No such file or directory"),
        (["sleep", "1000"], 0.3, "one: did not start: no answer on .*one.qmp within 0 s"),
        (["sh", "-c", "echo last words >&2; exit 3"], WAIT_S, "ended with status 3: last words"),
    ):
        one = machine(run_dir, keeper, vm, argv=argv, start_s=start_s)
        with pytest.raises(MachineError, match=words):
            await one.start()
        assert "crashed" == one.state
        assert not one.restart_due, "whoever started it was told"
        assert {} == keeper.children
        await one.close()


async def test_stop_while_it_starts(run_dir: Path, keeper: Keeper) -> None:
    """A stop ends a start that has not come to its end, and whoever started is told."""
    states = States()
    one = machine(run_dir, keeper, argv=["sleep", "1000"], told=states)
    starting = asyncio.create_task(one.start())
    async with asyncio.timeout(WAIT_S):
        while one.pid is None:
            await asyncio.sleep(0.01)
    with pytest.raises(MachineError, match="one: cannot be paused: it is starting; wait until it"):
        await one.pause()
    await one.stop()
    with pytest.raises(MachineError, match="one: did not start: stopped by force"):
        await starting
    assert ["starting", "stopping", "stopped"] == states.seen
    assert {} == keeper.children
    await one.close()


async def test_stop_while_it_is_prepared(run_dir: Path, keeper: Keeper) -> None:
    """A stop before there is a QEMU means that there will be none."""
    ready = asyncio.Event()

    async def command() -> list[str]:
        await ready.wait()
        return ["touch", str(run_dir / "started")]

    one = Machine(FIRMWARE, places(run_dir), keeper, command)
    starting = asyncio.create_task(one.start())
    await asyncio.sleep(0)
    assert "starting" == one.state
    stopping = asyncio.create_task(one.stop())
    await asyncio.sleep(0)
    assert "stopping" == one.state
    ready.set()
    await stopping
    assert "stopped" == one.state
    with pytest.raises(MachineError, match="one: stopped while it was started"):
        await starting
    assert not (run_dir / "started").exists()
    await one.close()


async def test_stranger_at_the_monitor(
    run_dir: Path, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What listens at the monitor's place but talks nonsense is killed and reported."""
    monkeypatch.setattr(module, "LOST_S", 0.5)
    argv = [sys.executable, "-ISc", f"{LISTEN}c.sendall(b'hello\\n');c.recv(100);s.accept()"]
    one = machine(run_dir, keeper, argv=[*argv, str(run_dir / "one.qmp")])
    with pytest.raises(MachineError, match=r"start: .*one.qmp: Failed to establish session"):
        await one.start()
    assert "crashed" == one.state
    assert {} == keeper.children
    await one.close()


async def test_qemu_that_was_taken_over(
    run_dir: Path, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nonsense from a QEMU that has started costs its own machine, and few lines of the log."""
    monkeypatch.setattr(module, "LOST_S", 0.5)
    states = States()
    argv = [sys.executable, "-ISc", LISTEN + TAKEN_OVER, str(run_dir / "one.qmp")]
    one = machine(run_dir, keeper, argv=argv, told=states)
    with structlog.testing.capture_logs() as lines:
        await one.start()
        pid = one.pid
        assert pid is not None
        await states.until(State.CRASHED)
        until_gone(pid)
    assert "it closed its monitor" == one.reason
    assert "?[31m" * 60 in [line["reason"] for line in lines if line["event"] == "disk error"]
    assert 10 < len(lines) < 100
    await one.close()


async def test_panic_without_end(run_dir: Path, keeper: Keeper) -> None:
    """A QEMU that was taken over says of its guest that it panicked, a thousand times, and reads
    nothing: it is told to quit once, and no work piles up."""
    states = States()
    argv = [sys.executable, "-ISc", LISTEN + PANICS, str(run_dir / "one.qmp")]
    one = machine(run_dir, keeper, argv=argv, told=states)
    await one.start()
    await states.until(State.PAUSED)
    assert len(asyncio.all_tasks()) < 50
    await one.close()
