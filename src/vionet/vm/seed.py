"""What cloud-init reads at a guest's first start: a NoCloud image.

How it works: `documents` makes the three files as a pure function of the machine; JSON, which is
YAML as well.  `write` puts them into an ISO image whose volume is called `cidata`, by which
cloud-init finds it; with Joliet and Rock Ridge, so that every guest sees the names.  The
sum of the documents is kept in the image's header: an image that says the same is left alone.

Invariants: an image is replaced as a whole or not at all; the instance stays the same for as long
as the machine's name does, so a guest does not start all over when a key is added.

Trust: a user's own file is the user's; it is bounded, and not looked into.
"""

import hashlib
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any, Final

from vionet.vm.model import Vm, VmError

VOLUME: Final = "cidata"
USER_DATA_LEN_MAX: Final = 1 << 20
# The primary volume descriptor's application identifier (ECMA-119 8.4.20).
SUM_OFF: Final = 16 * 2048 + 574
SUM_LEN: Final = 64


def documents(vm: Vm) -> dict[str, bytes]:
    """The files of the seed of `vm`, which has one, by name."""
    seed = vm.seed
    assert seed is not None
    keys = list(seed.ssh_keys)
    meta: dict[str, Any] = {"instance-id": f"vionet-{vm.name}", "local-hostname": seed.host_name}
    user: dict[str, Any] = {"hostname": seed.host_name}
    if keys:
        meta["public-keys"] = keys  # with a user's own user-data, too
        user["ssh_authorized_keys"] = keys
    if seed.password:
        user |= {"password": seed.password, "chpasswd": {"expire": False}}
    cards: dict[str, dict[str, Any]] = {}
    for number, nic in enumerate(vm.nics):
        # What configures networks in older guests goes by names alone, so they get one.
        name = f"eth{number}"
        found = {"match": {"macaddress": nic.mac.lower()}, "set-name": name}
        cards[name] = {**found, "dhcp4": True, **({"optional": True} if nic.optional else {})}
    own = b"#cloud-config\n" + _json(user) if seed.user_data is None else _read(seed.user_data)
    network = {"version": 2, "ethernets": cards}
    return {"meta-data": _json(meta), "user-data": own, "network-config": _json(network)}


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"


def _read(path: Path) -> bytes:
    if path.exists() and not path.is_file():
        raise VmError(f"user data {path}: not a file; give one")
    try:
        with path.open("rb") as file:
            data = file.read(USER_DATA_LEN_MAX + 1)
    except OSError as error:
        raise VmError(f"user data {path}: {error.strerror}") from None
    if len(data) > USER_DATA_LEN_MAX:
        raise VmError(f"user data {path}: more than {USER_DATA_LEN_MAX >> 20} MiB; fetch the rest")
    return data


def write(vm: Vm, path: Path) -> None:
    """Make the image of `vm`'s seed at `path`, unless it is there."""
    files = documents(vm)
    total = hashlib.sha256(json.dumps([(k, v.hex()) for k, v in files.items()]).encode())
    name = total.hexdigest().upper()
    if _sum(path) == name.encode():
        return
    try:
        descriptor, new = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(_image(files, name))
            Path(new).replace(path)
        finally:
            Path(new).unlink(missing_ok=True)
    except OSError as error:
        raise VmError(f"{vm.name}: seed image {path}: {error.strerror}") from None


def _sum(path: Path) -> bytes:
    """The sum of the documents that an image says it has; empty without an image."""
    try:
        with path.open("rb") as file:
            file.seek(SUM_OFF)
            return file.read(SUM_LEN)
    except OSError:
        return b""


def _image(files: dict[str, bytes], name: str) -> bytes:
    """An ISO 9660 image, level 3, with Joliet and Rock Ridge."""
    from pycdlib import PyCdlib  # most machines have no seed

    image, made = PyCdlib(), io.BytesIO()
    image.new(
        interchange_level=3, vol_ident=VOLUME, app_ident_str=name, joliet=3, rock_ridge="1.09"
    )
    for file, data in files.items():
        plain = f"/{file.replace('-', '').upper()[:8]}.;1"
        image.add_fp(io.BytesIO(data), len(data), plain, rr_name=file, joliet_path=f"/{file}")
    image.write_fp(made)
    image.close()
    return made.getvalue()
