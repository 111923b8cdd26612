"""Machines that are not in the file: of who runs vionet, and of owners, within what is allowed."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.still_site import (
    ALICE,
    BOB,
    BOOTS,
    asked,
    others,
    serving,
)
from tests.unit.test_daemon_access import asked_as
from vionet.daemon.access import LEVELS
from vionet.daemon.control import RequestError
from vionet.daemon.machines import INSTANCES_MAX
from vionet.daemon.makers import NAMES_MAX, Makers
from vionet.site.model import Owner, SiteError
from vionet.vm.model import VmError


@pytest.mark.root
async def test_owner_and_stranger(run_dir: Path) -> None:
    """Alice sees and starts her machine and nothing else; for Bob there is none at all, in the same
    words as for a name that nobody has; what is root's is refused to both."""
    async with serving(run_dir) as (site, path):
        verbs = [name for name in LEVELS if name.startswith("vm.") and name != "vm.list"]
        listed, started, foreign = await others(
            path, ALICE, {"request": "vm.list"}, {"request": "vm.start", "name": "web"},
            {"request": "vm.start", "name": "db"},
        )  # fmt: skip
        assert ["web"] == [vm["name"] for vm in listed["vms"]]
        assert "running" == started["vm"]["state"]
        assert "db: no such machine; use one of web" == foreign["error"]
        answers = await others(
            path, BOB, {"request": "vm.list"},
            *({"request": verb, "name": name} for verb in verbs for name in ("web", "none")),
            {"request": "reload"},
        )  # fmt: skip
        assert {"version": 1, "reply": "vm.list", "site": "home", "vms": []} == answers[0]
        assert ["web: no such machine", "none: no such machine"] * len(verbs) == [
            answer["error"] for answer in answers[1:-1]
        ]
        assert "reload: only root and the user" in answers[-1]["error"]
        assert ["start"] == site.machines["web"].machine.done
        assert [] == site.machines["db"].machine.done


@pytest.mark.root
async def test_instance_of_an_owner(run_dir: Path) -> None:
    """Alice makes one within what the file allows and owns it; what is not allowed is named, all at
    once; Bob learns nothing; without a template there is none for either."""
    async with serving(run_dir) as (site, path):
        start = {"request": "vm.start", "name": "mine"}
        allowed = {**start, "template": "base", "machine": {"memory": "1G"}}
        answers = await others(
            path, ALICE,
            {**start, "machine": {}},
            {**start, "template": "web"},
            {**start, "template": "db"},
            {**start, "template": "base", "machine": {"cpus": 2, "cdrom": "/etc/shadow"}},
            allowed,
            {"request": "vm.stop", "name": "mine", "force": True},
        )  # fmt: skip
        assert [
            "mine: only root and the user who runs vionet start machines without a template;"
            " give one",
            "web: not a template for you; see `allow instance` in the file",
            "db: no such machine",
            "mine: cpus: not for you to choose; see `allow instance` in the file",
        ] == [answer["error"] for answer in answers[:4]]
        assert "mine: /etc/shadow: give the real path" in answers[3]["problems"][1]
        assert ("running", str(ALICE)) == tuple(answers[4]["vm"][key] for key in ("state", "owner"))
        assert "reply" in answers[5]
        for template in ("base", "web", "none"):
            (answer,) = await others(path, BOB, {**start, "name": "x", "template": template})
            assert f"{template}: no such machine" == answer["error"]
        assert ["mine"] == [name for name in site.machines if name not in ("web", "db", "base")]


@pytest.mark.root
async def test_owner_has_so_many_and_no_more(run_dir: Path) -> None:
    """A user's machines that are not in the file are counted; who runs vionet is not held."""
    async with serving(run_dir) as (site, path):
        start = {"request": "vm.start", "template": "base"}
        many = [{**start, "name": f"i{number}"} for number in range(INSTANCES_MAX + 1)]
        answers = await others(path, ALICE, *many)
        assert all("vm" in answer for answer in answers[:-1])
        assert f"you have {INSTANCES_MAX} machines already" in answers[-1]["error"]
        assert "vm" in await asked(path, "vm.start", name="root", template="base")
        del site.machines["i0"]
        (answer,) = await others(path, ALICE, {**start, "name": "again"})
        assert "vm" in answer


