"""The same site as a vionet.toml and as a vm.conf.

Who is who: `full` and `plain` ask for their address by busybox's client, `isc` by ISC's, which
reads raw frames; `plain` has no offloads at all; `uml` is a guest that somebody else starts, on the
switch only.  `late` comes with a reload.  A machine's eth0 is its local interface, its eth1 the
switch, where its address is locked.
"""

import re
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Network

from tests.interop.site_image import DHCLIENT, UDHCPC, Images

CLIENTS = {"full": UDHCPC, "isc": DHCLIENT, "plain": UDHCPC, "late": UDHCPC}
NAMES = ("full", "isc", "plain")
NUMBERS = {"full": 1, "isc": 2, "plain": 3, "uml": 4, "late": 5}  # on the switch
PREFIX6 = IPv6Network("fd00:64::/48")
PREFIX = IPv4Address("100.64.0.0")
UML = f"mac=52:54:00:00:00:0{NUMBERS['uml']},locked,ip=192.0.2.4,ip=fd00:76::4"
OFF = "csum gso guest_csum guest_tso4 guest_tso6 guest_ecn guest_ufo host_tso4 host_tso6 host_ecn"


def mac(name: str) -> str:
    """The locked address of a guest on the switch."""
    return f"52:54:00:00:00:0{NUMBERS[name]}"


def toml(
    images: Images, *names: str, isolated: bool = True, uplinks: Mapping[str, str] | None = None
) -> str:
    """A file with these machines, some of them with an uplink of their own."""
    text = f"""
        [local]
        inet6 = "{PREFIX6}"
        resolvers = ["192.0.2.53"]
        isolated = {str(isolated).lower()}
        [switch.lan]
        [port.uml]
        switch = "lan"
        guest = "uml.sock"
        mac = "{mac("uml")}"
        locked = true
        ip = ["192.0.2.4", "fd00:76::4"]
        [vm.base]
        enabled = false
        kernel = "{images.kernel}"
        initrd = "{images.initrd}"
        append = "{images.append}"
        memory = "160M"
        stop_timeout = 1
        """
    for name in names:
        device = [f"{feature}=off" for feature in OFF.split()] if name == "plain" else []
        text += f"""
        [vm.{name}]
        instance = "base"
        {"stop_timeout = 30" if name == "full" else ""}
        [[vm.{name}.interface]]
        local = true
        uplink = "{(uplinks or {}).get(name, "auto")}"
        device = {device}
        [[vm.{name}.interface]]
        switch = "lan"
        mac = "{mac(name)}"
        locked = true
        device = {device}
        """
    return re.sub(r"(?m)^ +", "", text).replace("'", '"')


def vmconf(images: Images, *names: str) -> str:
    """The same, as far as a vm.conf can say it: no foreign guest, and offloads for everybody."""
    text = f"""
        local inet6 prefix {PREFIX6}
        image = "{images.iso}"
        switch "lan" {{
            locked lladdr
        }}
        """
    for name in names:
        text += f"""
        vm "{name}" {{
            memory 160M
            cdrom $image
            boot device cdrom
            local interface
            interface {{ switch "lan" locked lladdr {mac(name)} }}
            {"disable" if name == "plain" else ""}
        }}
        """
    return text
