"""A site from its file to its end: machines, a foreign guest, DHCP, traffic, a restart, reloads.

One long story for each way to run a site, because booting is what takes the time.
"""

import os
import shutil
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

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(240)]


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
    story.killed()
    story.grows(story.by_signal)
    story.talk_to_host("late")
    story.talk_on_switch(("late", "uml"))
    story.refuses(
        '[vm.more]\nmemroy = 1\n[[vm.more.interface]]\nswitch = "lam"\n',
        "vm.more.memroy: no such key; did you mean memory?",
        "lam: no such switch; did you mean lan?",
    )
    story.shrinks(isolated=False)
    story.not_apart()
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
    story.talk_on_switch(("full", "isc"), ("plain", "isc"), ("uml", "full"))
    story.kept_apart()
    story.killed()
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
    story = Story(lab, images, partial(toml, uplinks={"plain": "passt"}), "toml")
    story.homely, story.n_taps = "isc", 2
    become_user(story)
    story.boot(*NAMES, "uml")
    story.ask_addresses(*NAMES)
    story.negotiated()
    story.talk_to_host("full", "isc")
    story.talk_by_passt("plain", "198.51.100.2", "2001:db8::2")
    story.talk_on_switch(("full", "isc"), ("plain", "isc"), ("uml", "full"))
    story.kept_apart()
    story.killed()
    story.talk_by_passt("plain", "198.51.100.2", "2001:db8::2")
    story.grows(story.by_signal)
    story.talk_to_host("late")
    story.talk_on_switch(("late", "uml"))
    story.shrinks()
    story.ends("full")
    assert not Path(f"/tmp/vionet-{UID}-jsite").exists(), "the folder of passt's sockets"


def become_user(story: Story) -> None:
    """Begin as a user without rights, in a place with routes that lead nowhere, as passt wants."""
    need("passt")
    story.place.run(
        "ip link add v0 type veth peer name v1 && ip link set v0 up && ip link set v1 up && "
        "ip addr add 198.51.100.2/24 dev v0 && ip route add default via 198.51.100.1 && "
        "ip addr add 2001:db8::2/64 dev v0 nodad && ip route add default via 2001:db8::1"
    )
    story.lab.folder.chmod(0o711)
    folder = story.folder = story.lab.folder / "user"
    story.lab.socket("uml").symlink_to(folder / "uml.sock")
    cache = folder / "cache" / LANE
    folder.mkdir()
    if CACHE_DIR is not None and CACHE_DIR.exists():  # the user has none, and time is dear
        shutil.copytree(CACHE_DIR, cache / CACHE_DIR.name)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, UID, UID)
    environment = {"HOME": str(folder), "VIONET_CACHE_DIR": str(cache.parent)}
    words = [f"{name}={value}" for name, value in environment.items()]
    story.begin(enter=["env", *words], python=python())
    (pid,) = (pid for pid, words in story.site.processes().items() if "vm.holder" in words)
    story.host = Inside(pid, story.lab.folder)
    story.lab.stack.callback(story.host.delete)
    story.forward()
    for pid, command in story.site.processes().items():
        assert f"Uid:\t{UID}\t{UID}\t" in Path(f"/proc/{pid}/status").read_text(), command
