"""The PORT grammar: what is understood, and that every mistake gets one line that helps."""

import re
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from typing import Any

import pytest

from vionet.config import ConfigError, Kind, changed_port, option, parse_port
from vionet.config.feature import check_dependencies, preset_of
from vionet.config.port import can_follow
from vionet.engine import layout
from vionet.engine.status import Policy
from vionet.spec import virtio
from vionet.spec import virtio_net as net

RECEIVING = virtio.mask(
    bit for bit, name in virtio.NAMES.items()
    if re.fullmatch("VIRTIO_NET_F_GUEST_(TSO[46]|ECN|USO[46])", name)
)  # fmt: skip
SENDING = virtio.mask(
    [
        net.VIRTIO_NET_F_HOST_TSO4,
        net.VIRTIO_NET_F_HOST_TSO6,
        net.VIRTIO_NET_F_HOST_ECN,
        net.VIRTIO_NET_F_HOST_USO,
    ]
)
CSUM = 1 << net.VIRTIO_NET_F_CSUM
GUEST_CSUM = 1 << net.VIRTIO_NET_F_GUEST_CSUM
CSUMS = CSUM | GUEST_CSUM
FULL = CSUMS | SENDING | RECEIVING
EVERYTHING = FULL | virtio.mask(
    [
        virtio.VIRTIO_F_VERSION_1,
        virtio.VIRTIO_F_ANY_LAYOUT,
        virtio.VIRTIO_F_INDIRECT_DESC,
        virtio.VIRTIO_F_EVENT_IDX,
        virtio.VIRTIO_F_IN_ORDER,
        virtio.VHOST_USER_F_PROTOCOL_FEATURES,
        net.VIRTIO_NET_F_MRG_RXBUF,
    ]
)
PACKED = 1 << virtio.VIRTIO_F_RING_PACKED


def test_plain_guest_offers_all_that_is_built() -> None:
    """A guest without options offers exactly what `full` means, policy uniform, one queue pair,
    no VLANs, the link up."""
    port = parse_port("a", "guest:/run/a.sock")
    assert port.features == EVERYTHING
    assert (port.name, port.kind, port.where) == ("a", Kind.GUEST, "/run/a.sock")
    assert port.policy is Policy.UNIFORM
    assert (port.mac, port.mtu, port.mode, port.group, port.fd) == (None,) * 5
    assert (port.queues, port.speed, port.vlan, port.trunk) == (1, None, None, None)
    assert (True, False, False, False) == (port.link_up, port.locked, port.isolated, port.client)


def test_every_guest_option_is_kept() -> None:
    """Each option of a guest ends up in the field of its name."""
    port = parse_port(
        "a",
        "guest:/run/a.sock,mac=52:54:00:AB:cd:ef,locked,isolated,policy=natural,mtu=9000,"
        "mode=0660,group=kvm,queues=8,speed=25000,vlan=4094,trunk=1+7,link=down",
    )
    assert port.mac == 0x525400ABCDEF
    assert port.mac_text == "52:54:00:ab:cd:ef"
    assert port.locked
    assert port.isolated
    assert port.policy is Policy.NATURAL
    assert port.mtu == 9000
    assert port.mode == 0o660
    assert port.group == "kvm"
    assert (port.queues, port.speed) == (8, 25000)
    assert (port.vlan, port.trunk) == (4094, 1 << 1 | 1 << 7)
    assert not port.link_up


def test_client_and_complete() -> None:
    """`client` and the third policy are understood."""
    port = parse_port("a", "guest:/a,client,policy=complete")
    assert port.client
    assert port.policy is Policy.COMPLETE


def test_tap_options_are_kept() -> None:
    """A tap takes several addresses of both families, and offers the offloads only."""
    port = parse_port("t", "tap:vio0,address=192.0.2.1/24,address=fd00::1/64,mtu=1400")
    assert port.kind is Kind.TAP
    assert port.address == (ip_interface("192.0.2.1/24"), ip_interface("fd00::1/64"))
    assert port.features == FULL
    assert port.takes_partial
    assert port.gives_partial


