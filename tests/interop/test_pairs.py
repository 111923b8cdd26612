"""Every pair of kernels, offloads on and off at either end: every byte arrives, no sum is bad."""

import itertools

import pytest

from tests.interop.balance import balanced, total
from tests.interop.end import SUBJECT, End
from tests.interop.lab import Lab
from tests.interop.peers.traffic import converse

LEGACY = "disable-modern=on disable-legacy=off"  # headers of ten bytes without mrg_rxbuf
CASES = [
    ("uml", "uml"),
    ("uml offload=off -indirect_desc", "uml offload=off -event_idx -indirect_desc -mrg_rxbuf"),
    ("uml -guest_csum -event_idx", "uml -csum policy=natural -event_idx"),
    ("uml policy=natural -mrg_rxbuf", "uml offload=off -mrg_rxbuf"),
    ("uml policy=complete -csum", "uml"),
    ("uml", "qemu"),
    ("uml offload=off", f"qemu {LEGACY} mrg_rxbuf=off csum=off guest_csum=off"),
    ("uml -mrg_rxbuf", "qemu guest_csum=off event_idx=off"),
    ("uml policy=natural -indirect_desc", f"qemu {LEGACY} csum=off"),
    ("qemu", "qemu"),
    ("qemu csum=off guest_csum=off mrg_rxbuf=off", "qemu offload=off event_idx=off"),
    (f"qemu {LEGACY} mrg_rxbuf=off", f"qemu {LEGACY} csum=off event_idx=off"),
    (f"qemu {LEGACY} indirect_desc=off", "qemu policy=complete guest_csum=off"),
]
KERNELS = [("uml", "uml"), ("uml", "qemu"), ("qemu", "qemu")]


def covered(cases: list[tuple[End, End]]) -> set[tuple[str, bool, str, bool]]:
    """Each (feature here, on or off, feature at the other end, on or off) of some case."""
    return {
        (f, f in here.features, g, g in there.features)
        for one, other in cases
        for here, there in ((one, other), (other, one))
        for f, g in itertools.product(SUBJECT, SUBJECT)
    }


@pytest.mark.parametrize("kernels", [*KERNELS, None])
def test_cases_cover_every_two_features(kernels: tuple[str, str] | None) -> None:
    """The cases below are a pairwise covering set.

    Over all pairs of kernels: every feature on and off against every feature on and off at the
    other end.  Within one pair of kernels: the two that concern checksums.
    """
    ends = [(End.read(one), End.read(other)) for one, other in CASES]
    if kernels is None:
        cases, features = ends, list(SUBJECT)
    else:
        cases = [pair for pair in ends if kernels == tuple(end.kind for end in pair)]
        features = ["csum", "guest_csum"]
    on = (True, False)
    assert set() == set(itertools.product(features, on, features, on)) - covered(cases)


@pytest.mark.parametrize(("one", "other"), CASES)
def test_w23_w34_pair(lab: Lab, one: str, other: str) -> None:
    """TCP and UDP of every size, both ways and families; the ledger tells who computed what."""
    ends = {"a": End.read(one), "b": End.read(other)}
    vionet = lab.switch({name: end.port for name, end in ends.items()})
    guests = {name: end.start(lab, name) for name, end in ends.items()}
    lab.boot(*guests.values())
    ports = vionet.ports()
    for name, end in ends.items():
        end.check(guests[name], ports[name])
    slow = any(end.kind == "qemu" for end in ends.values())
    converse(guests["a"], guests["b"], size=1_500_000 if slow else 6_000_000)
    ports = balanced(vionet)
    senders = [end for end in ends.values() if "csum" in end.features]
    if len(senders) == 2 and all(end.takes_partial for end in ends.values()):
        assert 0 == total(ports, "payload_bytes_summed"), "both ends agreed not to compute"
        assert 2000 < total(ports, "csum_elided")
    for receiver, sender in (("a", "b"), ("b", "a")):
        if "csum" in ends[sender].features and not ends[receiver].takes_partial:
            assert 1000 < total(ports, "csum_filled"), f"{sender} left sums to finish"
    assert 0 == total(ports, "csum_bad")
