"""DHCP and BOOTP: scapy asks, and takes the answers apart."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from tests.asking import GATEWAY, GUEST, LEASE, RICH, SERVICE, dhcp, options, told
from vionet.services.answer import answer
from vionet.services.frame import Reason

OWN, HOST, OTHER = "100.64.0.3", "100.64.0.2", "100.64.0.9"
BROADCAST, ALL = "ff:ff:ff:ff:ff:ff", "255.255.255.255"


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (dhcp("discover"), 2),
        (dhcp("discover", ("requested_addr", OTHER)), 2),
        (dhcp("request", ("requested_addr", OWN)), 5),
        (dhcp("request"), 5),
        (dhcp("request", ("requested_addr", OWN), ("server_id", OTHER)), 5),
        (dhcp("request", ("requested_addr", OTHER)), 6),
        (dhcp("inform", ciaddr=OWN, ip={"src": OWN}), 5),
    ],
)
def test_kind_of_answer(asked: Any, kind: int) -> None:
    """DISCOVER: OFFER; REQUEST: ACK for the lease's address or none, else NAK; INFORM: ACK."""
    assert kind == options(told(asked))["message-type"]


@pytest.mark.parametrize("kind", ["discover", "request"])
def test_offer_and_ack_say_the_same(kind: str) -> None:
    """The same address, endless, with mask, router, resolver and server, every time."""
    reply = told(dhcp(kind))
    expected = {
        "message-type": {"discover": 2, "request": 5}[kind],
        "server_id": HOST,
        "lease_time": 0xFFFFFFFF,
        "subnet_mask": "255.255.255.254",
        "router": HOST,
        "name_server": HOST,
    }
    assert expected == options(reply)
    assert (OWN, HOST, 0x12345678) == (reply.yiaddr, reply.siaddr, reply.xid)
    assert (2, 1, 6, 0, 0) == (reply.op, reply.htype, reply.hlen, reply.hops, reply.secs)
    assert bytes.fromhex(GUEST.replace(":", "")) == reply.chaddr[:6]
    assert (67, 68) == (reply[UDP].sport, reply[UDP].dport)


def test_reply_comes_from_the_next_address() -> None:
    """Ethernet source: the guest's with the last octet plus one, which may wrap around."""
    reply = told(dhcp())
    assert (SERVICE, HOST) == (reply[Ether].src, reply[IP].src)


def test_reply_to_where_the_guest_listens() -> None:
    """Unicast to the guest, or broadcast where it asks for that; a NAK is always broadcast."""
    seen = [
        (reply[Ether].dst, reply[IP].dst, int(reply[BOOTP].flags))
        for reply in (
            told(dhcp()),
            told(dhcp(flags="B")),
            told(dhcp("request", ("requested_addr", OTHER))),
            told(dhcp("inform", ciaddr=OWN, flags="B")),
            told(dhcp("inform")),
        )
    ]
    everybody, alone = (BROADCAST, ALL), (GUEST, OWN)
    flags = 0x8000
    expected = [(*alone, 0), (*everybody, flags), (*everybody, 0), (*alone, flags), (*everybody, 0)]
    assert expected == seen


def test_nak_gives_nothing() -> None:
    """A NAK has no address, no server's address, no boot file and no lease."""
    reply = told(dhcp("request", ("requested_addr", OTHER)), RICH)
    assert {"message-type": 6, "server_id": HOST} == options(reply)
    assert ("0.0.0.0", "0.0.0.0", bytes(128)) == (reply.yiaddr, reply.siaddr, reply.file)


def test_inform_gives_no_address() -> None:
    """The answer to INFORM has no address and no lease time, but all else."""
    reply = told(dhcp("inform", ciaddr=OWN, ip={"src": OWN}))
    assert ("0.0.0.0", OWN) == (reply.yiaddr, reply.ciaddr)
    assert {"message-type", "server_id", "subnet_mask", "router", "name_server"} == set(
        options(reply)
    )


