"""What went wrong elsewhere between guests of different abilities, and where choices change under
load (docs/field.md).  One boot for all; what a test believes to be negotiated it asks for.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.end import End
from tests.interop.peers.process import until
from tests.interop.peers.shell import Console
from tests.interop.peers.traffic import (
    PORT,
    check_bulk,
    datagrams,
    lasting,
    no_bad_checksums,
    transfer,
)
from tests.interop.peers.uml import Uml
from tests.interop.peers.vionet import Vionet
from tests.interop.story import lasting_lab

XDP = Path(__file__).with_name("xdp.py")
RATE = 1_500_000  # bytes a second
ENOUGH = "/dev/shm/enough-xdp"


def segments(guest: Console) -> dict[str, int]:
    """The TCP counters of a guest's kernel."""
    names, values = guest.run("grep ^Tcp: /proc/net/snmp").splitlines()
    return {
        name: int(value) for name, value in zip(names.split()[1:], values.split()[1:], strict=True)
    }


@dataclass
class Trio:
    """Two guests with everything, and one with nothing."""

    vionet: Vionet
    a: Uml
    b: Uml
    plain: Uml

    def ledger(self, name: str) -> dict[str, int]:
        """The counters of a port."""
        found: dict[str, int] = self.vionet.ports()[name]["ledger"]
        return found

    def await_bytes(self, names: str, count: int) -> None:
        """Wait until each of these guests has been given so many bytes more."""
        for name in names:
            wanted = self.ledger(name)["rx_bytes"] + count

            def given(name: str = name, wanted: int = wanted) -> bool:
                return self.ledger(name)["rx_bytes"] > wanted

            until(given, 60, f"bytes to {name}", 0.1)


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    """One boot."""
    with lasting_lab() as lab:
        vionet = lab.switch({"a": "", "b": "", "c": "offload=off"})
        guests = [lab.uml(name) for name in "abc"]
        lab.boot(*guests)
        for name, guest, text in zip("abc", guests, ("", "", " offload=off"), strict=True):
            End.read(f"uml{text}").check(guest, vionet.ports()[name])
        yield Trio(vionet, *guests)


def test_w25_one_plain_guest_costs_only_itself(trio: Trio) -> None:
    """While the plain guest transfers both ways, the frames between the other two pass whole and
    unfinished; nothing is cut up or summed for them.  The rates are reported."""
    before = {name: trio.ledger(name) for name in "abc"}
    pairs = [(trio.a, trio.b), (trio.b, trio.a), (trio.a, trio.plain), (trio.plain, trio.b)]
    jobs = [
        transfer(one, other, other.address4, 4_000_000, port=PORT + i)
        for i, (one, other) in enumerate(pairs)
    ]
    for (one, other), job in zip(pairs, jobs, strict=True):
        (sent,), (received,) = job.sending.results(60), job.serving.results(60)
        check_bulk(job.size, sent, received)
        print(f"{one.name} to {other.name}: {job.size / received['seconds'] / 1e6:.0f} MB/s")
    change = {
        name: {key: trio.ledger(name)[key] - count for key, count in ledger.items()}
        for name, ledger in before.items()
    }
    for name in "ab":
        assert change[name]["gso_passed"] > 50
        assert 0 == change[name]["gso_segmented"] == change[name]["segments"]
        assert 0 == change[name]["csum_filled"]
    assert 1000 > change["a"]["payload_bytes_summed"], "only what the plain guest answered"
    assert change["c"]["gso_segmented"] > 10 and 0 == change["c"]["gso_passed"]
    no_bad_checksums(trio.a, trio.b, trio.plain)


def test_w27_large_frames_to_a_receiver_of_small_ones(trio: Trio) -> None:
    """The segments are full ones, and hardly any is sent again: no collapse.  The rate is
    reported, beside that between two guests with everything."""
    for receiver, name in ((trio.b, "b"), (trio.plain, "c")):
        before, sent = trio.ledger(name), segments(trio.a)
        job = transfer(trio.a, receiver, receiver.address6, 8_000_000)
        (_,), (received,) = job.sending.results(60), job.serving.results(60)
        print(f"a to {name}: {8 / received['seconds']:.0f} MB/s")
        after, resent = trio.ledger(name), segments(trio.a)
        again = resent["RetransSegs"] - sent["RetransSegs"]
        assert again * 20 < resent["OutSegs"] - sent["OutSegs"]
        frames = after["rx_frames"] - before["rx_frames"]
        mean = (after["rx_bytes"] - before["rx_bytes"]) / frames
        if name == "c":
            assert 1400 < mean <= 1514
            cut = after["gso_segmented"] - before["gso_segmented"]
            assert 10 < cut < after["segments"] - before["segments"]
        else:
            assert 3000 < mean
    no_bad_checksums(trio.a, trio.plain)


CHOICES = (
    ("policy=complete",),
    ("policy=natural", "offload=off"),
    ("policy=uniform", "offload=csum"),
    ("offload=full",),
)


@pytest.mark.parametrize("choice", CHOICES, ids=" ".join)
def test_w8_a_choice_is_changed_under_load(trio: Trio, choice: tuple[str, ...]) -> None:
    """TCP both ways between two guests while their ports' policies and offloads change, and
    datagrams as a name server would answer: nothing is lost or broken."""
    jobs = [
        lasting(trio.a, trio.b, trio.b.address4, RATE),
        lasting(trio.b, trio.a, trio.a.address6, RATE, port=PORT + 1),
    ]
    trio.await_bytes("ab", 300_000)
    for name in "ab":
        trio.vionet.set(name, *choice)
    changed = {name: trio.ledger(name) for name in "ab"}
    datagrams(trio.plain, trio.a, trio.a.address4, largest=30)
    trio.await_bytes("ab", 300_000)  # it was changed under load
    for job in jobs:
        job.check()
    for name in "ab":
        port = trio.vionet.ports()[name]
        assert 0 == port["ledger"]["csum_bad"]
        assert set(port["drops"]) <= {"rx_ring_full", "address_filtered"}
        passed = port["ledger"]["gso_passed"] - changed[name]["gso_passed"]
        assert (choice == ("offload=full",)) is (passed > 0)
    no_bad_checksums(trio.a, trio.b, trio.plain)


def test_w31_xdp_attached_under_load(trio: Trio) -> None:
    """XDP in the guest takes back what its driver agreed to, in the middle of a transfer: from
    then on every frame is complete and small; without it all is as before."""
    job = lasting(trio.b, trio.a, trio.a.address4, RATE)
    trio.await_bytes("a", 500_000)
    attached = trio.a.start(f"{trio.a.python} -ISB {XDP} eth0 {ENOUGH}")
    attached.await_output("attached")
    before = trio.ledger("a")
    trio.await_bytes("a", 1_000_000)
    job.check()
    after = trio.ledger("a")
    trio.a.run(f": >{ENOUGH}")
    assert after["csum_filled"] - before["csum_filled"] > 300
    for key in ("csum_elided", "csum_unfilled", "gso_passed"):
        assert before[key] == after[key], key
    attached.result()
    transfer(trio.b, trio.a, trio.a.address4, 2_000_000).check()
    assert trio.ledger("a")["gso_passed"] > after["gso_passed"]
    no_bad_checksums(trio.a, trio.b)
