"""What a driver's control queue asked to keep away: addresses and VLANs (spec CV-04 to CV-20).

How it works: `filtered` is asked at delivery to a guest whose `Port.filter` is not 0; a driver that
wants everything (promiscuous) has 0.  The tag that counts is the one that is delivered.

Filtering is a favour to the driver and no protection (CV-09): where its own address is not known
no unicast is kept back, and priority-tagged frames are in no VLAN.
"""

from vionet.engine.layout import FRAME, PORT, WORK, Frame, Port, Work
from vionet.engine.status import (
    ADDRESS_FILTERED,
    FILTER_MULTICAST,
    FILTER_NO_BROADCAST,
    FILTER_NO_MULTICAST,
    FILTER_NO_UNICAST,
    FILTER_UNICAST,
    FILTER_VLAN,
    OK,
    VLAN_FILTERED,
)
from vionet.engine.vlan import VID_MASK, tag_of
from vionet.jit.kernel import INT, kernel

GROUP = 1 << 40
BROADCAST = (1 << 48) - 1


@kernel(INT, PORT, INT)
def wants_unicast(port: Port, dst: int) -> int:
    """Whether a unicast address is to be delivered."""
    if port.filter & FILTER_NO_UNICAST:
        return 0
    if not port.filter & FILTER_UNICAST or port.mac == 0 or dst == port.mac:
        return 1
    for i in range(port.n_unicast):
        if port.unicast[i] == dst:
            return 1
    return 0


@kernel(INT, PORT, INT)
def wants_group(port: Port, dst: int) -> int:
    """Whether a multicast address, or broadcast, is to be delivered."""
    if dst == BROADCAST:
        return 0 if port.filter & FILTER_NO_BROADCAST else 1
    if port.filter & FILTER_NO_MULTICAST:
        return 0
    if not port.filter & FILTER_MULTICAST:
        return 1
    for i in range(port.n_multicast):
        if port.multicast[i] == dst:
            return 1
    return 0


@kernel(INT, PORT, WORK, FRAME)
def filtered(port: Port, work: Work, frame: Frame) -> int:
    """*returns* OK, or why the driver is not given the frame in hand."""
    if port.filter & FILTER_VLAN:
        vid = tag_of(work, frame) & VID_MASK if tag_of(work, frame) >= 0 else 0
        if vid and not port.vlan_filter[vid >> 6] >> (vid & 63) & 1:
            return VLAN_FILTERED
    dst = frame.dst
    wanted = wants_group(port, dst) if dst & GROUP else wants_unicast(port, dst)
    return OK if wanted else ADDRESS_FILTERED
