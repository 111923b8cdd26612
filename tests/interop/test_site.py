"""A site from its file to its end: machines, a foreign guest, DHCP, traffic, a restart, reloads.

One long story for each way to run a site, because booting is what takes the time.
"""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.lab import Lab
from tests.interop.site_file import NAMES, toml, vmconf
from tests.interop.site_image import Images, build
from tests.interop.site_story import Story

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
        "'memroy' has no meaning",
        "lam: no such switch",
    )
    story.shrinks()
    story.ends(*NAMES)