@pytest.mark.root
async def test_name_is_its_makers(run_dir: Path) -> None:
    """What a machine leaves under its name is not the next user's: another user, and whoever finds
    something of nobody's, has to choose another name; the maker has it again, unless an
    administrator had one of that name meanwhile."""
    async with serving(run_dir) as (site, path):
        site.machines["base"].entry = replace(
            site.machines["base"].entry, instance_owner=None, owner=Owner(group="4100")
        )
        start = {"request": "vm.start", "template": "base"}

        async def made(uid: int, name: str) -> str:
            request = {**start, "name": name}
            answers: Any = await asyncio.to_thread(asked_as, path, uid, [uid, 4100], request)
            (answer,) = answers
            if "vm" in answer:
                (run_dir / f"{name}.log").touch()
                await site.forget(name)
            return str(answer.get("error", "made"))

        assert "made" == await made(ALICE, "one")
        another = "one: that name was another user's; choose another"
        assert another == await made(BOB, "one")
        assert "made" == await made(ALICE, "one")
        assert {"one": ALICE} == json.loads((run_dir / "makers.json").read_text())
        await asked(path, "vm.start", name="one", template="base")
        await site.forget("one")
        left = "one: something of that name is left over; choose another name"
        assert [left, left] == [await made(ALICE, "one"), await made(BOB, "one")]
        (run_dir / "one.log").unlink()
        assert "made" == await made(BOB, "one")
        for remains in ("old-0.qcow2", "old-12.raw", "old-seed.iso", "old.stderr"):
            (run_dir / remains).touch()
            assert left.replace("one", "old", 1) == await made(ALICE, "old")
            (run_dir / remains).unlink()
        (run_dir / "old-2.log").touch()  # of the machine old-2
        assert "made" == await made(ALICE, "old")


def test_names_are_counted(tmp_path: Path) -> None:
    """A user holds so many names; those that left nothing are free again; a broken file is none."""
    (tmp_path / "makers.json").write_text("[")
    for number in range(NAMES_MAX):
        makers = Makers(tmp_path)
        assert None is makers.refusal(f"n{number}", ALICE)
        (tmp_path / f"n{number}.log").touch()
        makers.take(f"n{number}", ALICE, ())
    assert f"you have used {NAMES_MAX} names" in str(Makers(tmp_path).refusal("more", ALICE))
    assert None is Makers(tmp_path).refusal("n7", ALICE)
    assert None is Makers(tmp_path).refusal("more", BOB)
    for log in list(tmp_path.glob("n*.log"))[:10]:
        log.unlink()
    Makers(tmp_path).take("other", BOB, ("n1",))
    assert NAMES_MAX - 10 <= len(Makers(tmp_path).names(ALICE)) <= NAMES_MAX - 9
    assert ["other"] == Makers(tmp_path).names(BOB)


async def test_machine_without_a_file(run_dir: Path) -> None:
    """Who runs vionet starts one from its keys, or a template; they are read as the file's are."""
    async with serving(run_dir) as (site, path):
        table = {**BOOTS, "memory": "256M"}
        answer = await asked(path, "vm.start", name="new", machine=table)
        assert ("new", "running", 256 << 20) == tuple(
            answer["vm"][key] for key in ("name", "state", "memory")
        )
        await asked(path, "vm.start", name="copy", template="base")
        assert 3 == site.machines["copy"].entry.vm.cpus
        assert [(table, None), ({}, "base")] == site.defined
        with pytest.raises(RequestError, match="web: that name is taken"):
            await asked(path, "vm.start", name="web", machine={})
        with pytest.raises(RequestError) as caught:
            await asked(path, "vm.start", name="odd", machine={"memroy": "1G", "cpus": 0})
        assert 2 == len(caught.value.problems)
        assert "did you mean memory?" in caught.value.problems[0]
        assert 2 == len(site.defined)


async def test_machine_that_does_not_start_is_forgotten(run_dir: Path) -> None:
    """Where the start fails nothing is left, and the reason is told; or not even defined."""
    async with serving(run_dir) as (site, path):
        site.next_refuses = VmError("new: QEMU is missing; install it")
        with pytest.raises(RequestError, match="QEMU is missing"):
            await asked(path, "vm.start", name="new", machine=BOOTS)
        assert ["new"] == site.forgotten
        site.refuses = SiteError(["vm.new.switch: no such switch", "vm.new.tap: taken"])
        with pytest.raises(RequestError) as caught:
            await asked(path, "vm.start", name="new", machine=BOOTS)
        assert ("vm.new.switch: no such switch", "vm.new.tap: taken") == caught.value.problems
