"""A site whose machines do not run: what becomes of it when its file changes."""

import json
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import vionet.fabric  # noqa: F401 - it has a descriptor for the process's whole life
from tests.tools import need
from vionet.daemon.control import RequestError
from vionet.daemon.kept import KeptTaps
from vionet.daemon.notify import Notify
from vionet.daemon.requests import fabric_requests
from vionet.daemon.site import LiveSite
from vionet.daemon.up import folders, lay_out_here
from vionet.site.address import tap_name
from vionet.site.source import read_site
from vionet.site.toml_vm import vm_from_table
from vionet.vm.keeping import Keeper

WAIT_S = 60
LAN = '[switch.lan]\n[port.a]\nswitch = "lan"\nguest = "a.sock"\n'
LAB = '[switch.lab]\n[port.s]\nswitch = "lab"\nstream = "s.sock"\n'
TAP = '[port.t]\nswitch = "lan"\ntap = "jt0"\naddress = "192.0.2.{}/24"\n'
OFF = 'enabled = false\nkernel = "/boot/none"\n'
MACHINE = f"[vm.web]\n{OFF}[[vm.web.interface]]\nlocal = true\n"


class Runner:
    """Runs what a file in the test's folder says, one vionet after the other."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "jsite.toml"
        self.places = folders("jsite")
        for path in (self.places.runtime, self.places.state):
            path.mkdir(mode=0o700, parents=True)
        self.live: LiveSite | None = None

    async def open(self, text: str) -> LiveSite:
        """Become this file, as a vionet that has just been started."""
        self.file.write_text(text)
        self.places.runtime.mkdir(mode=0o700, exist_ok=True)
        self.keeper = await Keeper.reach(self.places.runtime)
        taken = await self.keeper.take()
        taps = KeptTaps(self.places.runtime / "taps.json", self.keeper, Notify(None), taken)
        layout = lay_out_here(self.places)
        self.live = LiveSite(self.file, self.places, layout, self.keeper, taps)
        await self.live.open(read_site(self.file))
        return self.live

    async def reload(self, text: str) -> dict[str, list[str]]:
        """Become this file."""
        assert self.live is not None
        self.file.write_text(text)
        return await self.live.reload()

    async def close(self, *, leave: bool = False) -> None:
        """End, for good or for a successor."""
        live, self.live = self.live, None
        if live is not None:
            await live.close(leave=leave)

    def ports(self) -> dict[str, set[str]]:
        """The ports that are plugged in, by fabric."""
        assert self.live is not None
        return {name: set(one.plugs.live) for name, one in self.live.lives.items()}


@pytest.fixture
async def runner(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Runner]:
    """One in a folder of its own; nothing of it is left."""
    monkeypatch.setenv("XDG_STATE_HOME", str(run_dir / "state"))
    made = Runner(run_dir)
    yield made
    await made.close()
    assert not made.places.runtime.exists()


def listens(path: Path) -> bool:
    """Whether somebody is behind this socket."""
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == 0


def told(changes: dict[str, list[str]]) -> dict[str, list[str]]:
    """What a reload did, without what it did not do."""
    return {what: names for what, names in changes.items() if names}


async def test_owner_of_a_machine_that_goes_on(runner: Runner) -> None:
    """What is about a machine but not about its QEMU is told, and nothing is stopped for it."""
    machine = f'{LAN}[vm.web]\nkernel = "/boot/none"\nenabled = false\n'
    live = await runner.open(machine)
    before = live.machines["web"].machine
    assert {"changed": ["web"]} == told(await runner.reload(f'{machine}owner = "root"\n'))
    assert before is live.machines["web"].machine


async def test_from_one_file_to_another(runner: Runner, run_dir: Path) -> None:
    """Ports and switches come and go as the file says, those that stay are the same; in the end
    every socket is gone."""
    live = await runner.open(LAN + '[port.b]\nswitch = "lan"\nguest = "b.sock"\n')
    assert {"lan": {"a", "b"}} == runner.ports()
    a = live.lives["lan"].plugs.live["a"]
    assert {"ports_gone": ["b"], "ports_new": ["s"]} == told(await runner.reload(LAN + LAB))
    assert {"lan": {"a"}, "lab": {"s"}} == runner.ports()
    assert a is live.lives["lan"].plugs.live["a"]
    assert ["lan", "lab"] == live.switches()
    assert [True, False, True] == [listens(run_dir / f"{name}.sock") for name in "abs"]
    fabric = live.lives["lan"]
    done = await runner.reload(LAN.replace("[switch.lan]", "[switch.lan]\nworkers = 2"))
    assert {"ports_gone": ["s"], "ports_changed": ["a"]} == told(done)
    assert {"lan": {"a"}} == runner.ports()
    assert fabric is not live.lives["lan"], "with other threads it is another fabric"
    await runner.close()
    assert [] == [*run_dir.rglob("*.sock")]


async def test_what_the_host_refuses_is_told_before_machines_begin(runner: Runner) -> None:
    """A port that cannot be had ends the start, and no machine has run, or has to be stopped, for
    it; after a reload all else runs."""
    refused = LAN + '[port.lo]\nswitch = "lan"\ntap = "lo"\n[vm.web]\nkernel = "/boot/none"\n'
    with pytest.raises(RequestError, match="lo: tap:lo: exists"):
        await runner.open(refused)
    assert runner.live is not None
    assert {} == runner.live.machines
    with pytest.raises(RequestError, match="lo: tap:lo: exists"):
        await runner.reload(refused)
    assert ["web"] == [*runner.live.machines]


async def test_mistakes_change_nothing(runner: Runner) -> None:
    """A file with mistakes is refused with all of them; also one of another name, or none."""
    live = await runner.open(LAN)
    before = live.lives["lan"].plugs.live["a"]
    with pytest.raises(RequestError) as refused:
        await runner.reload('[switch.lan]\ncolour = 1\n[port.b]\nswitch = "lam"\n')
    *problems, last = refused.value.problems
    assert "nothing changed" == last
    assert 2 <= len(problems)
    assert all(problem.startswith(f"{runner.file}:") for problem in problems)
    with pytest.raises(RequestError, match="the site is jsite; restart to rename it"):
        await runner.reload(f'name = "other"\n{LAN}')
    runner.file.unlink()
    with pytest.raises(RequestError, match="nothing changed"):
        await live.reload()
    assert before is live.lives["lan"].plugs.live["a"]
    assert {"lan": {"a"}} == runner.ports()


async def test_what_cannot_be_laid_out_changes_nothing(runner: Runner) -> None:
    """A file that is right by itself, but not with what vionet has to add, is refused likewise."""
    await runner.open(LAN)
    name = tap_name("jsite", "web", 0)
    text = LAN + '[local]\nuplink = "tap"\n' + TAP.format(1).replace("jt0", name) + MACHINE
    with pytest.raises(RequestError, match=f"tap {name} is .* too; give one of them") as refused:
        await runner.reload(text)
    assert "nothing changed" == refused.value.problems[-1]
    assert {"lan": {"a"}} == runner.ports()


async def test_refused_tap_is_told_and_the_rest_follows(runner: Runner) -> None:
    """What the host refuses is named; all else is changed, and asked for again the next time."""
    await runner.open(LAN)
    text = LAN + '[port.t]\nswitch = "lan"\ntap = "lo"\n[switch.lab]\n'
    for _ in range(2):
        with pytest.raises(RequestError) as refused:
            await runner.reload(text)
        problem, last = refused.value.problems
        assert "all else was changed" == last
        assert problem.startswith("t: tap:lo: exists")
        assert {"lan": {"a"}, "lab": set()} == runner.ports()
    await runner.reload(LAN)
    assert {"lan": {"a"}} == runner.ports()
    await runner.close()
    with pytest.raises(RequestError, match="t: tap:lo: exists"):
        await runner.open(text)


def links() -> dict[str, Any]:
    """The interfaces of this namespace, by name."""
    argv = [str(need("ip")), "-j", "addr"]
    done = subprocess.run(argv, capture_output=True, timeout=WAIT_S, check=True)
    return {link["ifname"]: link for link in json.loads(done.stdout)}


def index_and_address() -> tuple[int, str]:
    """Which tap it is, and its address."""
    link = links()["jt0"]
    return link["ifindex"], link["addr_info"][0]["local"]


@pytest.mark.root
async def test_taps_go_from_one_to_the_next(runner: Runner, namespace: None) -> None:
    """The successor has the very same tap; one of other settings is another; in the end none is."""
    await runner.open(LAN + TAP.format(1))
    first = index_and_address()
    assert "192.0.2.1" == first[1]
    await runner.close(leave=True)
    assert first == index_and_address(), "the keeper has it"
    await runner.open(LAN + TAP.format(1))
    assert {"lan": {"a", "t"}} == runner.ports()
    assert first == index_and_address()
    await runner.reload(LAN + TAP.format(2))
    second = index_and_address()
    assert ("192.0.2.2", True) == (second[1], second[0] != first[0])
    await runner.close(leave=True)
    await runner.open(LAN + TAP.format(3))
    third = index_and_address()
    assert ("192.0.2.3", True) == (third[1], third[0] != second[0])
    await runner.close(leave=True)
    await runner.open(LAN)
    assert {"lo"} == links().keys(), "nobody wants it any more"
    await runner.reload(LAN + TAP.format(1))
    assert "jt0" in links()
    await runner.close()
    assert {"lo"} == links().keys()


@pytest.mark.root
async def test_local_interface_of_a_machine(runner: Runner, namespace: None) -> None:
    """A machine that is not started has its fabric all the same: guest, host, service; its number
    stays its own when another comes before it, and its tap goes with it."""
    live = await runner.open(MACHINE)
    assert {"web.0": {"web.0", "web.0-host", "web.0-dhcp"}} == runner.ports()
    machine = live.machines["web"].machine
    assert ("stopped", None) == (machine.state, machine.pid)
    (tap,) = links().keys() - {"lo"}
    assert "100.64.0.2" in [one["local"] for one in links()[tap]["addr_info"]]
    index = links()[tap]["ifindex"]
    assert ["db"] == (await runner.reload(MACHINE.replace("web", "db") + MACHINE))["new"]
    assert index == links()[tap]["ifindex"]
    (other,) = links().keys() - {"lo", tap}
    assert "100.64.0.4" in [one["local"] for one in links()[other]["addr_info"]]
    assert ["web"] == (await runner.reload(MACHINE.replace("web", "db")))["stopped"]
    assert {"lo", other} == links().keys()
    assert {"db.0"} == runner.ports().keys()


@pytest.mark.root
async def test_machine_without_a_file(runner: Runner, namespace: None) -> None:
    """What was defined is there with its ports until it is forgotten, also for a successor; one
    that cannot be leaves nothing behind."""
    live = await runner.open(LAN)
    table = {"kernel": "/boot/none", "interface": [{"switch": "lan"}]}
    await live.define(vm_from_table("try", table, None, Path("/")), table, None)
    assert {"lan": {"a", "try.0"}} == runner.ports()
    await runner.close(leave=True)
    live = await runner.open(LAN)
    assert ["try"] == [*live.machines]
    assert {"lan": {"a", "try.0"}} == runner.ports()
    await live.forget("try")
    assert {"lan": {"a"}} == runner.ports()
    table = {"kernel": "/boot/none", "interface": [{"local": True, "tap": "lo"}]}
    with pytest.raises(RequestError, match=r"bad\.0-host: tap:lo: exists"):
        await live.define(vm_from_table("bad", table, None, Path("/")), table, None)
    assert {"lan": {"a"}} == runner.ports()
    assert {} == live.machines
    assert {} == told(await runner.reload(LAN))


async def test_machines_without_a_file_are_judged_together(runner: Runner) -> None:
    """One more that has what another has already, which is in no file either, is refused."""
    live = await runner.open(LAN)
    table = {"kernel": "/boot/none", "interface": [{"switch": "lan", "mac": "52:54:00:00:00:01"}]}
    await live.define(vm_from_table("one", table, None, Path("/")), table, None)
    with pytest.raises(RequestError, match=r"two: .*52:54:00:00:00:01 is taken by vm\.one"):
        await live.define(vm_from_table("two", table, None, Path("/")), table, None)
    assert ["one"] == [*live.machines]
    assert {"lan": {"a", "one.0"}} == runner.ports()
    owner = f'[vm.web]\n{OFF}[[vm.web.interface]]\nswitch = "lan"\nmac = "52:54:00:00:00:01"\n'
    changes = await runner.reload(LAN + owner)
    assert (["one"], ["web"]) == (changes["stopped"], changes["new"]), "the file goes first"
    assert {"lan": {"a", "web.0"}} == runner.ports()


async def test_strangers_are_ended(runner: Runner) -> None:
    """What a predecessor left with the keeper, and no file wants, is ended."""
    keeper = await Keeper.reach(runner.places.runtime)
    await keeper.spawn("old", ["sleep", "1000"], runner.places.runtime / "log")
    keeper.leave()
    await runner.open(LAN)
    assert {} == runner.keeper.children


async def test_which_fabric_is_meant(runner: Runner) -> None:
    """`status` shows all; a port finds its fabric; one more port needs to know which."""
    live = await runner.open(LAN + LAB)
    asked = fabric_requests(lambda: live.lives, live.switches)

    async def ask(name: str, **members: Any) -> Any:
        answer: Any = asked[name](members, None)  # type: ignore[arg-type]
        return answer if isinstance(answer, dict) else await answer

    document = (await ask("status"))["status"]
    assert {"lan", "lab"} == {fabric["name"] for fabric in document["fabrics"]}
    assert "s" == (await ask("set", port="s", options=["link=down"]))["port"]["name"]
    with pytest.raises(RequestError, match="q: no such port; "):
        await ask("set", port="q", options=[])
    with pytest.raises(RequestError, match="2 switches run; say which: lan, lab"):
        await ask("add", port="c=guest:/nowhere/c.sock")
    with pytest.raises(RequestError, match="lax: no such fabric; did you mean la"):
        await ask("add", port="c=guest:/nowhere/c.sock", fabric="lax")
    place = f"c=guest:{runner.places.runtime}/c.sock"
    assert "c" == (await ask("add", port=place, fabric="lab"))["port"]["name"]
    assert {"lan": {"a"}, "lab": {"s", "c"}} == runner.ports()
    assert "c" == (await ask("remove", port="c"))["port"]["name"]
    assert {"lan": {"a"}, "lab": {"s"}} == runner.ports()
    await ask("add", port=place, fabric="lab")
    await runner.reload(LAN + LAB)
    assert {"lan": {"a"}, "lab": {"s"}} == runner.ports(), "a reload goes by the file"
