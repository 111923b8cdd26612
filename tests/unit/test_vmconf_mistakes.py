"""What a vm.conf may get wrong: each mistake with its line, all of them in one run."""

from pathlib import Path

import pytest

from tests.vmconf import mistakes, warnings

VM = 'vm "a" {\n disk "/a.img"\n'


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # Statements.
        ("swich a { }", "1: swich begins no statement; did you mean switch?"),
        (
            "vm\n",
            "1: the end of the line where NAME belongs; write vm NAME [instance INSTANCE] {vm}",
        ),
        ('vm "a"', "1: the end of the file where { belongs; write vm NAME"),
        ("vm 5 { disk /a }", "1: 5 where NAME belongs; put it in quotes"),
        ("switch net { up }", "1: net where NAME belongs; put it in quotes"),
        ("local", "1: local what? write local inet6 [prefix PREFIX] or local prefix PREFIX"),
        (
            "local prefix\n",
            "1: the end of the line where PREFIX belongs; write local prefix PREFIX",
        ),
        ("local inet6 prefix\n", "1: the end of the line where PREFIX belongs"),
        ("local inet6 fd00::/48", "1: 'fd00::/48' is too much here"),
        ("staggered start parallel 4\n", "1: the end of the line where delay belongs"),
        ("}", "1: '}' begins no statement"),
        (VM + "memory 1G disk /b\n}", "3: disk is too much here; end the line in front of it"),
        (VM + "group lan\n}", "3: group begins no statement of vm"),
        (VM + "boot device usb\n}", "3: usb where cdrom|disk|net belongs"),
        (VM + "boot device\n}", "3: the end of the line where cdrom|disk|net belongs"),
        (VM + "boot\n}", "3: the end of the line where PATH belongs; write boot PATH"),
        (VM + "interface { group }\n}", "3: '}' where GROUP belongs; write group GROUP"),
        (VM + "interface { disk /b }\n}", "3: disk begins no statement of interface"),
        (VM + "locked lladdr\n}", "3: locked begins no statement of vm"),
        (VM + "local disk\n}", "3: local what? write [local] interface [TAP] [<interface>]"),
        (VM + "allow instance\n}", "3: the end of the line where { belongs"),
        (VM + "allow disk\n}", "3: allow what? write allow instance <allow>"),
        (VM + "allow instance { format }\n}", "3: format begins no statement of allow"),
        ('switch "a" {\n locked\n}', "2: locked what? write locked lladdr"),
        # Blocks.
        (VM, "1: this { is never closed; write } where it ends"),
        (VM + 'vm "b" { disk /b }', "1: this { is never closed"),
        (VM + 'switch "b" { up }', "1: this { is never closed"),
        # Values.
        ("local prefix 100.64.0.0/33", "1: local prefix: "),
        ("local prefix 100.64.0.1/10", "1: local prefix: "),
        ("local prefix fd00::/48", "1: local prefix: "),
        ("local inet6 prefix 10.0.0.0/8", "1: local inet6: "),
        ("local inet6 prefix fd00::/65", "1: local inet6: "),
        ("socket owner a:b:c", "1: socket owner: not an account"),
        (VM + "memory lots\n}", "3: memory: lots is no size; write it as 512M or 1.5G"),
        (VM + "memory 512MB\n}", "3: memory: 512MB is no size"),
        (VM + "memory 1K\n}", "3: memory: 1K is out of range"),
        (VM + "memory 999999E\n}", "3: memory: 999999E is out of range"),
        (VM + "cpus 0\n}", "3: cpus: 0 is out of range; use a number from 1 to 512"),
        (VM + "cpus two\n}", "3: two where N belongs; write cpus N"),
        (VM + "interfaces -1\n}", "3: interfaces: -1 is out of range"),
        (VM + "interfaces 33\n}", "3: interfaces: 33 is out of range"),
        (VM + "local interface\n" * 33 + "}", "35: interface: more than 32; leave some out"),
        (VM + "owner :\n}", "3: owner: not an account"),
        (VM + "disk /b format vmdk\n}", "3: disk: format vmdk is not known here; use qcow2 or raw"),
        (VM + 'cdrom ""\n}', "3: cdrom: "),
        (VM + "interface { rdomain 256 }\n}", "3: rdomain: 256 is out of range"),
        (VM + "interface { group vms0 }\n}", "3: group: 'vms0' names no group"),
        (VM + 'interface { group "" }\n}', "3: group: '' names no group"),
        (VM + "interface { group abcdefghijklmnop }\n}", "3: group: 'abcdefghijklmnop' names no"),
        (VM + "interface { lladdr 1:2:3:4:5 }\n}", "3: lladdr: mac=01:02:03:04:05: not an"),
        (VM + "interface { lladdr 01:00:5e:00:00:01 }\n}", "a multicast address"),
        (VM + "interface tap/0\n}", "3: interface: 'tap/0': cannot be the name of an interface"),
        ("switch a { interface 'eth 1' }", "1: interface: "),
        ("switch a { interface abcdefghijklmnopq }", "at most 15 bytes"),
        ("switch a { rdomain -1 }", "1: rdomain: -1 is out of range"),
        ("switch 'a b' { up }", "1: switch: 'a b' cannot be a name"),
        ("vm '../a' { disk /a }", "1: vm: '../a' cannot be a name"),
        # Twice.
        (VM + "memory 1G\nmemory 2G\n}", "4: memory: given at /etc/vm.conf:3 too; keep one"),
        (VM + "boot /a\nboot /b\n}", "4: boot: given at /etc/vm.conf:3 too; keep one of them"),
        (VM + "cdrom /a\ncdrom /b\n}", "4: cdrom: given at /etc/vm.conf:3 too; keep one of them"),
        (VM + "interfaces 1\ninterfaces 1\n}", "4: interfaces: given at /etc/vm.conf:3 too"),
        (VM + "}\n" + VM + "}", "4: vm: a is there already, at /etc/vm.conf:1; rename one"),
        ("switch a { up }\nswitch a { up }", "2: switch: a is there already, at /etc/vm.conf:1"),
        (VM + "}\nvm a instance a { enable }", "4: vm: a is there already"),
        # Things that do not go together.
        ("switch a { interface eth1 }\nswitch b { interface eth1 }", "2: interface:eth1 is taken"),
        ("local prefix 10.0.0.0/30\n" + VM + "local interface\nlocal interface\n}", "1: 2 local"),
        (VM + "boot device cdrom\n}", "3: "),
        ("switch a.0 { up }\n" + VM + "local interface\n}", "4: the name a.0 is taken by switch"),
        (
            VM + "local interface {\n switch s\n}\n}\nswitch s { up }",
            "4: switch: of a local interface",
        ),
        (VM + "interface {\n switch lna\n}\n}\nswitch lan { up }", "did you mean lan?"),
        (VM + "}\nvm b { disk /a.img }", "4: "),
        (VM + "interface { switch s lladdr 2:0:0:0:0:1 }\n" * 2 + "}\nswitch s { up }", "4: "),
        ("vm a instance b { disk /b }", "1: vm: a: no such machine above; write it first"),
        (VM + "}\nvm b instance c { enable }", "4: vm: b: no such machine above; use one of a"),
        (VM + "}\nvm a instance b { disk /a.img }", "4: "),
        ("vm a { enable }", "1: "),
    ],
)
def test_mistake(text: str, says: str) -> None:
    """One mistake is one line that says where, what and how to mend it."""
    (found,) = mistakes(text)
    assert says in found
    assert "\n" not in found


