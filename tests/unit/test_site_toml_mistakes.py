"""What is wrong with a TOML file: every mistake at its line, with how to mend it."""

import textwrap
from pathlib import Path

import pytest

from vionet.engine.layout import PORTS_MAX
from vionet.site.model import Site, SiteError
from vionet.site.toml import read_toml

PATH = Path("/etc/vionet/office.toml")
BOOTS = 'disk = {size = "1G"}\n'


def read(text: str) -> Site:
    """The site of a file that is all right."""
    return read_toml(PATH, textwrap.dedent(text))


def mistakes(text: str) -> list[str]:
    """What is wrong with a file, without its path."""
    with pytest.raises(SiteError) as caught:
        read(text)
    assert str(caught.value) == "\n".join(caught.value.problems)
    assert all(line.startswith(f"{PATH}:") for line in caught.value.problems)
    return [line.removeprefix(f"{PATH}:") for line in caught.value.problems]


MISTAKES = {
    # the file itself
    "\na = " + "1" * 5000: "2: a number that is too long; shorten it",
    "\na = " + "[" * 5000: "1: nested too deeply; there is no use for that here",
    "\n" + "a." * 64 + "a = 1": "2: a key of very many parts; use fewer",
    # tables and keys
    "[vms.web]": "1: vms: no such key; did you mean vm?",
    "vm = 3": "1: vm: a number, where tables belong; write [vm.NAME]",
    "[vm]\nweb = 3": "2: vm.web: a number, where a table belongs; write [vm.web] above it",
    "[local]\nprefx = 3": "2: local.prefx: no such key; did you mean prefix?",
    'name = "a b"': "1: name: 'a b' cannot be a name; use up to 32 letters, digits, dots, "
    "dashes and underscores",
    '[switch."a b"]': "1: switch.a b: 'a b' cannot be a name; use up to 32 letters, digits, dots, "
    "dashes and underscores",
    '["a\\nb"]': "1: 'a\\nb': no such key; use one of name, switch, vm, port, local",
    # values
    "[switch.a]\nlocked = 1": "2: switch.a.locked: a number; write true or false, without quotes",
    "[switch.a]\nworkers = true": "2: switch.a.workers: write a whole number from 1 to 16, "
    "without quotes",
    "[switch.a]\nworkers = 17": "2: switch.a.workers: write a whole number from 1 to 16, "
    "without quotes",
    '[switch.a]\nreserved = "spt"': "2: switch.a.reserved: spt: no reserved address; "
    "did you mean stp?, or the last octet of 01:80:c2:00:00:00, 0 to 15",
    "[switch.a]\npin = [0, 100000]": "2: switch.a.pin[1]: write a whole number from 0 to 65536, "
    "without quotes",
    "[switch.a]\npin = 0": "2: switch.a.pin: a number, where a list belongs; write pin=[…]",
    '[switch.a]\nnetns = "a/b"': "2: switch.a.netns: no name of a network namespace; "
    "write one as in netns=web, or a path",
    '[switch.a]\ngroup = "a b"': "2: switch.a.group: not an interface group; "
    "use up to 15 letters, digits and dashes",
    '[local]\nprefix = "100.64.0.1/10"': "2: local.prefix: 100.64.0.1/10 has host bits set; "
    "write it as 100.64.0.0/10 or fd00:1:2::/48",
    '[local]\nprefix = "fd00::/48"': "2: local.prefix: not an IPv4 network of /30 or larger; "
    "write it as 100.64.0.0/10",
    '[local]\ninet6 = "fd00::/65"': "2: local.inet6: not an IPv6 network of /64 or larger; "
    "write it as fd00:1:2::/48, or true",
    '[local]\nresolvers = ["a"]': "2: local.resolvers[0]: a: not an IP address; "
    "write it as 192.0.2.53",
    '[local]\ndomains = ["-a"]': "2: local.domains[0]: not a host name; "
    "use letters, digits and dashes, and dots between them",
    '[local]\nuplink = "past"': "2: local.uplink: no such choice; did you mean passt?",
    # ports
    '[port.a]\ntap = "t"': '1: port.a: plugged in nowhere; write switch="NAME"',
    '[port.a]\ntap = "t"\nswitch = "b"': "3: port.a.switch: b: no such switch; add [switch.b]",
    '[switch.lan]\n[port.a]\ntap = "t"\nswitch = "lam"': "4: port.a.switch: lam: no such switch; "
    "did you mean lan?",
    '[switch.b]\n[port.a]\nswitch = "b"': '2: port.a: of no kind; write one of guest="a.sock", '
    'tap="vio0", interface="eth1", stream="…"',
    '[switch.b]\n[port.a]\nswitch = "b"\ntap = "t"\nguest = "g"': "2: port.a: guest and tap at "
    'once; write one of guest="a.sock", tap="vio0", interface="eth1", stream="…"',
    '[switch.b]\n[port.a]\nswitch = "b"\ntap = "tttttttttttttttt"': "4: port.a.tap: "
    "tttttttttttttttt: the name of an interface has at most 15 bytes; write tap:vio0",
    '[switch.b]\n[port.a]\nswitch = "b"\nguest = "g,mode=0666"': "4: port.a.guest: a comma, "
    "which ends an option; leave it out",
    '[switch.b]\n[port.a]\nswitch = "b"\nstream = "g"\nifgroup = "x"': "5: port.a.ifgroup: "
    "of a tap; leave it out",
    '[switch.b]\n[port.a]\nswitch = "b"\nstream = "g"\nqueues = 2': "5: port.a.queues: 2: "
    "an option of guest: ports; leave it out",
    '[switch.b]\n[port.a]\nswitch = "b"\ntap = "t"\nlocked = true': "5: port.a.locked: "
    "to which address? add mac=52:54:00:…",
    '[switch.b]\n[port.a]\nswitch = "b"\ntap = "t"\naddress = [\n"192.0.2.1/24",\n"x"]': "7: "
    "port.a.address[1]: x: without prefix length; write it as 192.0.2.1/24 or fd00::1/64",
}


