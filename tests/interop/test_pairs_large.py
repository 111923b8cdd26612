"""The matrix of large frames with real kernels, thinned: who sends them, who takes them, how.

Every cell is a pair of guests with features taken away at either end.  TCP goes both ways over
both families; every byte arrives, no kernel sees a bad sum, and the ledger tells that frames passed
whole where the receiver agreed and in segments where it did not.  The rate of each direction is
printed, so that a collapse shows; nothing is asserted of it.
"""

from typing import Any, NamedTuple

import pytest

from tests.interop.balance import balanced, total
from tests.interop.lab import Lab
from tests.interop.peers.shell import Console
from tests.interop.peers.traffic import addresses, check_bulk, no_bad_checksums, transfer
from vionet.spec import virtio

GSO = {
    name: f"VIRTIO_NET_F_{name.upper()}"
    for name in ("host_tso4", "host_tso6", "host_ecn", "guest_tso4", "guest_tso6", "guest_ecn")
}
SHAPE = {
    "mrg_rxbuf": "VIRTIO_NET_F_MRG_RXBUF",
    "ring_packed": "VIRTIO_F_RING_PACKED",
    "version_1": "VIRTIO_F_VERSION_1",
}
SUBJECT = GSO | SHAPE
BITS = {virtio.BITS[name] for name in SUBJECT.values()}
PLAIN_QEMU = "csum=off guest_csum=off"
CASES = [
    ("uml", "uml"),
    ("uml", "uml offload=csum"),
    ("uml -host_ecn -guest_ecn", "uml offload=off"),
    ("uml -guest_tso6", "uml -host_tso4 -host_ecn -mrg_rxbuf"),
    ("uml policy=complete", "uml policy=natural -guest_tso4 -guest_ecn"),
    ("uml", "qemu"),
    ("uml -mrg_rxbuf", "qemu +ring_packed packed=on"),
    ("uml offload=csum", "qemu mrg_rxbuf=off disable-legacy=off"),
    ("qemu +ring_packed packed=on mrg_rxbuf=off", f"qemu disable-legacy=off {PLAIN_QEMU}"),
    ("qemu +ring_packed packed=on guest_tso4=off guest_ecn=off", "qemu disable-modern=on"),
    ("qemu +ring_packed packed=on host_tso6=off offload=csum", "qemu +ring_packed packed=on"),
]


class End(NamedTuple):
    """One end of a cell."""

    kind: str
    port: str
    device: dict[str, str]
    features: set[str]

    @property
    def takes_large(self) -> bool:
        """Whether large TCP frames over IPv4 may reach it whole."""
        return "guest_tso4" in self.features and "policy=complete" not in self.port

    @property
    def sends_large(self) -> bool:
        """Whether it may send such frames."""
        return "host_tso4" in self.features


def read(text: str) -> End:
    """`KIND WORD…`: words with a sign, offload= and policy= are the port's, others the device's.

    A feature that lacks what it needs goes with it, on both sides.
    """
    kind, *words = text.split()
    port = [word for word in words if word[0] in "+-" or word.startswith(("offload", "policy"))]
    device = dict(word.split("=") for word in words if word not in port)
    lost = {word[1:] for word in port if word[0] == "-"}
    lost |= {name for name, value in device.items() if value == "off"}
    if device.get("disable-modern") == "on":
        lost.add("version_1")
        device["disable-legacy"] = "off"
    if device.get("packed") != "on":
        lost.add("ring_packed")
    features = set(SUBJECT) - lost
    for needed, name in (("guest_csum", "guest_"), ("csum", "host_")):
        if needed in lost or any(word in ("offload=csum", "offload=off") for word in port):
            gone = {feature for feature in GSO if feature.startswith(name)}
            if kind == "qemu" and needed in lost:
                device |= dict.fromkeys(gone, "off")
            features -= gone
    return End(kind, ",".join(port), device, features)


def check(end: End, guest: Console, port: dict[str, Any]) -> None:
    """The guest's kernel and vionet both say that exactly this was negotiated."""
    wanted = {SUBJECT[name] for name in end.features}
    assert wanted == {virtio.NAMES[bit] for bit in guest.features() & BITS}
    assert wanted == set(port["features"]) & set(SUBJECT.values())


def rates(sender: Console, receiver: Console, size: int) -> list[float]:
    """Mbit/s over IPv4 and IPv6; every byte has to arrive."""
    found = []
    for address in addresses(receiver):
        move = transfer(sender, receiver, address, size, timeout=60)
        (sent,), (received,) = move.sending.results(60), move.serving.results(60)
        check_bulk(size, sent, received)
        found.append(8e-6 * size / max(sent["seconds"], 1e-6))
    return found


@pytest.mark.parametrize(("one", "other"), CASES)
def test_cell(lab: Lab, one: str, other: str, capsys: pytest.CaptureFixture[str]) -> None:
    """TCP both ways and families; whole where the receiver agreed, segments where it did not."""
    ends = {"a": read(one), "b": read(other)}
    vionet = lab.switch({name: end.port for name, end in ends.items()})
    guests = {
        name: lab.uml(name) if end.kind == "uml" else lab.qemu(name, end.device)
        for name, end in ends.items()
    }
    lab.boot(*guests.values())
    ports = vionet.ports()
    for name, end in ends.items():
        check(end, guests[name], ports[name])
    slow = any(end.kind == "qemu" for end in ends.values())
    size = 3_000_000 if slow else 24_000_000
    there, back = rates(guests["a"], guests["b"], size), rates(guests["b"], guests["a"], size)
    no_bad_checksums(*guests.values())
    ports = balanced(vionet)
    for receiver, sender in (("a", "b"), ("b", "a")):
        ledger = ports[receiver]["ledger"]
        if not ends[sender].sends_large:
            continue
        if ends[receiver].takes_large:
            assert 10 < ledger["gso_passed"], "large frames pass whole"
        else:
            assert 10 < ledger["gso_segmented"] < ledger["segments"]
    assert 0 == total(ports, "csum_bad")
    with capsys.disabled():
        text = " ".join(f"{rate:.0f}" for rate in there + back)
        print(f"\n{one} | {other}: Mbit/s there 4/6, back 4/6: {text}; ", end="")
        print(f"whole {total(ports, 'gso_passed')}, segments {total(ports, 'segments')}")
