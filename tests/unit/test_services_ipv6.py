"""Router advertisements and stateless DHCPv6: scapy asks, and takes the answers apart."""

from dataclasses import replace

import pytest
from scapy.layers.dhcp6 import (
    DUID_LL,
    DUID_LLT,
    DHCP6_Advertise,
    DHCP6_InfoRequest,
    DHCP6_Reply,
    DHCP6_Request,
    DHCP6_Solicit,
    DHCP6OptClientId,
    DHCP6OptDNSDomains,
    DHCP6OptDNSServers,
    DHCP6OptElapsedTime,
    DHCP6OptIA_NA,
    DHCP6OptIA_PD,
    DHCP6OptServerId,
    DHCP6OptStatusCode,
)
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDNSSL,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from tests.asking import (
    GATEWAY,
    GUEST,
    LEASE,
    LINK_LOCAL,
    RICH,
    SERVICE,
    check_sums,
    dhcp6,
    solicit,
    told,
)
from vionet.services import ndp
from vionet.services.answer import answer
from vionet.services.frame import Reason

ENDLESS = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("asked", "destination"),
    [
        (solicit(), LINK_LOCAL),
        (solicit(ICMPv6ND_RS(), src="::"), "ff02::1"),
        (solicit(ether={"dst": GATEWAY}, dst="fe80::1"), LINK_LOCAL),
    ],
)
def test_solicitation_is_answered(asked: Packet, destination: str) -> None:
    """The router is fe80::1 at the gateway's address; the guest makes its address itself."""
    reply = told(asked)
    assert (SERVICE, GUEST) == (reply[Ether].src, reply[Ether].dst), "nobody else hears it"
    assert ("fe80::1", destination, 255) == (reply[IPv6].src, reply[IPv6].dst, reply[IPv6].hlim)
    router = reply[ICMPv6ND_RA]
    assert (0, 1, 65535) == (router.M, router.O, router.routerlifetime)
    assert GATEWAY == reply[ICMPv6NDOptSrcLLAddr].lladdr
    prefix = reply[ICMPv6NDOptPrefixInfo]
    assert ("fd00:1:2::", 64) == (prefix.prefix, prefix.prefixlen)
    assert (1, 1, ENDLESS) == (prefix.L, prefix.A, prefix.validlifetime)
    assert ENDLESS == prefix.preferredlifetime
    for option in (ICMPv6NDOptRDNSS, ICMPv6NDOptDNSSL, ICMPv6NDOptMTU):
        assert option not in reply


def test_advertisement_of_a_rich_lease() -> None:
    """Unasked, to all nodes but only to this guest: resolvers, domains and MTU too."""
    frame = ndp.advertisement(RICH)
    check_sums(frame)
    packet = Ether(frame)
    assert (GUEST, "ff02::1") == (packet.dst, packet[IPv6].dst)
    assert ["2001:db8::53", "2001:db8::54"] == packet[ICMPv6NDOptRDNSS].dns
    assert ["example.org.", "lab.example.net."] == packet[ICMPv6NDOptDNSSL].searchlist
    assert 1400 == packet[ICMPv6NDOptMTU].mtu
    assert ENDLESS == packet[ICMPv6NDOptRDNSS].lifetime == packet[ICMPv6NDOptDNSSL].lifetime


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (solicit(hlim=64), "hop_limit"),
        (solicit(ICMPv6ND_RS(code=1)), "message"),
        (solicit(ICMPv6ND_NS(tgt="fe80::1")), "message"),
        (solicit(ICMPv6ND_RS(cksum=1)), "checksum"),
        (solicit(dst="ff02::1"), "destination_address"),
        (solicit(src="ff02::5"), "source_address"),
        (solicit(src="::"), "option"),
        (solicit(ICMPv6ND_RS() / Raw(b"\1\0" + bytes(6))), "option"),
        (solicit(ICMPv6ND_RS() / Raw(b"\1\2" + bytes(6))), "option"),
        (solicit(ICMPv6ND_RS() / Raw(b"\1")), "option"),
        (solicit(ether={"src": GATEWAY}), "source_mac"),
        (solicit(ether={"dst": "52:54:00:00:00:01"}), "destination_mac"),
        (solicit(IPv6ExtHdrHopByHop() / ICMPv6ND_RS()), "protocol"),
        (solicit(plen=2000), "ip_header"),
        (solicit(version=4), "ip_header"),
        (dhcp6(DHCP6_InfoRequest(), sport=547), "port"),
        (dhcp6(DHCP6_InfoRequest(), src="2001:db8::1"), "source_address"),
        (dhcp6(DHCP6_InfoRequest(), dst="ff02::1"), "destination_address"),
        (dhcp6(DHCP6_Request()), "message"),
        (dhcp6(DHCP6_Solicit()), "client"),
        (dhcp6(DHCP6_InfoRequest() / DHCP6OptServerId(duid=DUID_LL(lladdr=GUEST))), "server"),
        (dhcp6(DHCP6_InfoRequest() / DHCP6OptIA_NA(iaid=1)), "option"),
        (dhcp6(DHCP6_InfoRequest() / Raw(b"\0\1\0\xff")), "option"),
        (dhcp6(DHCP6_InfoRequest() / Raw(b"\0\1\0\xff" + bytes(255))), "option"),
        (dhcp6(Raw(b"\x0b")), "length"),
    ],
)
def test_silence_and_its_reason(asked: Packet, reason: str) -> None:
    """What the RFCs say must be ignored is, each for a reason with a name."""
    assert Reason(reason) == answer(bytes(asked), LEASE)


