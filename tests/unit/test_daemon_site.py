"""A site as it runs, with a real keeper and machines that are not started: what a change that fails
leaves behind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

import vionet.fabric  # noqa: F401 - what it opens for life is not a leak of these tests
from vionet.daemon.control import RequestError
from vionet.daemon.kept import KeptTaps
from vionet.daemon.notify import Notify
from vionet.daemon.own_namespace import NAMESPACE
from vionet.daemon.site import LiveSite
from vionet.daemon.up import lay_out_here
from vionet.site.layout import Layout, SitePlaces
from vionet.site.model import Site, SiteError
from vionet.site.source import read_site
from vionet.site.toml_vm import vm_from_table
from vionet.vm.keeping import Keeper, KeeperError

WAIT_S = 30
FILE = """
name = "lab"
[vm.web]
enabled = false
[[vm.web.interface]]
local = true
uplink = "none"
"""
TABLE = {"interface": [{"local": True, "uplink": "none"}]}


@dataclass
class Lab:
    """One site that runs."""

    file: Path
    live: LiveSite
    refuses: Callable[[Site], Exception | None]  # why the host cannot have this site

    async def define(self, name: str) -> None:
        """What `vm.start` with a description does first."""
        await self.live.define(vm_from_table(name, TABLE, None, Path("/")), TABLE, None)


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Lab]:
    """A site in a folder, with a keeper of its own."""
    folder.joinpath("state").mkdir()
    places = SitePlaces(runtime=folder / "lab", state=folder / "state")
    file = folder / "lab.toml"
    file.write_text(FILE)
    keeper = await Keeper.reach(places.runtime)
    taps = KeptTaps(folder / "taps.json", keeper, Notify(None), {})
    here = lay_out_here(places)

    def laid_out(site: Site, namespace: str | None) -> Layout:
        problem = lab.refuses(site)
        if problem is not None:
            raise problem
        return here(site, namespace)

    lab = Lab(file, LiveSite(file, places, laid_out, keeper, taps), lambda site: None)
    try:
        await lab.live.open(read_site(file))
        yield lab
    finally:
        await lab.live.close(leave=False)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Have it done in time."""
    asyncio.run(asyncio.wait_for(work, WAIT_S))


@pytest.mark.parametrize("error", [SiteError(["too long"]), KeeperError("it is full")])
def test_a_machine_that_cannot_be_is_not_kept(tmp_path: Path, error: Exception) -> None:
    """Whatever prevents a machine without a file: whoever asked is told, and what is asked next,
    a reload too, is not refused because of it."""

    async def work() -> None:
        async with running(tmp_path) as lab:
            lab.refuses = lambda site: error if len(site.vms) > 1 else None
            with pytest.raises(RequestError, match=str(error)):
                await lab.define("new")
            assert ["web"] == [*lab.live.machines]
            assert not any((await lab.live.reload()).values())
            lab.refuses = lambda site: None
            await lab.define("new")
            assert ["new", "web"] == sorted(lab.live.machines)

    run(work())


def test_a_reload_that_cannot_be_says_why(tmp_path: Path) -> None:
    """A file that is gone, and a host that refuses, are errors for whoever asked; then it runs on
    as it was."""

    async def work() -> None:
        async with running(tmp_path) as lab:
            lab.refuses = lambda site: SiteError(["no room"])
            with pytest.raises(RequestError, match="no room\nnothing changed"):
                await lab.live.reload()
            lab.file.unlink()
            with pytest.raises(RequestError, match=f"{lab.file}: No such file"):
                await lab.live.reload()
            assert ["web"] == [*lab.live.machines]

    run(work())


def test_what_waits_while_it_ends_changes_nothing(tmp_path: Path) -> None:
    """A machine that is asked for while the site ends finds it ended, and opens nothing."""

    async def work() -> None:
        async with running(tmp_path) as lab:
            ending = asyncio.create_task(lab.live.close(leave=False))
            await asyncio.sleep(0)
            with pytest.raises(RequestError, match="vionet ends"):
                await lab.define("late")
            await ending
            assert ["web"] == [*lab.live.machines]

    run(work())


@pytest.mark.root
def test_whether_interfaces_reach_each_other_follows_the_file(tmp_path: Path) -> None:
    """A namespace of our own forwards, or not, as the file says now; nobody takes the end of the
    former one for a death."""

    async def work() -> None:
        async with running(tmp_path) as lab:
            text = FILE.replace('"none"', '"namespace"')
            with structlog.testing.capture_logs() as lines:
                for isolated, mode in (("true", "hold"), ("false", "forward")):
                    lab.file.write_text(text + f"[local]\nisolated = {isolated}\n")
                    await lab.live.reload()
                    children = lab.live._keeper.children
                    assert mode == children[NAMESPACE].argv[-1]
            assert [] == [line for line in lines if line["log_level"] == "error"]

    run(work())