def test_many_mistakes_in_order() -> None:
    """One run finds them all, what is wrong with the whole in its place among the others."""
    text = """socket owner a:b:c
vm "a" {
  disk /a.img
  memroy 1G
  memory none
  interface { switch lan }
  interface {
    group vms1
    swich lan
  }
  $nothing
}
vm "b" {
  cpus 9999
  dsk { whatever
    memory 0
  }
  disk /b.img
}
vm 1 {
  memory also
}
switch "s" {
  interface "so long a name"
  rdomain 1000
"""
    numbers = [int(found.partition(":")[0]) for found in mistakes(text)]
    assert [1, 4, 5, 6, 8, 9, 11, 14, 15, 20, 23, 24, 25] == numbers


def test_open_blocks_are_told_each() -> None:
    """Each brace that is never closed is told where it stands."""
    assert ["2", "4"] == [
        one.partition(":")[0]
        for one in mistakes("switch lan { up }\n" + VM + "interface {\n switch lan\n")
    ]
    # vmd wants the brace on the line of what it belongs to; so do we.
    assert ["1", "2"] == [one.partition(":")[0] for one in mistakes('vm "a"\n{\n cpus 0\n}')]


def test_mistakes_are_bounded() -> None:
    """A file of nothing but mistakes does not fill the terminal."""
    found = mistakes("bogus\n" * 5000)
    assert 1001 == len(found)
    assert "1000: 1000 mistakes; mend these first" == found[-1]


def test_a_broken_machine_is_judged_by_what_it_says() -> None:
    """A machine whose disk cannot be read is not told to have nothing to boot from as well."""
    assert 1 == len(mistakes("vm a { disk /a format vdi }"))
    assert 1 == len(mistakes("vm b instance a { enable }"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("agentx", "1: agentx: nothing is told"),
        ("agentx context x path /run/master", "1: agentx: nothing is told"),
        ("socket owner root", "1: socket owner: the control socket asks whose"),
        (
            "staggered start parallel 2 delay 30",
            "1: staggered start parallel: all machines are started",
        ),
        ("switch a { interface veb0 }", "1: interface: veb0: a device of OpenBSD"),
        ("switch a { interface bridge1 }", "1: interface: bridge1: a device of OpenBSD"),
        ("switch a { group vms }", "1: group: vms: machines have no tap on the host"),
        (VM + "sev\n}", "3: sev: the machine's memory is not encrypted"),
        (VM + "seves\n}", "3: seves: the machine's memory and registers are not"),
        (VM + "owner nobody-knows-them\n}", "3: there is no user nobody-knows-them"),
        (VM + "interface\n}", "3: interface: neither local nor on a switch"),
        (VM + "interfaces 2\n}", "3: interfaces: those that no interface describes"),
        (VM + "cpus 1\ncpus 2\n}", "3: cpus: the one at /etc/vm.conf:4 holds"),
    ],
)
def test_warning(text: str, says: str) -> None:
    """What has no meaning here is named, with its line."""
    (found,) = warnings(text)
    assert found.startswith(says)


def test_warning_of_a_tap_that_is_none() -> None:
    """A NIC on a switch has no tap on the host, so no group, namespace or name of one."""
    text = VM + "interface tap1 { switch lan\n group vms\n rdomain 2 }\n}\nswitch lan { up }"
    assert [
        "3: interface: tap1: the name of a tap on the host, and a machine on a switch has none "
        "here; leave it out",
        "4: group: of a tap on the host, and a machine on a switch has none here; leave it out",
        "5: rdomain: of a tap on the host, and a machine on a switch has none here; leave it out",
    ] == warnings(text)


def test_warnings_are_no_mistakes(tmp_path: Path) -> None:
    """Missing disks are warned of: a file may be checked on another host."""
    found = mistakes(f'vm a {{ disk "{tmp_path}/none.img"\n cdrom /none.iso\n memory 0 }}')
    assert ["3: memory: 0 is out of range; use at least 1M, at most 1024T"] == found
