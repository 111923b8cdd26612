"""Who may do what: the kernel's word on real connections, owners by user and group, files."""

import inspect
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests import tools
from vionet.daemon import access, control, machines
from vionet.daemon.access import LEVELS, Level, Peer
from vionet.site.model import Owner, VmEntry
from vionet.vm.console import READERS_MAX
from vionet.vm.model import Vm

ALICE = Peer(100, 4001, 4001, frozenset({4001, 4100}))
ROOT = Peer(1, 0, 0, frozenset({0}))

# Becomes somebody else, then connects and sends each line; prints what comes back.
_CLIENT = """
import json, os, socket, sys
path, uid, groups, lines = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3]), sys.argv[4:]
os.setgroups(groups[1:])
os.setgid(groups[0])
os.setuid(uid)
with socket.socket(socket.AF_UNIX) as client:
    client.settimeout(60)
    client.connect(path)
    answers = client.makefile()
    for line in lines:
        client.sendall(line.encode() + b"\\n")
        print(answers.readline(), end="", flush=True)
"""


def asked_as(
    path: Path, uid: int, groups: list[int], *requests: Mapping[str, object]
) -> list[object]:
    """The answers that another user gets; the first of `groups` is the primary one."""
    lines = [json.dumps({"version": 1, **request}) for request in requests]
    done = subprocess.run(
        [sys.executable, "-c", _CLIENT, str(path), str(uid), json.dumps(groups), *lines],
        stdout=subprocess.PIPE,
        timeout=90,
        check=True,
        text=True,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def entry(owner: Owner | None = None, **more: object) -> VmEntry:
    """A machine."""
    return VmEntry(vm=Vm(name="web"), owner=owner, **more)  # type: ignore[arg-type]


def connected_as(path: Path, uid: int, groups: list[int]) -> Peer:
    """What the kernel says of a client that became somebody else before it connected."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.settimeout(60)
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        with subprocess.Popen(
            [sys.executable, "-c", _CLIENT, str(path), str(uid), json.dumps(groups)]
        ) as child:
            connection, _ = listener.accept()
            with connection:
                peer = access.peer_of(connection)
            assert child.pid == peer.pid
    return peer


def test_own_credentials() -> None:
    """Both ends of a socketpair are this process, who may do everything."""
    near, far = socket.socketpair()
    with near, far:
        peer = access.peer_of(near)
    assert (os.getpid(), os.getuid(), os.getgid()) == (peer.pid, peer.uid, peer.gid)
    assert {os.getgid(), *os.getgroups()} == peer.groups
    assert peer.admin


@pytest.mark.root
def test_credentials_of_another_user(run_dir: Path) -> None:
    """User, group and further groups are those with which the client connected."""
    run_dir.chmod(0o711)
    peer = connected_as(run_dir / "s", 4001, [4001, 4100, 4200])
    assert (4001, 4001, [4001, 4100, 4200]) == (peer.uid, peer.gid, sorted(peer.groups))
    assert not peer.admin


@pytest.mark.root
def test_more_groups_than_can_be_told(run_dir: Path) -> None:
    """Who is in more than 256 groups counts as in the first one: less than true, never more."""
    run_dir.chmod(0o711)
    peer = connected_as(run_dir / "s", 4001, [4001, *range(5000, 5300)])
    assert {4001} == peer.groups


def test_who_runs_vionet_may_everything() -> None:
    """Root and the own user may do with any machine what there is, and make instances of it."""
    for peer in (ROOT, Peer(1, os.geteuid(), 9)):
        for request in LEVELS:
            if request.startswith("vm."):
                assert access.may(peer, entry(), request.removeprefix("vm."))
        assert access.may_make(peer, entry())


@pytest.mark.parametrize(
    ("owner", "expected"),
    [
        (None, False),
        (Owner(), False),
        (Owner(user="4001"), True),
        (Owner(user="4002"), False),
        (Owner(group="4100"), True),
        (Owner(group="4001"), True),
        (Owner(group="4002"), False),
        (Owner(user="4002", group="4100"), True),
        (Owner(user="4001", group="4002"), True),
        (Owner(user="root"), False),
        (Owner(user="nobody-has-this-name"), False),
        (Owner(group="nobody-has-this-name"), False),
        (Owner(user=""), False),
        (Owner(user="-1"), False),
        (Owner(user="٤٠٠١"), False),
    ],
)
def test_owners(owner: Owner | None, expected: bool) -> None:
    """The user, or anybody of the group, by name or number; a name nobody has is nobody."""
    for request, level in LEVELS.items():
        if request.startswith("vm."):
            assert level is Level.OWNER
            assert expected == access.may(ALICE, entry(owner), request.removeprefix("vm."))


def test_owner_by_name() -> None:
    """Names are looked up in the user database."""
    assert access.may(Peer(1, 1, 1), entry(Owner(user="daemon")), "list")
    assert access.may(Peer(1, 4001, 4001, frozenset({1})), entry(Owner(group="daemon")), "stop")
    assert not access.may(Peer(1, 4001, 4001), entry(Owner(user="daemon", group="sys")), "stop")


def test_instances() -> None:
    """They need `allow instance`; who may make them is the owner unless somebody else is named."""
    alice, bob = Owner(user="4001"), Owner(user="4002")
    nothing: frozenset[str] = frozenset()
    assert not access.may_make(ALICE, entry(alice))
    assert access.may_make(ALICE, entry(alice, allow_instance=nothing))
    assert not access.may_make(ALICE, entry(bob, allow_instance=nothing))
    assert access.may_make(ALICE, entry(bob, allow_instance=nothing, instance_owner=alice))
    assert not access.may_make(ALICE, entry(alice, allow_instance=nothing, instance_owner=bob))


@pytest.mark.parametrize(
    ("allowed", "table", "refused"),
    [
        ((), {"memory": "1G", "cpus": 2}, ["memory", "cpus"]),
        (("memory", "cpus"), {"memory": "1G", "cpus": 2}, []),
        (("boot",), {"kernel": "/k", "append": "a", "memory": "1G"}, ["memory"]),
        (("memory", "boot", "disk", "cdrom", "interface", "instance", "name", "owner"),
         {"arguments": ["-x"], "firmware": "/f", "seed": True, "restart": "always"},
         ["arguments", "firmware", "seed", "restart"]),
        (("interface",), {"interface": [{"local": True}, {"switch": "lan"}]}, []),
        (("interface",), {"interface": [{"local": True, "tap": "t", "device": [], "mac": "x"}]},
         ["interface.tap", "interface.device", "interface.mac"]),
        (("interface",), {"interface": 7}, []),
        (("disk",), {"interface": [{"tap": "t"}]}, ["interface"]),
    ],
)  # fmt: skip
def test_what_an_owner_may_choose(
    allowed: tuple[str, ...], table: dict[str, object], refused: list[str]
) -> None:
    """Only what the file allows; of an interface only where it is plugged in."""
    template = entry(Owner(user="4001"), allow_instance=frozenset(allowed))
    assert refused == access.not_allowed(template, table)


@pytest.fixture
def tree(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`tree(mode, folder_mode, uid)` is a file below a folder that root owns."""
    tools.need_root()

    def made(mode: int = 0o644, folder: int = 0o755, uid: int = 0) -> Path:
        base = tmp_path_factory.mktemp("images")
        base.parent.chmod(0o755)
        for above in base.parents:
            if above.stat().st_mode & 0o1 == 0 and above != Path("/"):
                above.chmod(0o755)
        base.chmod(folder)
        path = base / "debian.iso"
        path.write_bytes(b"image")
        path.chmod(mode)
        os.chown(path, uid, uid)
        return path

    return made


def refused(path: Path | str) -> bool:
    """Whether Alice may not have vionet open it."""
    (both,) = {
        bool(access.foreign_files(ALICE, table))
        for table in (
            {"cdrom": str(path)},
            {"kernel": str(path)},
            {"disk": {"path": str(path), "read_only": True}},
        )
    }
    return both


def test_files_that_an_owner_may_name(tree: Callable[..., Path]) -> None:
    """A file of root's that everybody reads; nothing that the owner cannot read or could swap."""
    assert not refused(tree())
    for path in (
        tree(mode=0o600),  # /etc/shadow
        tree(mode=0o666),
        tree(uid=4001),
        tree(folder=0o700),
        tree(folder=0o777),
        tree().parent,
        tree() / "none",
        tree().parent / ".." / tree().parent.name / "debian.iso",
    ):
        assert refused(path), path
    link = tree().parent / "link.iso"
    link.symlink_to(tree())
    assert refused(link)


@pytest.mark.parametrize("path", ["", "debian.iso", "/dev/zero", "/etc", "/\0", "/" + "a" * 5000])
def test_no_file_at_all(path: str) -> None:
    """Relative paths, devices, folders and nonsense are refused like any other."""
    assert refused(path)


def test_disks_that_an_owner_may_have(tree: Callable[..., Path]) -> None:
    """One that is made for it; one with a path only to read, whatever form the list has."""
    path = str(tree())
    fine: list[object] = [{"size": "1G"}, [{"size": "1G"}], [{"path": path, "read_only": True}]]
    for disk in fine:
        assert [] == access.foreign_files(ALICE, {"disk": disk})
    written = {"path": path, "size": "1G"}
    foreign: list[object] = [path, [path], {"path": path}, [{"size": "1G"}, written], [[path]], 7]
    for disk in foreign:
        assert access.foreign_files(ALICE, {"disk": disk})


def test_socket_for_others() -> None:
    """The socket is open to others only where somebody else has a machine."""
    assert not access.open_to_others([entry(), entry()])
    assert access.open_to_others([entry(), entry(Owner(user="daemon"))])
    assert access.open_to_others(
        [entry(allow_instance=frozenset(), instance_owner=Owner(group="x"))]
    )


def test_owner_for_people() -> None:
    """user:group; a number that has a name is shown by it."""
    assert None is access.owner_text(None)
    assert "daemon" == access.owner_text(Owner(user="1"))
    assert "4001:kvm" == access.owner_text(Owner(user="4001", group="kvm"))
    assert ":kvm" == access.owner_text(Owner(group="kvm"))


def test_documentation_has_every_request() -> None:
    """docs/control.md lists each request with whose it is, and each limit as it is."""
    page = (tools.ROOT / "docs" / "control.md").read_text()
    rows = re.findall(r"^\| `([\w.]+)` \| `(\w+)` \| .+ \| .+ \|$", page, re.MULTILINE)
    assert {name: level.value for name, level in LEVELS.items()} == dict(rows)
    assert len(LEVELS) == len(rows)
    for limit in (
        f"A request has at most {control.LINE_MAX} bytes",
        f"There are {control.CLIENTS_MAX} clients at most",
        f"at most {machines.INSTANCES_MAX} at a time",
        f"Of one user {machines.TASKS_MAX} requests",
        f"A console has {READERS_MAX} readers at most",
        f"seconds, at most {machines.STOP_MAX_S:.0f}, from",
        f"Who is silent for {control.IDLE_S:.0f} seconds",
    ):
        assert limit in " ".join(page.split()), limit
    for allowed, keys in access.CHOICES.items():
        assert f"`{allowed}`" in page or not keys
        assert all(f"`{key}`" in page for key in keys)
    members = page.split("| member of a machine |")[1].split("\n\n")[0]
    shown = inspect.getsource(machines._document)
    assert re.findall(r"^\| `(\w+)`", members, re.MULTILINE) == re.findall(
        r'^        "(\w+)":', shown, re.MULTILINE
    )
