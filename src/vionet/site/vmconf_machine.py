"""One `vm` section of a vm.conf as a machine, by itself or made of another one.

How it works: an instance starts as its template does without disks, addresses and names of taps
(`toml_vm.entry`) and replaces what it says itself; interfaces one by one, so that it keeps those of
the template that it does not name.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from vionet.config.port import guest_port
from vionet.ports.tap import name_fault
from vionet.site.model import Interface, VmEntry
from vionet.site.toml_value import Sheet, Value, owner, readable
from vionet.site.toml_vm import entry
from vionet.site.vmconf_grammar import Statement, read_start
from vionet.site.vmconf_value import Judge, says
from vionet.vm.model import Boot, Disk

_CPUS_MAX: Final = 512
_INTERFACES_MAX: Final = 32
_DEVICES: Final = "cdrom|disk|net"
_BOOT: Final = {"cdrom": Boot.CDROM, "disk": Boot.DISK, "net": Boot.NETWORK}
_FORMATS: Final = ("qcow2", "raw")
_OCTET: Final = re.compile(r"(?<![0-9A-Fa-f])[0-9A-Fa-f](?![0-9A-Fa-f])")
# What a kernel that QEMU boots has, and where: bzImage, ELF, arm64.
_KERNELS: Final = ((0x202, b"HdrS"), (0, b"\x7fELF"), (0x38, b"ARM\x64"))
_HEAD_LEN: Final = 0x206


def machine(judge: Judge, section: Statement, name: str, base: VmEntry | None) -> VmEntry:
    """A machine from its section; what is wrong in it is noted."""
    given = judge.by_key([one for one in section.block if one.key not in ("disk", "interface")])
    for statement in given.values():
        judge.meaningless(statement)
    start = entry(Value({}, ("vm", name), Sheet(section.folder)), name, base)
    disks = [_disk(judge, one) for one in section.block if one.key == "disk"]
    vm: dict[str, Any] = {
        "memory_len": "memory" in given and judge.size(given["memory"]),
        "cpus": "cpus" in given and judge.number(given["cpus"], 1, _CPUS_MAX),
        "cdrom": "cdrom" in given and judge.value(given["cdrom"], "PATH", readable),
        "boot": "boot device" in given and _BOOT[given["boot device"].values[_DEVICES]],
    }
    vm = {key: value for key, value in vm.items() if value}
    if "boot" in given:
        vm |= _boot(judge, given["boot"])
    whose = judge.value(given["owner"], "OWNER", owner) if "owner" in given else None
    made = replace(
        start,
        vm=replace(start.vm, disks=(*start.vm.disks, *filter(None, disks)), **vm),
        interfaces=_interfaces(judge, section, given.get("interfaces"), start),
        enabled=not says(given, "disable"),
        owner=whose or start.owner,
    )
    return _with_permissions(judge, given.get("allow instance"), made, base)


def _with_permissions(
    judge: Judge, allow: Statement | None, made: VmEntry, base: VmEntry | None
) -> VmEntry:
    """With who may make what of it; an instance has that from its template, if from anywhere."""
    if base:
        if allow:
            judge.refuse(allow, "an instance takes this from what it is made of; write it there")
        if "instance" not in (base.allow_instance or ()):
            return made
        allowed, maker = base.allow_instance, base.instance_owner
        return replace(made, allow_instance=allowed, instance_owner=maker)
    if allow is None:
        return made
    given = judge.by_key(allow.block)
    if "owner" not in given:
        judge.warn(allow, "whom? as in vmd nobody but who runs vionet; add owner NAME")
        return made
    maker = judge.value(given["owner"], "OWNER", owner)
    return replace(made, allow_instance=frozenset(given) - {"owner"}, instance_owner=maker)


def _boot(judge: Judge, statement: Statement) -> dict[str, Path | None]:
    """A kernel or firmware: its first bytes tell; without them a kernel is meant."""
    file = judge.value(statement, "PATH", readable)
    try:
        head = read_start(file, _HEAD_LEN)[0] if file else None
    except OSError:
        head = None
    kernel = head is None or any(head[at:].startswith(mark) for at, mark in _KERNELS)
    return {"kernel": file if kernel else None, "firmware": None if kernel else file}


def _disk(judge: Judge, statement: Statement) -> Disk | None:
    kind = statement.values.get("FORMAT", "").lower()
    if kind and kind not in _FORMATS:
        judge.refuse(statement, f"format {kind[:40]} is not known here; use qcow2 or raw")
        return None
    file = judge.value(statement, "PATH", readable)
    return Disk(path=file, format=kind or None) if file else None


def _interfaces(
    judge: Judge, section: Statement, count: Statement | None, start: VmEntry
) -> tuple[Interface, ...]:
    """Those of the section, `interfaces` at least, then those of the template that are left."""
    least = count and judge.number(count, 0, _INTERFACES_MAX)
    statements = [one for one in section.block if one.key == "interface"]
    if len(statements) > _INTERFACES_MAX:
        judge.refuse(statements[_INTERFACES_MAX], f"more than {_INTERFACES_MAX}; leave some out")
        return ()
    name = start.vm.name
    made = [_interface(judge, one, f"{name}.{n}") for n, one in enumerate(statements)]
    if count and least and least > len(made):
        judge.warn(count, "those that no interface describes are plugged in nowhere; describe them")
        numbers = range(len(made), least)
        made += [Interface(port=guest_port(f"{name}.{number}", ())) for number in numbers]
    return (*made, *start.interfaces[len(made) :])


def _interface(judge: Judge, statement: Statement, name: str) -> Interface:
    given = judge.by_key(statement.block)
    local = "local" in statement.values
    tap = statement.values.get("TAP", "tap")
    if tap != "tap" and (fault := name_fault(tap)):
        judge.refuse(statement, f"{fault}; write tap, tap0 or nothing")
    group, rdomain = judge.group(given.get("group")), judge.rdomain(given.get("rdomain"))
    switch = given["switch"].values["NAME"] if "switch" in given else None
    if local and switch:
        judge.refuse(given["switch"], "of a local interface, which is on none; take two interfaces")
    elif not local:
        if switch is None:
            judge.warn(statement, "neither local nor on a switch, so plugged in nowhere; name one")
        nothing = "of a tap on the host, and a machine on a switch has none here; leave it out"
        for one in (given[key] for key in ("group", "rdomain") if key in given):
            judge.warn(one, nothing)
        if tap != "tap":
            judge.warn(statement, f"{tap}: the name {nothing}")
    pieces = ["link=down"] if says(given, "down") else []
    pieces += _address(given)
    port = judge.attempt(given.get("lladdr", statement), lambda: guest_port(name, pieces))
    return Interface(
        port=port or guest_port(name, ()),
        switch=switch,
        local=local,
        tap=tap if local and tap != "tap" else None,
        rdomain=rdomain if local else None,
        group=group if local else None,
    )


def _address(given: dict[str, Statement]) -> list[str]:
    """Options of a port; an octet may be one digit, as in 2:0:0:0:0:1."""
    if "lladdr" not in given:
        return []
    values = given["lladdr"].values
    address = _OCTET.sub(r"0\g<0>", values.get("ADDRESS", ""))
    return [*(["locked"] if "locked" in values else []), *([f"mac={address}"] if address else [])]
