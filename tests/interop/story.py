"""What several stories share: addresses of an interface, and a lab for more than one test."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.lab import Lab
from tests.interop.peers.shell import Console

IP, TC = "/usr/sbin/ip", "/usr/sbin/tc"  # busybox's own know less


def place(guest: Console, device: str, four: str, six: str) -> None:
    """Addresses of one interface."""
    guest.run(
        f"echo 0 >/proc/sys/net/ipv6/conf/{device}/accept_dad ; {IP} link set {device} up && "
        f"{IP} addr add {four}/24 dev {device} && {IP} addr add {six}/64 dev {device}"
    )


@contextlib.contextmanager
def lasting_lab() -> Iterator[Lab]:
    """A lab for several tests."""
    folder = Path(tempfile.mkdtemp(prefix="vn-"))
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setenv("XDG_RUNTIME_DIR", str(folder))
        stack.callback(shutil.rmtree, folder, True)
        yield Lab(folder, stack)