def test_no_sum_is_not_allowed_in_ipv6() -> None:
    """A datagram without a checksum is ignored (RFC 8200 8.1)."""
    asked = Ether(bytes(dhcp6(DHCP6_InfoRequest(trid=1))))
    asked[UDP].chksum = 0
    assert Reason.CHECKSUM == answer(bytes(asked), LEASE)


@pytest.mark.parametrize("asked", [solicit(), dhcp6(DHCP6_InfoRequest())])
def test_without_ipv6(asked: Packet) -> None:
    """An interface without IPv6 answers nothing of it."""
    assert Reason.NO_IPV6 == answer(bytes(asked), replace(LEASE, address6=None))


def test_information_request() -> None:
    """REPLY with resolvers and domains; the client's identifier comes back."""
    client = DUID_LLT(lladdr=GUEST, timeval=7)
    head = DHCP6_InfoRequest(trid=0x123456)
    reply = told(dhcp6(head / DHCP6OptClientId(duid=client) / DHCP6OptElapsedTime()), RICH)
    assert 0x123456 == reply[DHCP6_Reply].trid
    assert (LINK_LOCAL, "fe80::1") == (reply[IPv6].dst, reply[IPv6].src)
    assert (547, 546) == (reply[UDP].sport, reply[UDP].dport)
    assert bytes(client) == bytes(reply[DHCP6OptClientId].duid)
    assert bytes(DUID_LL(lladdr=GATEWAY)) == bytes(reply[DHCP6OptServerId].duid)
    assert ["2001:db8::53", "2001:db8::54"] == reply[DHCP6OptDNSServers].dnsservers
    assert ["example.org.", "lab.example.net."] == reply[DHCP6OptDNSDomains].dnsdomains
    assert b"\0\x52\0\4\0\1\x51\x80" in bytes(reply), "SOL_MAX_RT of a day"


def test_information_request_of_nobody() -> None:
    """The client need not say who it is; what the lease does not have is not told."""
    reply = told(dhcp6(DHCP6_InfoRequest()))
    for option in (DHCP6OptClientId, DHCP6OptDNSServers, DHCP6OptDNSDomains):
        assert option not in reply


def test_solicit_has_no_hope() -> None:
    """ADVERTISE says that there are no addresses, for all and for each that was asked for."""
    client = DHCP6OptClientId(duid=DUID_LL(lladdr=GUEST))
    wanted = DHCP6OptIA_NA(iaid=7) / DHCP6OptIA_PD(iaid=8)
    reply = told(dhcp6(DHCP6_Solicit(trid=5) / client / wanted))
    assert 5 == reply[DHCP6_Advertise].trid
    assert 2 == reply[DHCP6OptStatusCode].statuscode
    assert (7, 2) == (reply[DHCP6OptIA_NA].iaid, reply[DHCP6OptIA_NA].ianaopts[0].statuscode)
    assert (8, 6) == (reply[DHCP6OptIA_PD].iaid, reply[DHCP6OptIA_PD].iapdopt[0].statuscode)
    many = dhcp6(DHCP6_Solicit() / client / Raw(bytes(DHCP6OptIA_NA(iaid=1)) * 40))
    assert 4 == bytes(told(many)).count(bytes.fromhex("0003 0012 00000001"))