def test_interface_and_stream() -> None:
    """An interface has the offloads of a tap; a stream has none, and its socket's options."""
    port = parse_port("i", "interface:eth1,policy=natural,-host_uso,isolated,vlan=3")
    assert (port.kind, port.where) == (Kind.INTERFACE, "eth1")
    assert port.features == FULL & ~(1 << net.VIRTIO_NET_F_HOST_USO)
    stream = parse_port("s", "stream:/run/p.sock,mode=0660,group=kvm,mtu=1500,trunk=all")
    assert (stream.kind, stream.where, stream.features) == (Kind.STREAM, "/run/p.sock", 0)
    assert (stream.mode, stream.group, stream.mtu) == (0o660, "kvm", 1500)
    assert parse_port("s", "stream:/run/p.sock,client").client


def test_locked_to_ip_addresses() -> None:
    """Addresses and networks of both versions, of every kind of port; `none` is none."""
    lock = "mac=52:54:00:00:00:01,locked"
    for where in ("guest:/a", "tap:t", "interface:e", "stream:/a"):
        port = parse_port("a", f"{where},{lock},ip=192.0.2.1,ip=198.51.100.0/28,ip=fd00::/64")
        assert [ip_network(n) for n in ("192.0.2.1", "198.51.100.0/28", "fd00::/64")] == [*port.ip]
    assert () == parse_port("a", f"guest:/a,{lock},ip=none").ip
    changed = changed_port(port, ["ip=192.0.2.9", "ip=fd00::9"])
    assert replace(port, ip=(ip_network("192.0.2.9"), ip_network("fd00::9"))) == changed
    assert replace(port, ip=()) == changed_port(port, ["ip=none"])
    kept = replace(port, keep_off=(ip_network("100.64.0.0/10"),))
    assert can_follow(port, kept) and can_follow(kept, port)
    with pytest.raises(ConfigError, match="a local interface keeps its lock"):
        changed_port(kept, ["ip=none"])


def test_network_namespace_of_a_tap() -> None:
    """A name or a path, of what the kernel has; a service is nothing that people write."""
    assert "web" == parse_port("t", "tap:vio0,netns=web").netns
    assert "/proc/7/ns/net" == parse_port("i", "interface:eth1,netns=/proc/7/ns/net").netns
    with pytest.raises(ConfigError, match="service: no kind of port; use one of guest, tap, "):
        parse_port("s", "service:/a")


def test_tap_by_descriptor_needs_no_name() -> None:
    """`fd=N` says which tap it is; a name is then only a check."""
    assert parse_port("t", "tap:,fd=5").fd == 5
    assert parse_port("t", "tap:vio0,fd=5").where == "vio0"


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ("offload=off", FULL),
        ("offload=full", 0),
        ("offload=csum", SENDING | RECEIVING),
        # what a removed feature carried goes with it, and nothing else
        ("-csum", CSUM | SENDING),
        ("-guest_csum", GUEST_CSUM | RECEIVING),
        ("-guest_tso4,-guest_tso6", RECEIVING & ~(1 << 54 | 1 << 55)),
        ("-host_tso4", 1 << net.VIRTIO_NET_F_HOST_TSO4),
        ("offload=off,+guest_csum", FULL & ~GUEST_CSUM),
        ("+csum,offload=off", FULL & ~CSUM),
        ("offload=csum,+guest_ecn,+guest_tso6", FULL & ~(CSUMS | 1 << 8 | 1 << 9)),
        ("-mrg_rxbuf,-event_idx", 1 << net.VIRTIO_NET_F_MRG_RXBUF | 1 << 29),
        ("-indirect_desc", 1 << virtio.VIRTIO_F_INDIRECT_DESC),
        ("-ring_packed", 0),
        ("-in_order", 1 << virtio.VIRTIO_F_IN_ORDER),
    ],
)
def test_w24_offload_words(options: str, gone: int) -> None:
    """A preset chooses the word and single features change it, in any order."""
    port = parse_port("a", f"guest:/a,{options}")
    assert port.features == EVERYTHING & ~gone
    assert virtio.unmet(port.features) == []


def test_packed_rings_on_request() -> None:
    """Packed rings are offered where they are asked for, and only there."""
    assert parse_port("a", "guest:/a,+ring_packed").features == EVERYTHING | PACKED


