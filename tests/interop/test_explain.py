"""What `vionet explain` says is what two real guests, the ledger and tshark show afterwards."""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.explaining import found, ids
from tests.interop.balance import balanced
from tests.interop.end import End
from tests.interop.lab import Lab
from tests.interop.peers.process import call
from tests.interop.peers.shell import Shell
from tests.interop.peers.traffic import lasting, no_bad_checksums, transfer
from tests.interop.peers.vionet import SOURCE, Vionet
from tests.interop.test_truth import Seeing

pytestmark = pytest.mark.root
SIZE = 2_000_000
ENDS = {"a": "uml", "b": "uml offload=off"}


def explained(vionet: Vionet, *words: str) -> Any:
    """What the command says, for programs."""
    argv = [sys.executable, "-m", "vionet", "explain", *words, "--json"]
    argv += ["--control", str(vionet.control)]
    said = subprocess.run(
        argv, env=os.environ | {"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert 0 == said.returncode, said.stderr
    return json.loads(said.stdout)


@pytest.mark.timeout(300)
def test_what_is_explained_is_what_happens(lab: Lab) -> None:
    """A guest that took all offloads and one that took none: what is said of each direction is what
    the ledger then counts and tshark sees; a frame on its way, and one of a file that tshark wrote,
    are explained in the same way."""
    vionet = lab.switch({name: end.removeprefix("uml").strip() for name, end in ENDS.items()})
    a, b = (lab.uml(name) for name in ENDS)
    lab.boot(a, b)
    ports = vionet.ports()
    for name, guest in zip(ENDS, (a, b), strict=True):
        End.read(ENDS[name]).check(guest, ports[name])

    to, back = explained(vionet, "a", "b")["directions"]
    for kind in ("TCP over IPv4", "TCP over IPv6"):
        plain, large = found(to, "partial", kind), found(to, "large", kind)
        assert ("FILL", "0") == (plain["action"], plain["received"]["flags"])
        assert {"RX-06", "RX-07"} <= ids(plain)
        assert (False, 5) == (large["whole"], large["received"]["frames"])
        assert "VERIFY" == found(back, "finished", kind)["action"]
    assert {"finished"} == {frame["form"] for frame in back["frames"]}

    capture = Seeing(lab, vionet, "b", "delivered", "--as-delivered")
    for address in (b.address4, b.address6):
        transfer(a, b, address, SIZE).check()
    transfer(b, a, a.address4, SIZE).check()
    capture.stop()
    ports = balanced(vionet)
    one, other = ports["a"]["ledger"], ports["b"]["ledger"]
    assert other["csum_filled"] > 1000
    assert other["gso_segmented"] > 50
    assert (0, 0, 0) == (other["csum_elided"], other["gso_passed"], other["csum_verified"])
    assert one["csum_verified"] == one["csum_unfilled"] > 1000
    assert 0 == one["csum_filled"]
    no_bad_checksums(a, b)
    mine = f"ip.dst == {b.address4} or ipv6.dst == {b.address6}"
    assert (0, 0) == (capture.bad(mine), capture.count(f"({mine}) and frame.len > 1514"))
    assert 1000 < capture.judged(mine)
    assert "NEEDS_CSUM" == found(back, "finished")["received"]["flags"]
    data = f"tcp.len > 0 and ip.dst == {a.address4}"
    assert capture.count(data) * 0.99 < capture.bad(data), "what a got was partial again"

    on_its_way(vionet, a, b)
    of_a_file(lab, vionet, a, b)


def on_its_way(vionet: Vionet, a: Shell, b: Shell) -> None:
    """`--next` while a transfer runs: as it was recorded, and the same when played again."""
    move = lasting(a, b, b.address4, 2_000_000)
    for name, of, state, action in (
        ("b", f"tcp and dst host {b.address4} and greater 200", "PARTIAL", "FILL"),
        ("a", f"tcp and dst host {b.address4} and greater 200", "PARTIAL", "FILL"),
        ("a", f"tcp and src host {b.address4}", "UNKNOWN", "VERIFY"),
        ("b", f"tcp and src host {b.address4}", "UNKNOWN", "VERIFY"),
    ):
        said = explained(vionet, name, "--next", "--filter", of, "--timeout", "60")
        (delivery,) = said["deliveries"]
        assert (state, action) == (said["judged"]["state"], delivery["action"])
        assert ([], None, True) == (said["differs"], delivery["drop"], said["live"])
        assert {"a", "b"} == {said["from"], delivery["to"]}
        assert said["chain"]["queue"] == 1
        assert delivery["segmented"] == (said["frame"]["segments"] > 0)
    move.check()


def of_a_file(lab: Lab, vionet: Vionet, a: Shell, b: Shell) -> None:
    """`--pcap`: our own file says who sent the frame to whom, and how; tshark's does not."""
    capture = Seeing(lab, vionet, "b", "finished")
    transfer(a, b, b.address4, 200_000).check()
    capture.stop()
    wanted = f'frame.comment contains "a → b" and tcp.len > 1000 and ip.dst == {b.address4}'
    fields = ("-T", "fields", "-e", "frame.number", "-e", "frame.len")
    first = call("tshark", "-r", str(capture.file), "-Y", wanted, *fields, timeout=120)
    number, length = first.split()[:2]
    said = explained(vionet, "--pcap", str(capture.file), "--frame", number)
    (delivery,) = said["deliveries"]
    assert ("a", "b", int(length)) == (said["from"], delivery["to"], said["frame"]["bytes"])
    assert ("PARTIAL", "FILL") == (said["judged"]["state"], delivery["action"])
    if int(length) > 1514:
        assert 1 < delivery["received"]["frames"] == delivery["segments"]

    plain = lab.folder / "plain.pcap"
    ordinary = f"tcp.len > 1000 and frame.len <= 1514 and ip.src == {a.address4}"
    more = Seeing(lab, vionet, "b", "segments", "--segment")
    transfer(a, b, b.address4, 200_000).check()
    more.stop()
    call("tshark", "-r", str(more.file), "-Y", ordinary, "-F", "pcap", "-w", str(plain),
         timeout=120)  # fmt: skip
    said = explained(vionet, "a", "b", "--pcap", str(plain), "--frame", "2")
    (delivery,) = said["deliveries"]
    assert ("UNKNOWN", "PASS", "0") == (
        said["judged"]["state"], delivery["action"], delivery["received"]["flags"],
    )  # fmt: skip
