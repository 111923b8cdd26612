"""The PORT grammar: what is understood, and that every mistake gets one line that helps."""

from ipaddress import ip_interface

import pytest

from vionet.config import ConfigError, Kind, parse_port
from vionet.config.feature import check_dependencies
from vionet.engine.status import Policy
from vionet.spec import virtio
from vionet.spec import virtio_net as net

EVERYTHING = virtio.mask(
    [
        virtio.VIRTIO_F_VERSION_1,
        virtio.VIRTIO_F_ANY_LAYOUT,
        virtio.VIRTIO_F_INDIRECT_DESC,
        virtio.VIRTIO_F_EVENT_IDX,
        virtio.VHOST_USER_F_PROTOCOL_FEATURES,
        net.VIRTIO_NET_F_MRG_RXBUF,
        net.VIRTIO_NET_F_CSUM,
        net.VIRTIO_NET_F_GUEST_CSUM,
    ]
)
CSUMS = virtio.mask([net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_GUEST_CSUM])


def test_plain_guest_offers_all_that_is_built() -> None:
    """A guest without options offers exactly the features of this version, policy uniform."""
    port = parse_port("a", "guest:/run/a.sock")
    assert port.features == EVERYTHING
    assert (port.name, port.kind, port.where) == ("a", Kind.GUEST, "/run/a.sock")
    assert port.policy is Policy.UNIFORM
    assert (port.mac, port.mtu, port.mode, port.group, port.fd) == (None,) * 5
    assert not (port.locked or port.isolated or port.client)


def test_every_guest_option_is_kept() -> None:
    """Each option of a guest ends up in the field of its name."""
    port = parse_port(
        "a",
        "guest:/run/a.sock,mac=52:54:00:AB:cd:ef,locked,isolated,policy=natural,mtu=9000,"
        "mode=0660,group=kvm,queues=1,offload=csum",
    )
    assert port.mac == 0x525400ABCDEF
    assert port.mac_text == "52:54:00:ab:cd:ef"
    assert port.locked
    assert port.isolated
    assert port.policy is Policy.NATURAL
    assert port.mtu == 9000
    assert port.mode == 0o660
    assert port.group == "kvm"


def test_client_and_complete() -> None:
    """`client` and the third policy are understood."""
    port = parse_port("a", "guest:/a,client,policy=complete")
    assert port.client
    assert port.policy is Policy.COMPLETE


def test_tap_options_are_kept() -> None:
    """A tap takes several addresses of both families, and offers checksum features only."""
    port = parse_port("t", "tap:vio0,address=192.0.2.1/24,address=fd00::1/64,mtu=1400")
    assert port.kind is Kind.TAP
    assert port.address == (ip_interface("192.0.2.1/24"), ip_interface("fd00::1/64"))
    assert port.features == CSUMS
    assert port.takes_partial
    assert port.gives_partial


def test_tap_by_descriptor_needs_no_name() -> None:
    """`fd=N` says which tap it is; a name is then only a check."""
    assert parse_port("t", "tap:,fd=5").fd == 5
    assert parse_port("t", "tap:vio0,fd=5").where == "vio0"


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ("offload=off", CSUMS),
        ("offload=full", 0),
        ("offload=csum", 0),
        ("-csum", 1 << net.VIRTIO_NET_F_CSUM),
        ("-guest_csum", 1 << net.VIRTIO_NET_F_GUEST_CSUM),
        ("offload=off,+guest_csum", 1 << net.VIRTIO_NET_F_CSUM),
        ("+csum,offload=off", 1 << net.VIRTIO_NET_F_GUEST_CSUM),
        ("-mrg_rxbuf,-event_idx", 1 << net.VIRTIO_NET_F_MRG_RXBUF | 1 << 29),
        ("-indirect_desc", 1 << virtio.VIRTIO_F_INDIRECT_DESC),
    ],
)
def test_offload_words(options: str, gone: int) -> None:
    """A preset chooses the word and single features change it, in any order."""
    assert parse_port("a", f"guest:/a,{options}").features == EVERYTHING & ~gone


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
        # not built yet is refused, never ignored
        ("interface:eth1", "interface: not built yet"),
        ("stream:/a", "stream: not built yet"),
        ("guest:/a,vlan=10", "vlan=10: not built yet"),
        ("guest:/a,trunk=10+20", "trunk=10+20: not built yet"),
        ("guest:/a,queues=4", "queues=4: not built yet"),
        ("guest:/a,+guest_tso4", "+guest_tso4: not built yet"),
        ("guest:/a,-ring_packed", "-ring_packed: not built yet"),
        # unknown words
        ("guest:/a,polcy=uniform", "polcy=uniform: no such option; did you mean policy?"),
        ("guest:/a,", "empty: no such option"),
        ("guest:/a,zzz", "use one of mac, locked"),
        ("guest:/a,policy=uniforn", "did you mean uniform?"),
        ("guest:/a,offload=on", "offload=on: no such preset"),
        ("guest:/a,+gest_csum", "did you mean guest_csum?"),
        ("guest:/a,+", "no such feature"),
        ("guest:/a,+protocol_features", "no such feature"),
        ("guest:/a,+mac", "use mac="),
        ("guest:/a,-version_1", "always offered"),
        ("guest:/a,+csum,-csum", "named twice"),
        ("tap:vio0,-event_idx", "a tap has no such feature; use csum, guest_csum"),
        # values
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
        ("tap:vio0,client", "an option of guest: ports"),
        ("tap:vio0,mode=0660", "an option of guest: ports"),
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


def test_dependencies_are_the_specifications() -> None:
    """A word in which a feature lacks its prerequisite is refused with both names."""
    with pytest.raises(ConfigError, match=r"\+guest_tso4: needs \+guest_csum"):
        check_dependencies(1 << net.VIRTIO_NET_F_GUEST_TSO4, "guest:/a")
    with pytest.raises(ConfigError, match=r"\+host_ecn: needs \+host_tso4 or \+host_tso6"):
        check_dependencies(
            virtio.mask([net.VIRTIO_NET_F_CSUM, net.VIRTIO_NET_F_HOST_ECN]), "guest:/a"
        )
    check_dependencies(EVERYTHING, "guest:/a")
