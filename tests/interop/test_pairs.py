"""Every pair of kernels, offloads on and off at either end: every byte arrives, no sum is bad.

The cases are a pairwise covering set: for every two of the things that can be switched (checksum
offload of either direction at either end, policy, mergeable buffers, event index, indirect
descriptors, legacy devices with headers of ten bytes) some case has both.
"""

from typing import Any

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.traffic import converse

LEGACY = "disable-modern=on disable-legacy=off"
CASES = [
    ("uml", "uml"),
    ("uml offload=off", "uml"),
    ("uml -guest_csum", "uml -csum policy=natural"),
    ("uml policy=natural", "uml offload=off"),
    ("uml policy=complete -csum", "uml -mrg_rxbuf"),
    ("uml -event_idx -indirect_desc", "uml -mrg_rxbuf -guest_csum"),
    ("uml", "qemu"),
    ("uml offload=off", f"qemu {LEGACY} mrg_rxbuf=off"),
    ("uml -csum", "qemu guest_csum=off event_idx=off"),
    ("uml policy=natural -guest_csum", "qemu csum=off indirect_desc=off mrg_rxbuf=off"),
    ("qemu", "qemu"),
    ("qemu csum=off mrg_rxbuf=off", "qemu guest_csum=off event_idx=off indirect_desc=off"),
    (f"qemu {LEGACY} mrg_rxbuf=off", f"qemu {LEGACY} csum=off event_idx=off"),
    (f"qemu offload=off {LEGACY} indirect_desc=off", "qemu policy=complete"),
]


def total(ports: dict[str, dict[str, Any]], key: str) -> int:
    """The ledger's `key` over all ports."""
    return sum(int(port["ledger"][key]) for port in ports.values())


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("one", "other"), CASES)
def test_pair(lab: Lab, one: str, other: str) -> None:
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
    ports = vionet.ports()
    senders = [end for end in ends.values() if "csum" in end.features]
    if len(senders) == 2 and all(end.takes_partial for end in ends.values()):
        assert 0 == total(ports, "payload_bytes_summed"), "both ends agreed not to compute"
        assert 2000 < total(ports, "csum_elided")
    for receiver, sender in (("a", "b"), ("b", "a")):
        if "csum" in ends[sender].features and not ends[receiver].takes_partial:
            assert 1000 < total(ports, "csum_filled"), f"{sender} left sums to finish"
    assert 0 == total(ports, "csum_bad")
