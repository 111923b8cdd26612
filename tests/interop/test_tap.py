"""A guest and the host's kernel: the tap in a namespace, on a switch and on a wire."""

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.netns import TAP, Capture, join
from tests.interop.peers.traffic import converse, no_bad_checksums, transfer

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("kind", "end", "tap"),
    [
        ("switch", "uml", ""),
        ("wire", "uml", ""),
        ("switch", "uml offload=off", ",-csum"),
        ("wire", "uml offload=off", ""),
        ("wire", "uml -csum policy=natural", ",offload=off"),
        ("switch", "uml policy=complete", ",-guest_csum"),
        ("switch", "qemu guest_csum=off mrg_rxbuf=off", ""),
        ("wire", "qemu csum=off", ",-csum"),
        ("wire", "qemu disable-modern=on disable-legacy=off mrg_rxbuf=off", ""),
    ],
)
def test_guest_and_tap(lab: Lab, kind: str, end: str, tap: str) -> None:
    """TCP and UDP of every size between a guest and a namespace; a wire copies no payload."""
    one, place = End.read(end), lab.namespace("tap")
    port = f"tap:{TAP}{tap}"
    if kind == "switch":
        vionet = lab.switch({"a": one.port}, f"b={port}")
    else:
        vionet = lab.wire(lab.guest("a", one.port), port)
    place.take(TAP)
    guest = one.start(lab, "a")
    lab.boot(guest)
    place.configure(2)
    one.check(guest, vionet.ports()["a"])
    converse(guest, place, size=1_500_000 if one.kind == "qemu" else 6_000_000)
    ledgers = {name: port["ledger"] for name, port in vionet.ports().items()}
    copied = {name: ledger["payload_bytes_copied"] for name, ledger in ledgers.items()}
    if kind == "wire" and "mrg_rxbuf" in one.features:
        assert {"a": 0, "b": 0} == copied
    if "guest_csum" not in tap and "off" not in tap:
        assert 0 == copied["b"], "a tap that takes partial is written to from the guest's memory"


@pytest.mark.parametrize("kind", ["switch", "wire"])
def test_w13_w65_what_leaves_the_machine_is_finished(lab: Lab, kind: str) -> None:
    """Beyond tap, bridge and veth every checksum is good; on the tap itself they are partial."""
    near, far = lab.namespace("near"), lab.namespace("far")
    vionet = (
        lab.switch({"a": ""}, f"b=tap:{TAP}")
        if kind == "switch"
        else lab.wire(lab.guest("a"), f"tap:{TAP}")
    )
    join(near, TAP, far)
    guest = lab.uml("a")
    lab.boot(guest)
    far.configure(2)
    End.read("uml").check(guest, vionet.ports()["a"])
    captures = Capture(near, TAP, lab.folder), Capture(far, "vfar", lab.folder)
    converse(guest, far, size=2_000_000, largest=300)
    for capture in captures:
        capture.stop()
    sent = f"ip.src == {guest.address4} or ipv6.src == {guest.address6}"
    assert 0 == captures[1].bad(sent)
    assert 1000 < captures[1].judged(sent)
    # 301 datagrams over each of IPv4 and IPv6; those of TCP are few and large.
    assert 602 < captures[0].bad(sent), "the guest's sums are finished behind the tap"
    no_bad_checksums(guest, far)


def test_address_and_link_of_a_tap(lab: Lab) -> None:
    """`address=` gives the tap its address and sets it up: the host talks without another step."""
    place = lab.namespace("host")
    vionet = lab.wire(lab.guest("a"), f"tap:{TAP},address=192.0.2.9/24", place=place)
    guest = lab.uml("a")
    lab.boot(guest)
    End.read("uml").check(guest, vionet.ports()["a"])
    transfer(guest, place, "192.0.2.9", 3_000_000).check()
    no_bad_checksums(guest, place)
