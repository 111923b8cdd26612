"""The seed image of cloud-init; isoinfo, which shares no code with what made it, reads it."""

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.tools import need
from vionet.vm import seed
from vionet.vm.model import Nic, Seed, Vm, VmError

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE3 jö@desk"
VM = Vm(
    name="web",
    seed=Seed(host_name="www", ssh_keys=(KEY,)),
    nics=(
        Nic(socket=Path("/run/a"), mac="52:54:00:AB:00:01"),
        Nic(socket=Path("/run/b"), mac="52:54:00:ab:00:02", optional=True),
    ),
)


def isoinfo(image: Path, *arguments: str) -> bytes:
    """What isoinfo says of an image."""
    argv = [str(need("isoinfo")), "-i", str(image), *arguments]
    return subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout


def loaded(document: bytes) -> Any:
    """A document without the line by which cloud-init knows its kind."""
    return json.loads(document.removeprefix(b"#cloud-config\n"))


def test_documents() -> None:
    """Host name, keys and network, as cloud-init wants them."""
    made = seed.documents(VM)
    assert {"instance-id": "vionet-web", "local-hostname": "www", "public-keys": [KEY]} == loaded(
        made["meta-data"]
    )
    assert made["user-data"].startswith(b"#cloud-config\n{")
    assert {"hostname": "www", "ssh_authorized_keys": [KEY]} == loaded(made["user-data"])
    assert {
        "version": 2,
        "ethernets": {
            "eth0": {
                "match": {"macaddress": "52:54:00:ab:00:01"},
                "set-name": "eth0",
                "dhcp4": True,
            },
            "eth1": {
                "match": {"macaddress": "52:54:00:ab:00:02"},
                "set-name": "eth1",
                "dhcp4": True,
                "optional": True,
            },
        },
    } == loaded(made["network-config"])


def test_password() -> None:
    """A password is the image's user's, and need not be changed at the first login."""
    made = seed.documents(replace(VM, seed=Seed(host_name="www", password="tryit")))
    wanted = {"hostname": "www", "password": "tryit", "chpasswd": {"expire": False}}
    assert wanted == loaded(made["user-data"])


def test_own_user_data(tmp_path: Path) -> None:
    """A file of the user's own is passed on as it is; the keys reach the guest all the same."""
    own = tmp_path / "user-data"
    own.write_bytes(b"#!/bin/sh\necho \xff\n")
    made = seed.documents(replace(VM, seed=Seed(host_name="www", ssh_keys=(KEY,), user_data=own)))
    assert own.read_bytes() == made["user-data"]
    assert [KEY] == loaded(made["meta-data"])["public-keys"]


@pytest.mark.parametrize("view", [["-R"], ["-J"]])
def test_image(tmp_path: Path, view: list[str]) -> None:
    """The volume is found by its name, and either kind of reader sees the three files whole."""
    image = tmp_path / "seed.iso"
    seed.write(VM, image)
    assert b"\nVolume id: cidata\n" in isoinfo(image, "-d")
    assert [b"/meta-data", b"/network-config", b"/user-data"] == sorted(
        isoinfo(image, *view, "-f").split()
    )
    for name, data in seed.documents(VM).items():
        assert data == isoinfo(image, *view, "-x", f"/{name}")
    assert 0o600 == image.stat().st_mode & 0o777


def test_image_is_made_anew_only_where_it_says_something_else(tmp_path: Path) -> None:
    """The same seed leaves the image alone; another replaces it, also half an image."""
    image = tmp_path / "seed.iso"
    seed.write(VM, image)
    first = image.stat().st_ino
    seed.write(VM, image)
    assert first == image.stat().st_ino
    with image.open("rb") as held:
        seed.write(replace(VM, seed=Seed(host_name="other")), image)
        assert b'"www"' in held.read(), "who has it open keeps what he has"
    assert b'"other"' in image.read_bytes()
    os.truncate(image, 4096)
    seed.write(replace(VM, seed=Seed(host_name="other")), image)
    assert b'"other"' in image.read_bytes()
    assert [image] == list(tmp_path.iterdir())


def test_refusals(tmp_path: Path) -> None:
    """What cannot be read or written is said in one line."""
    large, pipe = tmp_path / "large", tmp_path / "pipe"
    large.write_bytes(bytes(seed.USER_DATA_LEN_MAX + 1))
    os.mkfifo(pipe)
    for path, expected in (
        (tmp_path / "none", "No such file or directory"),
        (large, "more than 1 MiB"),
        (pipe, "not a file"),
    ):
        vm = replace(VM, seed=Seed(host_name="www", user_data=path))
        with pytest.raises(VmError, match=f"^user data {path}: {expected}"):
            seed.write(vm, tmp_path / "seed.iso")
    with pytest.raises(VmError, match=r"^web: seed image .*: No such file or directory$"):
        seed.write(VM, tmp_path / "no" / "seed.iso")
    assert {large, pipe} == set(tmp_path.iterdir())