@pytest.mark.parametrize(
    ("text", "preset"),
    [
        ("guest:/a", "full"),
        ("guest:/a,offload=csum,-mrg_rxbuf", "csum"),
        ("tap:t,offload=off", "off"),
        ("guest:/a,-host_uso", "custom"),
        ("stream:/a", "off"),
    ],
)
def test_word_has_a_name(text: str, preset: str) -> None:
    """The preset that a word amounts to is found again."""
    assert preset_of(parse_port("a", text).features) == preset


@pytest.mark.parametrize(
    ("text", "vids"),
    [
        ("10", {10}),
        ("10+20+30-40", {10, 20, *range(30, 41)}),
        ("1-4094", set(range(1, 4095))),
        ("all", set(range(1, 4095))),
        ("4094+1+5-5", {1, 5, 4094}),
        ("10-12+11-20", set(range(10, 21))),
    ],
)
def test_trunks(text: str, vids: set[int]) -> None:
    """A trunk's text is the set of VLANs that it says; written again it reads the same."""
    word = parse_port("a", f"guest:/a,trunk={text}").trunk
    assert word == sum(1 << vid for vid in vids)
    assert option.trunk(option.trunk_text(word)) == word
    assert option.trunk_text(option.ALL_VLANS) == "all"
    assert option.trunk_text(0b1101110110) == "1-2+4-6+8-9"


def test_tap_offload_off() -> None:
    """A tap with offload=off neither gives nor takes partial checksums."""
    port = parse_port("t", "tap:vio0,offload=off")
    assert port.features == 0
    assert not port.takes_partial
    assert not port.gives_partial


