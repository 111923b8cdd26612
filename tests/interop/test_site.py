"""A site from its file to its end: machines, a foreign guest, DHCP, traffic, a restart, reloads.

One long story for each way to run a site, because booting is what takes the time.
"""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.interop.lab import Lab
from tests.interop.peers.inside import Inside
from tests.interop.site_file import NAMES, toml, vmconf
from tests.interop.site_image import Images, build
from tests.interop.site_story import Story
from tests.tools import need
from tests.unprivileged import UID, python
from vionet.jit.lane import CACHE_DIR, LANE

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(600)]


class UserStory(Story):
    """The site of a user without rights, in a place with routes, which passt wants."""

    homely, outside, n_taps = "isc", "198.51.100.2", 2

    def become_user(self) -> None:
        """Begin as that user."""
        need("passt")
        self.place.run(
            "ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up && "
            f"ip addr add {self.outside}/24 dev v0 && ip route add default via 198.51.100.1 && "
            "ip addr add 2001:db8::2/64 dev v0 nodad && ip route add default via 2001:db8::1"
        )
        self.lab.folder.chmod(0o711)
        folder = self.folder = self.lab.folder / "user"
        self.lab.socket("uml").symlink_to(folder / "uml.sock")
        cache = folder / "cache" / LANE
        folder.mkdir()
        if CACHE_DIR is not None and CACHE_DIR.exists():  # the user has none, and time is dear
            shutil.copytree(CACHE_DIR, cache / CACHE_DIR.name)
        for path in (folder, *folder.rglob("*")):
            os.chown(path, UID, UID)
        environment = {"HOME": folder, "VIONET_CACHE_DIR": cache.parent}
        words = [f"{name}={value}" for name, value in environment.items()]
        self.begin(enter=["env", *words], python=python())
        self.find_host()
        self.forward()
        for pid, command in self.site.processes().items():
            assert f"Uid:\t{UID}\t{UID}\t" in Path(f"/proc/{pid}/status").read_text(), command

    def find_host(self) -> None:
        """The host is where the holder of the user's namespace is."""
        (pid,) = (pid for pid, words in self.site.processes().items() if "vm.holder" in words)
        self.host = Inside(pid, self.lab.folder)
        self.lab.stack.callback(self.host.delete)


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    """What the machines boot, for everybody to read."""
    folder = Path(tempfile.mkdtemp(prefix="vn-images-"))
    folder.chmod(0o755)
    yield build(folder)
    shutil.rmtree(folder)


def test_toml(lab: Lab, images: Images) -> None:
    """A vionet.toml, followed by SIGHUP and by `vionet reload`."""
    story = Story(lab, images, toml, "toml")
    story.forward()
    story.begin()
    story.boot(*NAMES, "uml")
    story.ask_addresses(*NAMES)
    story.negotiated()
    story.talk_to_host(*NAMES)
    story.talk_on_switch(("full", "isc"), ("plain", "isc"), ("uml", "full"))
    story.kept_apart()
    story.restarts(signal.SIGKILL)
    story.grows(story.by_signal)
    story.talk_to_host("late")
    story.talk_on_switch(("late", "uml"))
    story.refuses(
        '[vm.more]\nmemroy = 1\n[[vm.more.interface]]\nswitch = "lam"\n',
        "vm.more.memroy: no such key; did you mean memory?",
        "lam: no such switch; did you mean lan?",
    )
    story.shrinks()
    story.lets_near()
    story.ends("full")


def test_vmconf(lab: Lab, images: Images) -> None:
    """A vm.conf: what it cannot say is said to the running site; it is followed by a command."""
    story = Story(lab, images, vmconf, "conf")
    story.forward()
    story.begin()
    for port in ("plain.0", "plain.1"):
        assert 0 == story.site.call("port set", port, "offload=off").returncode
    assert 0 == story.site.call("vm start", "plain").returncode
    story.boot(*NAMES, "uml")
    story.ask_addresses(*NAMES)
    story.negotiated()
    story.talk_to_host(*NAMES)
    story.talk_on_switch(("plain", "isc"), ("uml", "full"))
    story.kept_apart()
    story.restarts(signal.SIGUSR2)
    story.grows(story.by_command)
    story.talk_to_host("late")
    story.talk_on_switch(("late", "full"))
    story.refuses(
        'vm "more" {\n\tmemroy 1G\n\tinterface { switch "lam" }\n}\n',
        "memroy begins no statement of vm; did you mean memory?",
        "lam: no such switch",
    )
    story.shrinks()
    story.ends(*NAMES)


def test_user(lab: Lab, images: Images) -> None:
    """A user without rights: the host is a namespace of the user's own, and passt the way out."""
    story = UserStory(lab, images, partial(toml, uplinks={"plain": "passt"}), "toml")
    story.become_user()
    story.boot(*NAMES, "uml")
    story.ask_addresses(*NAMES)
    story.negotiated()
    story.talk_to_host("full", "isc")
    story.talk_by_passt("plain", story.outside, "2001:db8::2")
    story.talk_on_switch(("plain", "isc"), ("uml", "full"))
    story.kept_apart()
    story.restarts(signal.SIGKILL)
    story.grows(story.by_signal)
    story.talk_to_host("late")
    story.talk_on_switch(("late", "uml"))
    story.shrinks()
    story.lets_near()
    story.ends("full")
    assert not Path(f"/tmp/vionet-{UID}-{story.site.name}").exists(), (
        "the folder of passt's sockets"
    )
