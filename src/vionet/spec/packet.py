"""Numbers of the packets: Ethernet, IPv4, IPv6, TCP, UDP.  Sources: IEEE 802.1Q, RFCs, IANA."""

from typing import Final

ETH_HLEN: Final = 14
VLAN_HLEN: Final = 4
ETH_P_IP: Final = 0x0800
ETH_P_8021Q: Final = 0x8100
ETH_P_IPV6: Final = 0x86DD
ETH_P_8021AD: Final = 0x88A8
ETH_P_QINQ1: Final = 0x9100  # pre-standard outer tag

IPPROTO_HOPOPTS: Final = 0
IPPROTO_TCP: Final = 6
IPPROTO_UDP: Final = 17
IPPROTO_ROUTING: Final = 43
IPPROTO_FRAGMENT: Final = 44
IPPROTO_AH: Final = 51
IPPROTO_DSTOPTS: Final = 60
IPPROTO_SCTP: Final = 132

IPOPT_END: Final = 0
IPOPT_NOOP: Final = 1
IPOPT_LSRR: Final = 131
IPOPT_SSRR: Final = 137

IPV6_TLV_PAD1: Final = 0
IPV6_TLV_HAO: Final = 0xC9  # Home Address, RFC 6275

TCP_HLEN: Final = 20
TCP_CSUM_OFF: Final = 16
UDP_HLEN: Final = 8
UDP_CSUM_OFF: Final = 6
