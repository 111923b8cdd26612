"""Guests and taps in other network namespaces: root's, and one that a user without rights made."""

import os
from pathlib import Path

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.inside import Inside
from tests.interop.peers.process import Peer, until
from tests.interop.peers.traffic import converse, no_bad_checksums, transfer
from tests.unprivileged import UID, python
from vionet.vm import holder

pytestmark = pytest.mark.root
TAP = "hntap0"


@pytest.mark.parametrize("kind", ["switch", "wire"])
def test_guest_and_tap(lab: Lab, kind: str) -> None:
    """With `netns=` the tap is made where it belongs; it carries as much as one made here."""
    one, place = End.read("uml"), lab.namespace("taps")
    tap = f"tap:{TAP},netns={place.name}"
    if kind == "switch":
        vionet = lab.switch({"a": ""}, f"b={tap}")
    else:
        vionet = lab.wire(lab.guest("a"), tap)
    place.interface = TAP
    guest = one.start(lab, "a")
    lab.boot(guest)
    place.configure(2)
    one.check(guest, vionet.ports()["a"])
    converse(guest, place, size=5_000_000)
    ledger = vionet.ports()["b"]["ledger"]
    assert 0 == ledger["payload_bytes_copied"] == ledger["csum_filled"]
    assert 0 == vionet.stop()
    assert TAP not in place.run("ip -br link")


def test_guest_and_interface(lab: Lab) -> None:
    """An interface in a namespace, seen from outside it: the guest talks to what is beyond."""
    near, far = lab.namespace("near"), lab.namespace("far")
    near.run(f"ip link add hnear type veth peer name hfar netns {far.name} && ip link set hnear up")
    far.run("ip link set hfar up")
    vionet = lab.switch({"a": ""}, f"b=interface:hnear,netns={near.name}")
    far.interface = "hfar"
    guest = lab.uml("a")
    lab.boot(guest)
    far.configure(2)
    converse(guest, far, size=3_000_000)
    assert [] == vionet.ports()["b"]["warnings"]
    assert "promiscuity 1" in near.run("ip -d link show hnear")
    assert 0 == vionet.stop()
    assert "promiscuity 0" in near.run("ip -d link show hnear")


def test_user_without_rights(lab: Lab) -> None:
    """A user without rights runs a holder and a switch with a tap in its namespace; programs in
    there, entered as documented, and the guest reach each other by TCP in bulk."""
    lab.folder.chmod(0o711)
    folder = lab.folder / "user"
    folder.mkdir()
    os.chown(folder, UID, UID)
    words_of_holder = [*python(), *holder.holder_command(forward=False)[1:]]
    held = Peer(words_of_holder, lab.folder / "holder.log")
    lab.stack.callback(held.kill)
    until(lambda: holder.ready(held.pid) or not held.running, 60, "holder")
    place = Inside(held.pid, lab.folder, TAP)
    lab.stack.callback(place.delete)
    tap = f"tap:{TAP},netns={holder.network_namespace(held.pid)}"
    argv = ["-m", "vionet", "switch", "--control", f"{folder}/c", f"a=guest:{folder}/a.sock"]
    # Interpreted: this user has no cache of compiled code, and the machine other work to do.
    env = {"VIONET_LANE": "interpreted", "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    vionet = Peer([*python(), *argv, f"b={tap}"], lab.folder / "user.log", env=env)
    lab.stack.callback(vionet.kill)
    vionet.await_line("ready", 200)
    (lab.folder / "a.sock").symlink_to(folder / "a.sock")
    guest = lab.uml("a")
    guest.await_boot()
    guest.configure(1)
    place.configure(2)
    assert str(UID) in Path(f"/proc/{vionet.pid}/status").read_text().partition("Uid:")[2][:20]
    for sender, receiver in ((guest, place), (place, guest)):
        for address in (receiver.address4, receiver.address6):
            transfer(sender, receiver, address, 300_000).check()
    no_bad_checksums(guest, place)