@pytest.mark.parametrize(("text", "says"), MISTAKES.items(), ids=range(len(MISTAKES)))
def test_mistake_has_its_line(text: str, says: str) -> None:
    """One mistake is one line: where, what, how to mend it."""
    assert [says] == mistakes(text)


@pytest.mark.parametrize(
    ("text", "line", "at"),
    [
        ("a = \n", 1, "column"),
        ("\n[vm.a\n\n", 2, "column"),
        ('x = """\n\n', 3, "the end of the file"),
        ("[switch.a]\n[switch.a]\n", 2, "column"),
        ("[switch.a]\nb = 2020-13-01", 2, "column"),
    ],
)
def test_what_is_no_toml(text: str, line: int, at: str) -> None:
    """A mistake of the language has its line, and says how far along it is."""
    (found,) = mistakes(text)
    assert found.startswith(f"{line}: not TOML: ")
    assert f"; mend it at {at}" in found


VM_MISTAKES = {
    'memory = "1GB"': "memory: not a size; write it as 512M or 10G",
    "memory = 512": 'memory: a number, where text belongs; write memory="…"',
    'memory = "7K"': "memory: not a whole number of MiB, at least 1",
    "cpus = 0": "cpus: write a whole number from 1 to 512, without quotes",
    "cpus = 400": "cpus: 400 is not between 1 and the 288 of q35",
    'arch = "arm"': "arch: arm is not known; take x86_64 or aarch64",
    'machine = "virt"': "machine: x86_64 has no virt; take q35 or pc or microvm",
    'accel = "xen"': "accel: xen is not known; take auto, kvm or tcg",
    'initrd = "i"': "initrd: it belongs to a kernel; give kernel",
    'append = "a\\nb"': "append: a line end, or a character that cannot be shown; leave it out",
    'kernel = ""': "kernel: no path; write one, relative to this file or absolute",
    'boot = "cdrom"': "boot: there is no cdrom; give one",
    'boot = "disc"': "boot: no such choice; did you mean disk?",
    'restart = "on_failure"': "restart: no such choice; did you mean on-failure?",
    "stop_timeout = nan": "stop_timeout: write a number from 0 to 86400, without quotes",
    "agent = 1979-05-27": "agent: a date or time; write true or false, without quotes",
    'owner = "a b"': "owner: not an account; write user, user:group or :group",
    'owner = ":"': "owner: not an account; write user, user:group or :group",
    'allow_instance = ["disc"]': "allow_instance[0]: no such choice; did you mean disk?",
    'seed = {host_name = "a_b"}': "seed.host_name: not a host name; "
    "use letters, digits and dashes, and dots between them",
    "seed = {hostname = 1}": "seed.hostname: no such key; did you mean host_name?",
    'seed = {ssh_keys = ["x"]}': "seed.ssh_keys[0]: not a public key; "
    "paste the line of a .pub file, ssh-ed25519 AAAA…",
    'seed = {password = "x", user_data = "vm.toml"}': "seed: a password beside user_data, which "
    "replaces it; write it there",
    "arguments = [1]": 'arguments[0]: a number, where text belongs; write "…"',
    'instance = "b"': "instance: b: no such machine in this file; use one of a",
    'instance = "a"': "instance: a: made of itself in the end; leave one of them out",
    "interface = 1": "interface: a number; write [[vm.a.interface]] and its keys below, "
    "once for each",
}


