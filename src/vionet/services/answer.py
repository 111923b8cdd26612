"""One frame of a guest in, the frame that answers it out, or why there is none (sans-IO).

Trust: the frame is a guest's.  Whatever its bytes, the result is an answer or a reason.
"""

from typing import Final

from vionet.services import dhcp, dhcp6, ndp
from vionet.services.frame import Ignored, Reason, parse, require
from vionet.services.lease import Lease
from vionet.spec.packet import DHCP_SERVER, DHCPV6_SERVER, IPPROTO_ICMPV6, IPPROTO_UDP

_MULTICAST6: Final = 0x3333  # the first two octets
_SERVICES: Final = {  # length of an address, protocol, port
    (4, IPPROTO_UDP, DHCP_SERVER): dhcp.answer,
    (16, IPPROTO_UDP, DHCPV6_SERVER): dhcp6.answer,
    (16, IPPROTO_ICMPV6, 0): ndp.answer,
}


def answer(frame: bytes, lease: Lease) -> bytes | Reason:
    """The frame that answers `frame`, or why it gets none."""
    try:
        packet = parse(frame)
        require(packet.source_mac == lease.mac, Reason.SOURCE_MAC)
        known = (dhcp.BROADCAST_MAC, lease.gateway_mac, lease.service_mac)
        to_us = packet.destination_mac in known or packet.destination_mac >> 32 == _MULTICAST6
        require(to_us, Reason.DESTINATION_MAC)
        key = (len(packet.source), packet.protocol, packet.ports[1])
        require(key in _SERVICES, Reason.PROTOCOL)
        return _SERVICES[key](packet, lease)
    except Ignored as ignored:
        return ignored.reason
