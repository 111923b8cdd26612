"""The tester finds faults: every MUST that it checks on our device is failed by a mutant of it."""

import contextlib
import fcntl
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.check import mutant_control, mutant_engine, mutant_gso, mutant_session
from tests.check.mutants import LIMIT, SOURCE, Mutant, build
from tests.interop.peers.process import Peer
from tests.tools import ROOT
from vionet.check.case import Offer
from vionet.check.runner import Group, Status, attempt, group_of
from vionet.check.scope import checks
from vionet.jit.lane import CACHE_DIR
from vionet.spec.rules import rules

MUTANTS = (
    *mutant_session.MUTANTS,
    *mutant_control.MUTANTS,
    *mutant_engine.MUTANTS,
    *mutant_gso.MUTANTS,
)
# Binding rules whose check says "not offered" on our device: there is nothing to break.
NOT_OFFERED = {
    *("FB-09", "FB-13", "FB-24", "FB-25", "FB-26", "FB-32", "FB-33", "DS-05", "RX-10", "SG-10"),
    *("VU-66", "VU-80"),
    "SG-13",  # needs ports of VLANs, where others would fail: test_own_device has some
}
BASE = ROOT / ".cache" / "mutants"
PATIENCE_S = 0.5  # with a device that takes microseconds; in vain with most mutants
BUSY_S = 5.0  # with one that is right
ATTEMPTS = 3  # where nothing must happen, a busy machine may be too late for the tester to see it
# Memory slots, which a port of several pairs does not offer.
ONE_PAIR = {"VU-10", "VU-20", "VU-51", "VU-52"}


class Switch:
    """A switch of the package with all mutants, one of which is chosen."""

    def __init__(self, package: Path, folder: Path) -> None:
        self.paths = [str(folder / "a.sock"), str(folder / "b.sock")]
        self.plain = str(folder / "c.sock")  # a port of one pair
        self.package, self.folder = package, folder
        self.child: Peer | None = None

    def start(self) -> None:
        """Start it, with no mutant chosen."""
        self.stop()
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        command = f"ulimit -Sn {LIMIT} && exec {sys.executable} -m vionet switch"
        a, b = self.paths
        command += f" a=guest:{a},mac=02:76:69:6f:00:01,mtu=1500,queues=4,speed=1000,+ring_packed"
        command += f" b=guest:{b},+ring_packed c=guest:{self.plain}"
        command += f" --control {self.folder}/control"
        env = {"PYTHONPATH": str(self.package), "VIONET_CACHE_DIR": str(BASE)}
        self.child = Peer(["sh", "-c", command], log, env=env)
        self.child.await_line("ready\n", 300)
        assert self.passes("CF-01", patience=BUSY_S), (
            "the mutants are at fault although none is chosen"
        )

    def choose(self, number: int) -> None:
        """From now on it is that mutant; 0 is none."""
        assert self.child is not None
        _, hard = resource.prlimit(self.child.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.child.pid, resource.RLIMIT_NOFILE, (LIMIT + number, hard))

    def passes(
        self, rule_id: str, offer: Offer | None = None, patience: float = PATIENCE_S
    ) -> bool:
        """The check of one rule passes."""
        paths = [self.plain, self.paths[1]] if rule_id in ONE_PAIR else self.paths
        if offer is None or rule_id in ONE_PAIR:
            offer = Offer.read(paths[0], 3)
        words = f"env PYTHONPATH={SOURCE.parent} {sys.executable} -m vionet port set --control"
        link = [*words.split(), f"{self.folder}/control", "a", "link={}"]
        check = checks()[rule_id]
        found = attempt(check, paths, offer, 15, link_command=link, patience=patience)
        return found[0] is Status.PASSED

    def stop(self) -> None:
        """Kill it."""
        if self.child is not None:
            self.child.kill()
            self.child = None


@contextlib.contextmanager
def building() -> Iterator[Path]:
    """The package with all mutants; nobody else makes it or compiles it inside the block."""
    BASE.mkdir(parents=True, exist_ok=True)
    with (BASE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield build(BASE, MUTANTS)


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    """The mutants, started once, and compiled once by the first process that needs them."""
    with building() as package:
        made = Switch(package, tmp_path_factory.mktemp("m"))
        made.start()
    try:
        yield made
    finally:
        made.stop()


def machine_code(folder: Path) -> dict[Path, bytes]:
    """Every file of machine code that Numba keeps below `folder`."""
    return {path: path.read_bytes() for path in folder.glob("**/*.nbc")}


@pytest.fixture(scope="module")
def real_code() -> dict[Path, bytes]:
    """The machine code of the real package, before a mutant runs."""
    assert CACHE_DIR is not None
    return machine_code(CACHE_DIR)


def test_every_must_has_a_mutant() -> None:
    """No binding check is without a mutant that has to fail it."""
    binding = {i for i, c in checks().items() if group_of(rules()[i], c) is Group.BINDING}
    broken = {rule_id for mutant in MUTANTS for rule_id in mutant.ids.split()}
    assert set() == binding - broken - NOT_OFFERED
    assert broken <= checks().keys()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_mutants_leave_the_real_code_alone(real_code: dict[Path, bytes], switch: Switch) -> None:
    """Machine code that asks which mutant it is lies with the mutants, and nowhere else."""
    assert CACHE_DIR is not None
    assert switch.child is not None and switch.child.running
    now = machine_code(CACHE_DIR)
    assert real_code and {} == {p: c for p, c in real_code.items() if now.get(p) != c}
    assert [] == [path for path, code in now.items() if b"vionet.jit.mutant" in code]
    assert [path for path, code in machine_code(BASE).items() if b"vionet.jit.mutant" in code]


def healthy(switch: Switch, ids: list[str]) -> bool:
    """The device is there, and passes the checks of these rules."""
    try:
        running = switch.child is not None and switch.child.running
        return running and all(switch.passes(rule_id, patience=BUSY_S) for rule_id in ids)
    except Exception:  # it hangs or is gone
        return False


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name.replace(" ", "-"))
def test_mutant_is_found(switch: Switch, mutant: Mutant) -> None:
    """The mutant fails every check that it must fail; without it the device passes all of them."""
    ids = mutant.ids.split()
    switch.choose(0)
    sound = Offer.read(switch.paths[0], 3)
    switch.choose(1 + MUTANTS.index(mutant))
    survived = []
    try:
        for rule_id in ids:
            try:
                offer = Offer.read(switch.paths[0], 3)
            except Exception:  # the mutant cannot even be asked
                offer = sound
            if all(switch.passes(rule_id, offer) for _ in range(ATTEMPTS)):
                survived.append(rule_id)
        assert [] == survived
    finally:
        switch.choose(0)
        if not healthy(switch, ids):
            switch.start()
            assert healthy(switch, ids), "without the mutant, too"
