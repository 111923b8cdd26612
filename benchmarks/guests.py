"""Real guests: TCP between two kernels through vionet, and through what their users have today.

    PYTHONPATH=src python benchmarks/guests.py

Two User Mode Linux guests and two QEMU guests (software emulation where KVM does not work) boot on
one switch, and each pair runs iperf3, one way and then the other.  This is done with offload=full,
csum and off, and with the same guests over QEMU's own `-netdev stream` and `dgram` and over
`vde_switch`; in turns, so that whatever else the machine does falls on all alike.  The table has
medians; the ratio to the first of the pair's rivals comes first.  What is not installed is named.
"""

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.interop.lab import Lab
from tests.interop.peers.process import until
from tests.interop.peers.qemu import Qemu
from tests.interop.peers.shell import Console
from tests.interop.peers.uml import Uml

PRESETS = ("full", "csum", "off")
Pair = tuple[Console, Console]


@contextlib.contextmanager
def through_vionet(lab: Lab, preset: str) -> Iterator[dict[str, Pair]]:
    """Four guests on one switch."""
    names = ("ua", "ub", "qc", "qd")
    vionet = lab.switch(dict.fromkeys(names, f"offload={preset}"))
    pairs = {"UML": (lab.uml("ua"), lab.uml("ub")), "QEMU": (lab.qemu("qc"), lab.qemu("qd"))}
    first = 1
    for pair in pairs.values():
        lab.boot(*pair, first=first)
        first += 2
    yield pairs
    ledger = [port["ledger"] for port in vionet.ports().values()]
    segments, whole = (sum(port[key] for port in ledger) for key in ("segments", "gso_passed"))
    print(f"# vionet {preset}: passed whole {whole}, segments made {segments}", file=sys.stderr)


@contextlib.contextmanager
def through_netdev(lab: Lab, kind: str) -> Iterator[dict[str, Pair]]:
    """Two QEMU guests over QEMU's own sockets."""
    a, b = (lab.folder / f"{kind}-{end}" for end in "ab")
    if kind == "stream":
        texts = [f"stream,server=on,addr.type=unix,addr.path={a}"]
        texts += [f"stream,server=off,addr.type=unix,addr.path={a}"]
    else:
        texts = [
            f"dgram,local.type=unix,local.path={mine},remote.type=unix,remote.path={other}"
            for mine, other in ((a, b), (b, a))
        ]
    guests = []
    for number, text in enumerate(texts):
        mac = f"52:54:00:00:01:{number:02x}"
        guest = Qemu(f"{kind}{number}", None, lab.folder, netdev=text, mac=mac)
        lab.stack.callback(guest.kill)
        guests.append(guest)
        if kind == "stream" and not number:
            until(a.exists, 10, "QEMU's socket")
    lab.boot(*guests)
    yield {"QEMU": (guests[0], guests[1])}


@contextlib.contextmanager
def through_vde(lab: Lab) -> Iterator[dict[str, Pair]]:
    """Two User Mode Linux guests on vde_switch."""
    folder = lab.folder / "vde"
    argv = ["vde_switch", "--sock", str(folder)]  # it ends with its standard input
    switch = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    lab.stack.callback(switch.wait, 10)
    lab.stack.callback(switch.kill)
    until((folder / "ctl").exists, 10, "vde_switch's socket")
    guests = []
    for number in range(2):
        mac = f"52:54:00:00:02:{number:02x}"
        guest = Uml(f"vde{number}", None, lab.folder, device=f"eth0=vde,{folder},{mac}")
        lab.stack.callback(guest.kill)
        guests.append(guest)
    lab.boot(*guests)
    yield {"UML": (guests[0], guests[1])}


def rate(sender: Console, receiver: Console, seconds: int) -> float:
    """TCP bits a second that the receiver saw."""
    serving = receiver.start("iperf3 -s -1 --forceflush")
    serving.await_output("listening")
    command = f"iperf3 -c {receiver.address4} -t {seconds} -i 0 -J"
    document = json.loads(sender.run(command, seconds + 30))
    serving.result(20)
    return float(document["end"]["sum_received"]["bits_per_second"])


def measure(name: str, seconds: int, rates: dict[tuple[str, str], list[float]]) -> None:
    """One contender's round."""
    with tempfile.TemporaryDirectory(dir="/tmp") as text, contextlib.ExitStack() as stack:
        lab = Lab(Path(text), stack)
        kind, _, which = name.partition(" ")
        if kind == "vionet":
            made = through_vionet(lab, which)
        else:
            made = through_vde(lab) if kind == "vde_switch" else through_netdev(lab, which)
        with made as pairs:
            for family, (one, other) in pairs.items():
                for sender, receiver in ((one, other), (other, one)):
                    rates[family, name].append(rate(sender, receiver, seconds))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="TCP between real guests.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rivals = ["QEMU stream", "QEMU dgram"]
    if shutil.which("vde_switch"):
        rivals.append("vde_switch")
    else:
        print("# left out: vde_switch (Debian's vde2 has it)", file=sys.stderr)
    names = [*(f"vionet {preset}" for preset in PRESETS), *rivals]
    rates: dict[tuple[str, str], list[float]] = defaultdict(list)
    for _ in range(arguments.rounds):
        for name in names:
            measure(name, arguments.seconds, rates)
    medians = {key: median(values) for key, values in rates.items()}
    if arguments.json:
        print(json.dumps([{"pair": k[0], "through": k[1], "bits": v} for k, v in medians.items()]))
        return
    print(" ratio  Gbit/s  (from to)      pair  through")
    for family in ("UML", "QEMU"):
        rival = "vde_switch" if family == "UML" else rivals[0]
        base = medians.get((family, rival)) or medians[family, "vionet off"]
        for (pair, name), value in medians.items():
            if pair == family:
                values = rates[pair, name]
                spread = f"({min(values) / 1e9:.2f} {max(values) / 1e9:.2f})"
                print(f"{value / base:6.2f} {value / 1e9:7.2f}  {spread:14} {pair:5} {name}")


if __name__ == "__main__":
    main()