def test_what_a_rich_lease_tells() -> None:
    """Resolvers instead of the gateway, domains, host name, boot file; MTU and search if asked."""
    reply = told(dhcp("discover"), RICH)
    found = options(reply)
    assert ["192.0.2.53", "192.0.2.54"] == found["name_server"]
    assert (b"web", b"example.org") == (found["hostname"], found["domain"])
    assert b"auto_install" == reply.file.rstrip(b"\0")
    assert not {"interface-mtu", 119} & found.keys()
    found = options(told(dhcp("discover", ("param_req_list", [1, 26, 119])), RICH))
    search = b"\7example\3org\0\3lab\7example\3net\0"
    assert (1400, search) == (found["interface-mtu"], found[119])


def test_bootp() -> None:
    """A request without message type gets a reply without one, which fits an old client."""
    old = dhcp(None)  # from before options had a cookie
    old[BOOTP].remove_payload()
    old[BOOTP].options = bytes(4)
    for asked in (dhcp(None), old / Raw(bytes(60))):
        reply = told(asked, RICH)
        assert OWN == reply.yiaddr
        assert {"subnet_mask", "router", "name_server"} <= options(reply).keys()
        assert not {"message-type", "lease_time", "server_id"} & options(reply).keys()
        assert 300 == len(reply[BOOTP])


def test_reply_has_the_length_of_bootp() -> None:
    """No reply is shorter than 300 bytes of BOOTP, nor longer than the client takes."""
    many = replace(RICH, domains=tuple(f"{n}.{'a' * 60}.example" for n in range(7)))
    asked = ("param_req_list", [119])
    assert 300 == len(told(dhcp())[BOOTP])
    assert 548 >= len(told(dhcp("discover", asked), many)[BOOTP])
    assert 119 not in options(told(dhcp("discover", asked), many))
    reply = told(dhcp("discover", asked, ("max_dhcp_size", 1400)), many)
    assert 548 < len(reply[BOOTP]) <= 1400 - 28
    pieces = [option for option in reply[DHCP].options if option[0] == 119]
    assert 2 == len(pieces), "an option longer than 255 bytes is continued"


def test_copies_relay_and_client_identifier() -> None:
    """The relay's address (RFC 2131) and the client's identifier (RFC 6842) come back."""
    reply = told(dhcp("discover", ("client_id", b"\0somebody"), giaddr="192.0.2.9"))
    assert ("192.0.2.9", b"\0somebody") == (reply.giaddr, options(reply)["client_id"])