@pytest.mark.parametrize(("text", "says"), VM_MISTAKES.items(), ids=VM_MISTAKES)
def test_mistake_in_a_machine(text: str, says: str) -> None:
    """A machine's key is judged where it stands, by itself or with the others."""
    assert [f"4: vm.a.{says}"] == mistakes(f"\n[vm.a]\n{BOOTS}{text}\n")


def test_machine_needs_something_to_boot() -> None:
    """A machine with nothing in it is refused at its own line, and so are disks that are none."""
    assert ["2: vm.a.boot: nothing there to boot; give kernel, disk, cdrom or interface"] == (
        mistakes("\n[vm.a]\n")
    )
    neither = "neither path nor size: where is it, or how large is one to be made?"
    assert [f"2: vm.a.disk: {neither}"] == mistakes('[vm.a]\ndisk = {format = "raw"}')
    assert ["2: vm.a.disk[0].format: no such choice; use one of qcow2, raw"] == (
        mistakes('[vm.a]\ndisk = [{size = "1G", format = "vdi"}]')
    )


def test_made_of_each_other() -> None:
    """Machines that are templates of each other are refused once, not followed for ever."""
    text = "\n".join(f'[vm.{a}]\n{BOOTS}instance = "{b}"' for a, b in ("ab", "bc", "ca"))
    assert ["9: vm.c.instance: a: made of itself in the end; leave one of them out"] == (
        mistakes(text)
    )
    chain = "\n".join(f'[vm.v{k}]\n{BOOTS}instance = "v{k + 1}"' for k in range(20))
    assert "27: vm.v8.instance: more than 8 templates in a row; use fewer" in mistakes(
        chain + f"\n[vm.v20]\n{BOOTS}"
    )


NIC_MISTAKES = {
    'switch = "lam"': "4: {}.switch: lam: no such switch; did you mean lan?",
    'switch = "lan"\nlocal = true': "4: {}.switch: local and on a switch at once; "
    "take two interfaces",
    'switch = "lan"\nuplink = "tap"': "5: {}.uplink: of a local interface; add local=true, "
    "or leave it out",
    'switch = "lan"\nnetns = "x"': "5: {}.netns: of a local interface; add local=true, "
    "or leave it out",
    "local = true\nvlan = 3": "5: {}.vlan: of an interface on a switch, and this one is local; "
    "leave it out",
    "local = true\nlocked = false": "5: {}.locked: a local interface is always locked to its "
    "addresses; leave it out",
    'local = true\nuplink = "passt"\ntap = "t"': "6: {}.tap: with uplink passt there is no tap; "
    "leave it out",
    'local = true\ntap = "a/b"': "5: {}.tap: 'a/b': cannot be the name of an interface; "
    "use up to 15 letters, digits and dashes",
    'local = true\ndevice = ["csum"]': "5: {}.device[0]: not a property of a QEMU device; "
    'write it as "csum=off"',
    'switch = "lan"\nmac = "53:54:00:00:00:01"': "5: {}.mac: 53:54:00:00:00:01: a multicast "
    "address; the first octet must be even, as in 52:54:00:12:34:56",
    'switch = "lan"\nlocked = true\nmac = "x"': "6: {}.mac: x: not an Ethernet address; "
    "write six octets as 52:54:00:12:34:56",
    'switch = "lan"\nmac = true': '5: {}.mac: true or false, where text belongs; write mac="…"',
    'switch = "lan"\nip = "192.0.2.1"': "5: {}.ip: of a port that is locked; add locked",
    'local = true\nip = ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"]': "5: {}.ip: "
    "more than 4 of IPv4; use fewer, or larger",
    'switch = "lan"\nfeatures = ["host_uso"]': "5: {}.features[0]: host_uso: write the name after "
    'a sign, as in "-host_uso"',
    'switch = "lan"\nfeatures = ["+host_uzo"]': "5: {}.features[0]: +host_uzo: no such feature; "
    "did you mean host_uso?",
    'switch = "lan"\nfeatures = [\n"-csum",\n"+host_uso"]': "7: {}.features[1]: +host_uso: needs "
    "+csum; leave -csum out or +host_uso out",
    'switch = "lan"\nmtu = 1': "5: {}.mtu: 1: out of range; use a number from 68 to 65535",
    'switch = "lan"\nclient = true': "5: {}.client: no such key; did you mean link?",
}


