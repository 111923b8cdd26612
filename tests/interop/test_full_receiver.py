"""A receiver without buffers: a wire leaves frames where they are, a switch drops and counts.

How it works: a guest is stopped (SIGSTOP) while more datagrams are sent to it than it has buffers,
and then goes on.  On a wire the others wait in the tap; on a switch nobody waits for it.
"""

import os
import signal

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.netns import TAP
from tests.interop.peers.shell import Console
from tests.interop.peers.traffic import PORT, transfer
from tests.interop.peers.vionet import Vionet

pytestmark = pytest.mark.root
COUNT = 700  # more than the 256 buffers of a guest, less than the 1000 frames that a tap holds


def stop(guest: Console) -> None:
    """Stop the guest's virtual machine."""
    os.kill(guest.child.pid, signal.SIGSTOP)


def go_on(guest: Console) -> None:
    """Let it go on."""
    os.kill(guest.child.pid, signal.SIGCONT)


def lost(vionet: Vionet) -> list[dict[str, int]]:
    """What each port dropped, but for groups that the guest's driver does not listen to."""
    drops = [dict(port["drops"]) for port in vionet.ports().values()]
    for found in drops:
        found.pop("address_filtered", None)
    return drops


def test_w70_wire_leaves_frames_in_the_tap(lab: Lab) -> None:
    """Every datagram arrives, in order, after the guest has buffers again; nothing is dropped."""
    place = lab.namespace("host")
    vionet = lab.wire(lab.guest("a"), f"tap:{TAP}")
    place.take(TAP)
    guest = lab.uml("a")
    lab.boot(guest)
    place.configure(2)
    End.read("uml").check(guest, vionet.ports()["a"])
    transfer(place, guest, guest.address4, 100_000).check()  # addresses are known
    before = lost(vionet)
    counting = guest.start_endpoint(f"udp-count {guest.address4} {PORT} count={COUNT}")
    counting.await_output("counting")
    stop(guest)
    place.endpoint(f"udp-number {guest.address4} {PORT} count={COUNT}")
    ports = vionet.ports()
    go_on(guest)
    (counted,) = counting.results()
    assert {"received": COUNT, "in_order": True} == counted
    assert COUNT > ports["a"]["ledger"]["rx_frames"], "the guest was full"
    assert before == lost(vionet)


def test_w70_switch_waits_for_nobody(lab: Lab) -> None:
    """What a stopped guest has no buffer for is counted, while two others transfer."""
    vionet = lab.switch({"a": "", "b": "", "c": ""})
    guests = [lab.uml(name) for name in "abc"]
    a, b, c = guests
    lab.boot(*guests)
    for name, guest in zip("abc", guests, strict=True):
        End.read("uml").check(guest, vionet.ports()[name])
    transfer(b, a, a.address4, 100_000).check()
    counting = a.start_endpoint(f"udp-count {a.address4} {PORT} count={COUNT}")
    counting.await_output("counting")
    stop(a)
    b.endpoint(f"udp-number {a.address4} {PORT} count={COUNT}")
    transfer(b, c, c.address4, 5_000_000).check()
    go_on(a)
    b.endpoint(f"udp-end {a.address4} {PORT}")
    (counted,) = counting.results()
    drops = vionet.ports()["a"]["drops"]
    assert counted["in_order"]
    assert COUNT <= counted["received"] + drops["rx_ring_full"]
    assert 300 < drops["rx_ring_full"] < COUNT + 20
