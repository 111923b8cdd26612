"""One local interface as `vionet up` lays it out, for a guest that somebody else starts.

Usage: local_fabric.py FOLDER; the guest's socket there is web.0.sock, the tap is called `local`.
"""

import contextlib
import sys
from ipaddress import IPv6Network
from pathlib import Path

from tests.asking import GUEST, RICH
from vionet.config.port import parse_port
from vionet.daemon.run import run
from vionet.site.layout import Host, SitePlaces, lay_out
from vionet.site.model import Interface, Local, Site, VmEntry
from vionet.site.slots import Slots
from vionet.vm.model import Vm

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    prefix6 = IPv6Network("fd00:1:2::/48")
    port = parse_port("web.0", f"guest:/nowhere,mac={GUEST},mtu=1400")
    site = Site(
        name="site",
        vms=(
            VmEntry(vm=Vm(name="web"), interfaces=(Interface(port=port, local=True, tap="local"),)),
        ),
        local=Local(
            prefix6=prefix6,
            resolvers=(*RICH.resolvers, *RICH.resolvers6),
            domains=RICH.domains,
        ),
    )
    slots = Slots(numbers={"web.0": 1}, prefix6=prefix6)
    (fabric,) = lay_out(
        site, SitePlaces(runtime=folder, state=folder), slots, Host(taps=True)
    ).fabrics
    run(
        fabric,
        control=folder / "vionet.control",
        named=True,
        loading=contextlib.nullcontext,
        ready=lambda: print("ready", flush=True),
    )