@pytest.mark.parametrize(("text", "says"), NIC_MISTAKES.items(), ids=NIC_MISTAKES)
def test_mistake_in_an_interface(text: str, says: str) -> None:
    """An interface's key is told with the machine and the number of the interface."""
    text = f"[switch.lan]\n[vm.a]\n[[vm.a.interface]]\n{text}\n"
    assert [says.format("vm.a.interface[0]")] == mistakes(text)


def test_all_mistakes_come_at_once_in_their_order() -> None:
    """Whatever is wrong, in however many tables, is told in one run, by line."""
    assert [
        "2: nam: no such key; did you mean name?",
        "4: switch.lan.locked: text; write true or false, without quotes",
        "6: vm.web.memory: not a size; write it as 512M or 10G",
        "9: vm.web.interface[0].switch: lam: no such switch; did you mean lan?",
        "10: vm.web.interface[0].mac: 1: not an Ethernet address; "
        "write six octets as 52:54:00:12:34:56",
        "12: port.out.switch: wan: no such switch; did you mean lan?",
    ] == mistakes(
        """
        nam = "x"
        [switch.lan]
        locked = "yes"
        [vm.web]
        memory = "1 G"
        cpus = 2
        [[vm.web.interface]]
        switch = "lam"
        mac = "1"
        [port.out]
        switch = "wan"
        tap = "vio0"
        """
    )


TWICE = {
    '[vm.b]\n[[vm.b.interface]]\nswitch = "lan"\nmac = "52:54:00:00:00:01"': "13: vm.b.interface[0]"
    ".mac: 52:54:00:00:00:01 is taken by vm.a.interface[0].mac too; change one of them",
    '[port.x]\nswitch = "lan"\ntap = "t"\nmac = "52:54:00:00:00:01"': "6: vm.a.interface[0].mac: "
    "52:54:00:00:00:01 is taken by port.x.mac too; change one of them",
    '[port.x]\nswitch = "lan"\ntap = "web-out"': "9: vm.a.interface[1].tap: tap:web-out is taken "
    "by port.x.tap too; change one of them",
    '[port."a.0"]\nswitch = "lan"\ntap = "t"': "4: vm.a.interface[0]: the name a.0 is taken by "
    "port.a.0 too; change one of them",
    '[switch."a.1"]': "7: vm.a.interface[1]: the name a.1 is taken by switch.a.1 too; "
    "change one of them",
    '[vm.b]\ndisk = ["o.img", "d.img"]': "11: vm.b.disk[1]: /etc/vionet/d.img is a disk of vm.a "
    "too; give each its own, or make it read_only for both",
}


@pytest.mark.parametrize(("text", "says"), TWICE.items(), ids=TWICE)
def test_what_two_claim(text: str, says: str) -> None:
    """Names, addresses, taps and disks that are there once are not given to two."""
    head = '[switch.lan]\n[vm.a]\ndisk = "d.img"\n'
    nics = '[[vm.a.interface]]\nswitch = "lan"\nmac = "52:54:00:00:00:01"\n'
    nics += '[[vm.a.interface]]\nlocal = true\ntap = "web-out"\n'
    assert len(read(head + nics).vms) == 1
    assert [says] == mistakes(head + nics + text)