@pytest.mark.parametrize(
    ("text", "says"),
    [
        # kinds and places
        ("", "no kind of port"),
        ("/run/a.sock", "write KIND:WHERE"),
        ("guest", "write guest:/run/a.sock"),
        ("gest:/a", "did you mean guest?"),
        ("guest:", "no socket"),
        ("guest:/" + "x" * 107, "shorten it"),
        ("guest:/a\0b", "zero byte"),
        ("tap:", "no interface"),
        ("tap:a-name-of-16-chr", "at most 15 bytes"),
        ("tap:a/b", "cannot be the name"),
        ("tap:vio%d", "cannot be the name"),
        ("tap:..", "cannot be the name"),
        # unknown words
        ("guest:/a,polcy=uniform", "polcy=uniform: no such option; did you mean policy?"),
        ("guest:/a,", "empty: no such option"),
        ("guest:/a,zzz", "use one of mac, locked"),
        ("guest:/a,policy=uniforn", "did you mean uniform?"),
        ("guest:/a,offload=on", "offload=on: no such preset"),
        ("guest:/a,+gest_csum", "did you mean guest_csum?"),
        ("guest:/a,+", "no such feature"),
        ("guest:/a,+protocol_features", "no such feature"),
        ("guest:/a,+rss", "vionet does not have it"),
        ("guest:/a,-host_ufo", "vionet does not have it"),
        ("guest:/a,+mq", "use queues="),
        ("guest:/a,+speed_duplex", "use speed="),
        ("stream:/a,+csum", "a stream has no features"),
        ("interface:e,+ring_packed", "guests only"),
        # a feature without what it needs
        ("guest:/a,offload=off,+guest_tso4", "+guest_tso4: needs +guest_csum; add it or"),
        ("guest:/a,offload=off,+host_uso", "+host_uso: needs +csum; add it or leave host_uso"),
        ("tap:t,offload=csum,+host_ecn", "needs +host_tso4 or +host_tso6; add one or"),
        ("guest:/a,-guest_csum,+guest_uso6", "leave -guest_csum out or +guest_uso6 out"),
        ("guest:/a,-host_tso4,-host_tso6,+host_ecn", "leave -host_tso4 and -host_tso6 out or"),
        ("guest:/a,+mac", "use mac="),
        ("guest:/a,-version_1", "always offered"),
        ("guest:/a,+csum,-csum", "named twice"),
        ("tap:vio0,-event_idx", "-event_idx: guests only; this port has csum, guest_csum"),
        # values
        ("guest:/a,queues=0", "from 1 to 8"),
        ("guest:/a,queues=9", "from 1 to 8"),
        ("guest:/a,speed=0", "from 1 to 2147483647"),
        ("guest:/a,speed=10G", "not a number"),
        ("guest:/a,link=off", "link=off: neither; use up or down"),
        ("guest:/a,vlan=0", "from 1 to 4094"),
        ("guest:/a,ip=192.0.2.1", "ip: the port is not locked; add locked and mac="),
        ("guest:/a,ip=192.0.2.1/24", "not where the network begins; write 192.0.2.0/24"),
        ("guest:/a,ip=localhost", "not an address; write it as 192.0.2.1 or fd00::1"),
        ("guest:/a,ip=224.0.0.1", "not an address that a guest can have"),
        ("guest:/a,ip=0.0.0.0/0", "not an address that a guest can have"),
        ("guest:/a,ip=fe80::1%eth0", "not an address that a guest can have"),
        ("guest:/a,mac=52:54:00:00:00:01,locked" + ",ip=192.0.2.1" * 5, "more than 4 of IPv4"),
        ("guest:/a,netns=web", "an option of tap: and interface: ports"),
        ("tap:t,netns=a/b", "no name of a network namespace; write one as in netns=web"),
        ("tap:t,netns=..", "no name of a network namespace"),
        ("tap:t,netns=/a\0b", "zero byte"),
        ("tap:t,fd=5,netns=web", "netns: whoever opened fd sets the tap up"),
        ("guest:/a,vlan=4095", "from 1 to 4094"),
        ("guest:/a,vlan=10+20", "not a number"),
        ("guest:/a,trunk", "trunk needs a value"),
        ("guest:/a,trunk=10+", "empty: not a number; use one from 1 to 4094; or write VLANs as"),
        ("guest:/a,trunk=10-5000", "10-5000: out of range; use a number from 10 to 4094"),
        ("guest:/a,trunk=20-10", "20-10: out of range; use a number from 20 to 4094"),
        ("guest:/a,trunk=4095", "4095: out of range"),
        ("guest:/a,mac", "mac needs a value"),
        ("guest:/a,mac=", "mac needs a value"),
        ("guest:/a,mac=52:54:00:12:34", "six octets"),
        ("guest:/a,mac=53:54:00:12:34:56", "multicast"),
        ("guest:/a,mac=ff:ff:ff:ff:ff:ff", "broadcast"),
        ("guest:/a,mac=00:00:00:00:00:00", "no address"),
        ("guest:/a,locked=yes", "locked takes no value"),
        ("guest:/a,locked", "add mac="),
        ("guest:/a,mtu=67", "from 68 to 65535"),
        ("guest:/a,mtu=65536", "from 68 to 65535"),
        ("guest:/a,mtu=1e3", "not a number"),
        ("guest:/a,mtu=١٥٠٠", "not a number"),
        ("guest:/a,mtu=1500,mtu=1400", "given twice"),
        ("guest:/a,mode=0999", "octal"),
        ("guest:/a,mode=2660", "octal"),
        ("guest:/a,group=a b", "not the name of a group"),
        ("guest:/a,group=36", "not the name of a group"),
        ("tap:vio0,address=192.0.2.1", "prefix length"),
        ("tap:vio0,address=192.0.2.256/24", "not an address"),
        ("tap:vio0,address=224.0.0.1/24", "unicast"),
        ("tap:vio0,address=::/64", "unicast"),
        ("tap:vio0,fd=-1", "not a number"),
        # options that do not go together
        ("guest:/a,address=192.0.2.1/24", "an option of tap: ports"),
        ("guest:/a,fd=3", "an option of tap: ports"),
        ("tap:vio0,client", "an option of guest: and stream: ports"),
        ("interface:e,mode=0660", "an option of guest: and stream: ports"),
        ("tap:vio0,queues=2", "an option of guest: ports"),
        ("tap:vio0,speed=10", "an option of guest: ports"),
        ("interface:e,address=192.0.2.1/24", "an option of tap: ports"),
        ("stream:/a,policy=natural", "an option of guest:, tap: and interface: ports"),
        ("stream:/a,offload=off", "an option of guest:, tap: and interface: ports"),
        ("stream:/a,client,mode=0660", "makes no socket"),
        ("stream:", "no socket; write stream:/run/p.sock"),
        ("interface:", "write interface:eth1"),
        ("guest:/a,client,mode=0660", "makes no socket"),
        ("guest:/a,client,group=kvm", "makes no socket"),
        ("tap:vio0,fd=3,address=192.0.2.1/24", "whoever opened fd"),
    ],
)
def test_mistakes_get_one_line(text: str, says: str) -> None:
    """Each mistake is refused with one line that says where it is and how to mend it."""
    with pytest.raises(ConfigError) as caught:
        parse_port("a", text)
    line = str(caught.value)
    assert says in line
    assert "\n" not in line
    assert "\0" not in line or "\0" in text