def test_options_in_pieces_and_in_the_server_name() -> None:
    """A continued option is put together, one in the server name field is found."""
    kind = bytes([53, 1, 3])
    head = dhcp("discover")[Ether]
    head[DHCP].options = [("message-type", 3), ("requested_addr", OTHER), "end"]
    assert 6 == options(told(head))["message-type"]
    base = dhcp(None)
    base[BOOTP].remove_payload()
    base[BOOTP].sname = kind + b"\xff"
    plain = base / Raw(b"\x63\x82\x53\x63" + bytes([52, 1, 2, 255]))
    assert 5 == options(told(plain))["message-type"]
    half = bytes([50, 2, 100, 64, 50, 2, 0, 3])
    whole = base / Raw(b"\x63\x82\x53\x63" + kind + half + b"\xff")
    assert 5 == options(told(whole))["message-type"]


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (dhcp(op=2), "op"),
        (dhcp(htype=6), "hardware"),
        (dhcp(hlen=16), "hardware"),
        (dhcp(hops=1), "hops"),
        (dhcp(ciaddr=OWN), "ciaddr"),
        (dhcp("request", ciaddr=OWN, ip={"src": OWN}), "ciaddr"),
        (dhcp("inform", ciaddr=OTHER), "ciaddr"),
        (dhcp(file=b"pxe"), "file"),
        (dhcp(chaddr=b"\x52\x54\0\0\0\1"), "chaddr"),
        (dhcp(options=b"CMU\0"), "magic"),
        (dhcp("decline"), "message"),
        (dhcp("release"), "message"),
        (dhcp("offer"), "message"),
        (dhcp("ack"), "message"),
        (dhcp("discover", ("requested_addr", OWN), (54, b"abc")), "option"),
        (dhcp(ether={"src": "52:54:00:00:00:01"}), "source_mac"),
        (dhcp(ether={"dst": "52:54:00:00:00:01"}), "destination_mac"),
        (dhcp(ip={"src": OTHER}), "source_address"),
        (dhcp(ip={"dst": OTHER}), "destination_address"),
        (dhcp(udp={"sport": 67}), "port"),
        (dhcp(udp={"dport": 68}), "protocol"),
        (dhcp(ip={"frag": 1}), "fragment"),
        (dhcp(ip={"flags": "MF"}), "fragment"),
        (dhcp(ip={"chksum": 1}), "checksum"),
        (dhcp(udp={"chksum": 1}), "checksum"),
        (dhcp(udp={"len": 2000}), "ip_header"),
        (dhcp(udp={"len": 7}), "ip_header"),
        (dhcp(udp={"len": 8 + 235, "chksum": 0}), "length"),
        (dhcp(ip={"len": 2000}), "ip_header"),
        (dhcp(ip={"ihl": 4}), "ip_header"),
        (dhcp(ip={"version": 5}), "ip_header"),
        (dhcp(ether={"type": 0x8100}), "ethertype"),
        (dhcp() / Raw(bytes(2000)), "length"),
    ],
)
def test_silence_and_its_reason(asked: Any, reason: str) -> None:
    """What vmd ignores is ignored, each for a reason with a name."""
    assert Reason(reason) == answer(bytes(asked), LEASE)


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (dhcp(ether={"dst": GATEWAY}, ip={"dst": HOST}), 2),
        (dhcp(ether={"dst": SERVICE}, ip={"dst": HOST}), 2),
        (dhcp(udp={"chksum": 0}), 2),
        (dhcp(ip={"flags": "DF"}), 2),
        (dhcp() / Raw(bytes(700)), 2),
        (dhcp(ip={"src": OWN}), 2),
    ],
)
def test_asked_in_other_ways(asked: Any, kind: int) -> None:
    """To the host's address, without a checksum, longer than usual: all answered."""
    assert kind == options(told(asked))["message-type"]


@pytest.mark.parametrize(
    "area", [b"\x35", b"\x35\x02\x01", b"\x35\x01\x01\x32\x04\x64", b"\x3d\xff"]
)
def test_option_over_the_end(area: bytes) -> None:
    """An option that runs over the end makes the request one that is ignored."""
    asked = dhcp(None)
    asked[BOOTP].remove_payload()
    assert Reason.OPTION == answer(bytes(asked / Raw(b"\x63\x82\x53\x63" + area)), LEASE)


def test_other_prefixes() -> None:
    """Mask and addresses are the lease's, whatever they are."""
    lease = replace(LEASE, address=IPv4Interface("10.1.2.3/24"), gateway=IPv4Address("10.1.2.1"))
    reply = told(dhcp(), lease)
    found = options(reply)
    assert ("10.1.2.3", "255.255.255.0", "10.1.2.1") == (
        reply.yiaddr,
        found["subnet_mask"],
        found["router"],
    )


@given(st.data())
def test_every_changed_byte_is_survived(data: st.DataObject) -> None:
    """A request with bytes changed anywhere gets an answer or a reason."""
    frame = bytearray(bytes(dhcp("request", ("param_req_list", [1, 3, 119]), udp={"chksum": 0})))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(42, len(frame) - 1))
        frame[place] = data.draw(st.integers(0, 255))
    reply = answer(bytes(frame), RICH)
    assert isinstance(reply, Reason) or 342 <= len(reply) <= 14 + 576