def test_what_two_may_share() -> None:
    """A disk that nobody writes to, an address on two switches, a tap in two namespaces."""
    disk = 'disk = {path = "d.img", read_only = true}\n'
    mac = 'mac = "52:54:00:00:00:01"\n'
    text = '[switch.a]\n[switch.b]\nnetns = "n"\n'
    for name in "ab":
        text += f'[vm.{name}]\n{disk}[[vm.{name}.interface]]\nswitch = "{name}"\n{mac}'
        text += f'[port.{name}]\ntap = "t"\nswitch = "{name}"\n'
    assert ["a", "b"] == [entry.vm.name for entry in read(text).vms]


def test_names_fit_with_what_is_made_of_them() -> None:
    """A machine's name has room for its ports' names."""
    name = "m" * 30
    text = f"[switch.lan]\n[vm.{name}]\n{BOOTS}[[vm.{name}.interface]]\n"
    assert len(read(text + 'switch = "lan"\n').vms) == 1
    (found,) = mistakes(text + "local = true\n")
    assert f"{name}.0-host' cannot be a name" in found
    assert found.startswith(f"2: vm.{name}: ")


def test_local_interfaces_have_room() -> None:
    """A prefix that is too small for the file's interfaces is refused."""
    nics = "[[vm.a.interface]]\nlocal = true\n"
    text = f'[local]\nprefix = "192.0.2.0/29"\n[vm.a]\n{BOOTS}{nics * 3}'
    assert len(read(text).vms[0].interfaces) == 3
    assert ["2: local.prefix: 4 local interfaces, and addresses for 3; take a larger prefix"] == (
        mistakes(text + nics)
    )
    text = text.replace('prefix = "192.0.2.0/29"', 'inet6 = "fd00::/63"')
    assert ["2: local.inet6: 3 local interfaces, and addresses for 2; take a larger prefix"] == (
        mistakes(text)
    )


def test_switch_has_room() -> None:
    """A switch with more ports than the engine has room for is refused before it runs."""
    ports = "".join(f'[port.p{k}]\nswitch = "lan"\ntap = "t{k}"\n' for k in range(PORTS_MAX - 1))
    nic = '[[vm.a.interface]]\nswitch = "lan"\n'
    text = f"[switch.lan]\n{ports}[vm.a]\n{BOOTS}{nic}"
    assert len(read(text).vms) == 1
    assert ["1: switch.lan: 65 ports, and 64 at most; use two switches"] == mistakes(text + nic)


def test_numbers_of_any_length() -> None:
    """A number that Python would not write out is a mistake like another."""
    long = "0x" + "f" * 6000
    (found,) = mistakes(f"[switch.a]\n[vm.b]\n{BOOTS}[[vm.b.interface]]\nmtu = {long}\n")
    assert found.startswith("5: vm.b.interface[0].mtu: ")
    assert len(mistakes(f"[switch.a]\ngroup = {long}\nworkers = {long}\n")) == 2


def test_mistakes_without_end() -> None:
    """A file of nothing but mistakes is told of until it is enough, and says so."""
    found = mistakes("\n".join(f"a{k} = 1" for k in range(5000)))
    assert len(found) == 101
    assert found[-1] == "1: there may be more mistakes; mend these first"
    names = mistakes("\n".join(f"[switch.s{k}]" for k in range(1025)))
    assert ["1: switch: 1025 of them, and 1024 at most; use several files"] == names
    nics = f"[vm.a]\n{BOOTS}" + "[[vm.a.interface]]\n" * 257
    assert ["3: vm.a.interface: 257 items, and 256 at most; use fewer"] == mistakes(nics)


def test_pinned_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processors that we may use, not more than workers."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert (1, 0) == read("[switch.a]\npin = [1, 0]\nworkers = 2").switches[0].fabric.cores
    assert [
        "2: switch.a.pin: 2 cores for workers=1; name fewer, or have more workers",
        "4: switch.b.pin: 5: no core that we may use, which are 0-1",
    ] == mistakes("[switch.a]\npin = [1, 0]\n[switch.b]\npin = [5]")
