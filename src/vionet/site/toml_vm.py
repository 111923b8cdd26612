"""One `[vm.NAME]` with its `[[vm.NAME.interface]]`, or the same as a table from elsewhere.

How it works: two dicts of readers, one for what becomes the machine and one for who may do what
with it; what a machine cannot have is judged by `site.across` for all formats.  An instance starts
from its template and replaces what it says itself; what only one machine can have (addresses, taps,
disks that are written to) is not taken over.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from vionet.config import option
from vionet.config.option import suggest
from vionet.config.port import guest_port
from vionet.ports.tap import name_fault
from vionet.site import across
from vionet.site.model import Interface, SiteError, Uplink, VmEntry
from vionet.site.toml_line import dotted
from vionet.site.toml_port import GUEST, judged
from vionet.site.toml_value import (
    Enough,
    Sheet,
    Table,
    Value,
    choice,
    each,
    flag,
    ifgroup,
    noted,
    number,
    of,
    owner,
    path,
    readable,
    size,
    table,
    tables,
    text,
)
from vionet.vm.model import Boot, Disk, Restart, Seed, Vm

_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_SSH_KEY: Final = re.compile(r"(ssh|ecdsa|sk)-\S+ \S+.*")
_PROPERTY: Final = re.compile(r"[\w.+-]+=.+")
ALLOWED: Final = ("boot", "disk", "memory", "cpus", "cdrom", "interface", "name", "owner")
_TEMPLATES_MAX: Final = 8  # in a row
_SWITCH_ONLY: Final = ("vlan", "trunk", "isolated")
_LOCAL_ONLY: Final = ("uplink", "tap", "netns", "group")


def host_name(text: str) -> str:
    """A host name, or a domain."""
    if len(text) > 253 or not _HOST_NAME.fullmatch(text):
        raise ValueError("not a host name; use letters, digits and dashes, and dots between them")
    return text


def _ssh_key(text: str) -> str:
    if not _SSH_KEY.fullmatch(text):
        raise ValueError("not a public key; paste the line of a .pub file, ssh-ed25519 AAAA…")
    return text


def _property(text: str) -> str:
    if not _PROPERTY.fullmatch(text):
        raise ValueError('not a property of a QEMU device; write it as "csum=off"')
    return text


def _tap(text: str) -> str:
    if fault := name_fault(text):
        raise ValueError(f"{fault}; use up to 15 letters, digits and dashes")
    return text


DISK: Final[Table] = {
    "path": ("path", path),
    "size": ("size_len", of(size)),
    "format": ("format", choice("qcow2", "raw")),
    "read_only": ("read_only", flag),
}
SEED: Final[Table] = {
    "host_name": ("host_name", of(host_name)),
    "ssh_keys": ("ssh_keys", each(of(_ssh_key))),
    "password": ("password", text),
    "user_data": ("user_data", readable),
}


def _disk(value: Value) -> Disk:
    if isinstance(value.raw, str):
        return Disk(path=readable(value))
    file = value.get("path")
    if value.get("size") is None:
        if file is None and isinstance(value.raw, dict):
            raise ValueError("neither path nor size: where is it, or how large is one to be made?")
        if file and isinstance(file.raw, str):
            readable(file)
    # Without a path it is made in the state folder, by `layout`.
    return Disk(**{"path": Path(), **table(value, DISK)})


def _disks(value: Value) -> tuple[Disk, ...]:
    return each(_disk)(value) if isinstance(value.raw, list) else (_disk(value),)


def _seed(value: Value) -> Seed | None:
    if isinstance(value.raw, bool):
        return Seed(host_name="") if value.raw else None
    seed = Seed(**{"host_name": "", **table(value, SEED)})
    if seed.password and seed.user_data:
        raise ValueError("a password beside user_data, which replaces it; write it there")
    return seed


def _allowed(value: Value) -> frozenset[str]:
    return frozenset(each(choice(*ALLOWED))(value))


MACHINE: Final[Table] = {  # becomes fields of Vm
    "memory": ("memory_len", of(size)),
    "cpus": ("cpus", number(1, 512)),
    "arch": ("arch", text),
    "machine": ("machine", text),
    "accel": ("accel", text),
    "kernel": ("kernel", readable),
    "initrd": ("initrd", readable),
    "append": ("append", text),
    "firmware": ("firmware", readable),
    "disk": ("disks", _disks),
    "cdrom": ("cdrom", readable),
    "boot": ("boot", lambda value: Boot(choice(*Boot)(value))),
    "seed": ("seed", _seed),
    "agent": ("agent", flag),
    "restart": ("restart", lambda value: Restart(choice(*Restart)(value))),
    "stop_timeout": ("stop_timeout_s", number(0.0, 86400.0)),
    "arguments": ("arguments", each(text)),
}
VM: Final[Table] = {
    **MACHINE,
    "instance": ("instance", lambda value: None),  # `entries` reads it
    "interface": ("interfaces", tables),
    "enabled": ("enabled", flag),
    "owner": ("owner", owner),
    "allow_instance": ("allow_instance", _allowed),
    "instance_owner": ("instance_owner", owner),
}
INTERFACE: Final[Table] = {
    "switch": ("switch", text),
    "local": ("local", flag),
    "uplink": ("uplink", lambda value: Uplink(choice(*Uplink)(value))),
    "tap": ("tap", of(_tap)),
    "netns": ("rdomain", of(option.netns)),
    "group": ("group", ifgroup),
    "device": ("device", each(of(_property))),
    **GUEST,
}


def interface(value: Value, name: str) -> Interface:
    """One `[[vm.NAME.interface]]`, port `name`."""
    read = table(value, INTERFACE)
    local, switch = bool(read.get("local")), value.get("switch")
    if local and switch:
        switch.fail("local and on a switch at once; take two interfaces")
    if not local and not switch:
        value.warn('plugged in nowhere, so without link; add switch="NAME" or local=true')
    for given in filter(None, map(value.get, _SWITCH_ONLY if local else _LOCAL_ONLY)):
        if local:
            given.fail("of an interface on a switch, and this one is local; leave it out")
        else:
            given.fail("of a local interface; add local=true, or leave it out")
    if local and (locked := value.get("locked")) and locked.raw is False:
        locked.fail("a local interface is always locked to its addresses; leave it out")
    pieces = {key: read.pop(key) for key in GUEST if key in read}
    port = judged(pieces, value, lambda words: guest_port(name, words))
    return Interface(port=port or guest_port(name, ()), **read)


def entry(value: Value, name: str, base: VmEntry | None) -> VmEntry:
    """One machine; `base` is its template, or itself as it was."""
    read = table(value, VM)
    read.pop("instance", None)
    if "interfaces" in read:
        listed = enumerate(read["interfaces"])
        read["interfaces"] = tuple(interface(one, f"{name}.{number}") for number, one in listed)
    start = _started(name, base)
    machine = {key: read.pop(key) for key, _ in MACHINE.values() if key in read}
    vm = replace(start.vm, **machine)
    if vm.seed and not vm.seed.host_name:
        vm = replace(vm, seed=replace(vm.seed, host_name=name))
    return replace(start, vm=vm, **read)


def _started(name: str, base: VmEntry | None) -> VmEntry:
    """What a machine is before its own table is read."""
    if base is None:
        return VmEntry(vm=Vm(name=name))
    if base.vm.name == name:
        return base
    disks = tuple(disk for disk in base.vm.disks if disk.read_only or disk.path == Path())
    seed = base.vm.seed and replace(base.vm.seed, host_name="")
    interfaces = tuple(
        replace(one, port=replace(one.port, name=f"{name}.{number}", mac=None, ip=()), tap=None)
        for number, one in enumerate(base.interfaces)
    )
    vm = replace(base.vm, name=name, disks=disks, seed=seed)
    return VmEntry(vm=vm, interfaces=interfaces, owner=base.owner)


def entries(values: Mapping[str, Value]) -> tuple[VmEntry, ...]:
    """All machines of a file, each after the template that it is made of."""
    done: dict[str, VmEntry] = {}

    def made(name: str, above: tuple[str, ...]) -> VmEntry:
        if name not in done:
            done[name] = entry(values[name], name, template(values[name], (*above, name)))
        return done[name]

    def template(value: Value, above: tuple[str, ...]) -> VmEntry | None:
        given = value.get("instance")
        if given is None:
            return None
        with noted(given):
            name = text(given)
            if name not in values:
                hint = suggest(name, values)
                raise ValueError(f"{name}: no such machine in this file; {hint}")
            if name in above:
                raise ValueError(f"{name}: made of itself in the end; leave one of them out")
            if len(above) > _TEMPLATES_MAX:
                raise ValueError(f"more than {_TEMPLATES_MAX} templates in a row; use fewer")
            return made(name, above)
        return None

    return tuple(made(name, ()) for name in values)


def vm_from_table(
    name: str, table: Mapping[str, object], base: VmEntry | None, folder: Path
) -> VmEntry:
    """A machine that is not in a file, from the keys that it would have there.

    `base` is the template of which it is made, or the machine itself as it was.  *Raises*
    `SiteError`, each problem `vm.NAME.KEY: what; how to mend it`.
    """
    sheet = Sheet(folder)
    with suppress(Enough):
        made = entry(Value(dict(table), ("vm", name), sheet), name, base)
        across.judge(across.machine_faults(made), sheet.problems)
    if sheet.problems:
        raise SiteError([f"{dotted(place)}: {problem}" for place, problem in sheet.problems])
    return made