def test_w24_dependencies_are_the_specifications() -> None:
    """A word in which a feature lacks its prerequisite is refused with both names."""
    with pytest.raises(ConfigError, match=r"\+guest_tso4: needs \+guest_csum"):
        check_dependencies(1 << net.VIRTIO_NET_F_GUEST_TSO4, "guest:/a")
    with pytest.raises(ConfigError, match=r"\+host_ecn: needs \+host_tso4 or \+host_tso6"):
        check_dependencies(
            virtio.mask([net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_HOST_ECN]), "guest:/a"
        )
    check_dependencies(EVERYTHING, "guest:/a")


def test_limits_are_the_engines() -> None:
    """The limits that are written down twice, to keep the compiler out of help, are equal."""
    assert (option.PAIRS_MAX, option.VLAN_MAX + 2) == (layout.PAIRS_MAX, layout.VLANS)


@pytest.mark.parametrize(
    ("pieces", "field", "value"),
    [
        (["policy=complete"], "policy", Policy.COMPLETE),
        (["link=down"], "link_up", False),
        (["isolated"], "isolated", True),
        (["isolated=on"], "isolated", True),
        (["isolated=off"], "isolated", False),
        (["vlan=7"], "vlan", 7),
        (["vlan=none"], "vlan", None),
        (["trunk=none"], "trunk", None),
        (["trunk=5-6"], "trunk", 0b1100000),
        (["offload=off"], "features", EVERYTHING & ~FULL),
        (["offload=csum", "+host_tso4"], "features", (EVERYTHING & ~FULL) | CSUMS | 1 << 11),
        (["-guest_csum"], "features", EVERYTHING & ~(GUEST_CSUM | RECEIVING)),
    ],
)
def test_change_in_use(pieces: list[str], field: str, value: Any) -> None:
    """What may change at run time changes that field and no other."""
    port = parse_port("a", "guest:/a,isolated,vlan=3,trunk=all")
    assert changed_port(port, pieces) == replace(port, **{field: value})


def test_single_features_add_up() -> None:
    """A feature changed alone leaves those that were changed before."""
    port = changed_port(parse_port("a", "guest:/a,-host_uso"), ["-guest_uso4"])
    assert port.features == EVERYTHING & ~(1 << 56 | 1 << 54)


@pytest.mark.parametrize(
    ("pieces", "says"),
    [
        (["mtu=9000"], "a: mtu=9000: mtu cannot change while in use: the driver has been told"),
        (["queues=2"], "queues cannot change while in use"),
        (["mac=52:54:00:00:00:09"], "mac cannot change while in use"),
        (["locked"], "locked cannot change while in use"),
        (["client"], "client cannot change while in use: the port was made with it; restart"),
        (["-mrg_rxbuf"], "mrg_rxbuf: cannot change while in use"),
        (["+ring_packed"], "ring_packed: cannot change while in use"),
        (["isolated=maybe"], "isolated=maybe: neither; use isolated=on or isolated=off"),
        (["link"], "link needs a value"),
        (["lnk=up"], "lnk=up: no such option; did you mean link?"),
        (["zzz"], "use one of ip, isolated, policy, offload, vlan, trunk, link"),
        (["policy=natural", "link=off"], "link=off: neither"),
        (["link=up", "link=down"], "link is given twice"),
        (["offload=off", "+guest_tso4"], "+guest_tso4: needs +guest_csum"),
        (["address=192.0.2.1/24"], "an option of tap: ports"),
    ],
)
def test_change_refused(pieces: list[str], says: str) -> None:
    """What cannot change says why and what to do, in one line."""
    with pytest.raises(ConfigError) as caught:
        changed_port(parse_port("a", "guest:/a"), pieces)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
