"""Guests that reboot or die, and a vionet that dies, all in the middle of transfers."""

import pytest

from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.process import until
from tests.interop.peers.shell import Shell
from tests.interop.peers.traffic import lasting, no_bad_checksums, transfer
from tests.interop.peers.vionet import Vionet

RATE = 1_000_000  # bytes a second


def await_bytes(vionet: Vionet, port: str, count: int) -> None:
    """Wait until guest `port` has been given `count` bytes."""
    until(
        lambda: vionet.ports()[port]["ledger"]["rx_bytes"] > count, 90, f"{count} bytes to {port}"
    )


def boot_id(guest: Shell) -> str:
    """Another one after each boot."""
    return guest.run("cat /proc/sys/kernel/random/boot_id")


def test_w68_guest_reboots_and_dies_beside_a_transfer(lab: Lab) -> None:
    """A guest reboots, then is killed while it transfers; the other transfer does not notice.

    Each time its port is ready for the next driver, which talks at once.
    """
    vionet = lab.switch({"a": "", "b": "", "c": ""})
    a, b, c = lab.qemu("a", reboots=True), lab.uml("b"), lab.uml("c")
    lab.boot(b, c, a)
    End.read("qemu").check(a, vionet.ports()["a"])
    other, first = lasting(b, c, c.address4, RATE), boot_id(a)
    await_bytes(vionet, "c", RATE)

    transfer(a, b, b.address4, 1_000_000, port=5301).check()
    a.reboot()
    a.configure(3)
    assert first != boot_id(a)
    End.read("qemu").check(a, vionet.ports()["a"])
    transfer(a, b, b.address6, 1_000_000, port=5302).check()

    b.start_endpoint(f"tcp-serve {b.address4} 5303")
    a.start_endpoint(f"tcp-send {b.address4} 5303 bytes=100000000")
    before = vionet.ports()["b"]["ledger"]["rx_bytes"]
    await_bytes(vionet, "b", before + 1_000_000)
    a.kill()
    until(lambda: vionet.ports()["a"]["state"] != "attached", 60, "port a without its guest")
    again = lab.qemu("a")
    again.await_boot()
    again.configure(4)
    End.read("qemu").check(again, vionet.ports()["a"])
    transfer(again, c, c.address4, 1_000_000, port=5304).check()

    await_bytes(vionet, "c", vionet.ports()["c"]["ledger"]["rx_bytes"] + RATE)
    other.check()
    no_bad_checksums(again, b, c)


@pytest.mark.parametrize("kind", ["switch", "wire", "client"])
def test_w68_vionet_is_killed_and_restarted(lab: Lab, kind: str) -> None:
    """TCP connections between QEMU guests outlive a SIGKILL of vionet, whether it listens or they
    do; the guests do not reboot."""
    if kind == "wire":
        vionet = lab.wire(lab.guest("a"), lab.guest("b"))
    else:
        option = "client" if kind == "client" else ""
        vionet = lab.switch({"a": option, "b": option})
    listens = kind == "client"
    a, b = (lab.qemu(name, listens=listens, reconnect=not listens) for name in "ab")
    lab.boot(a, b)
    for name, guest in (("a", a), ("b", b)):
        End.read("qemu").check(guest, vionet.ports()[name])
    before = [boot_id(guest) for guest in (a, b)]
    transfers = [
        lasting(a, b, b.address4, RATE, port=5301),
        lasting(b, a, a.address6, RATE, port=5302),
    ]
    for restart in (vionet.kill_and_restart, None):  # before it and after it they are under way
        for name in "ab":
            await_bytes(vionet, name, RATE)
        if restart:
            restart()
    for one in transfers:
        one.check()
    assert before == [boot_id(guest) for guest in (a, b)]
    for name, guest in (("a", a), ("b", b)):
        End.read("qemu").check(guest, vionet.ports()[name])
    no_bad_checksums(a, b)
