"""Area 4.1: headers that Linux refuses must not reach a receiver, whoever sent them."""

from vionet.check.case import CSUM, GUEST_CSUM, MRG, VERSION_1, Lab, check, describe, expect
from vionet.spec import virtio_net as net

NEEDS = net.VIRTIO_NET_HDR_F_NEEDS_CSUM
L4_MIN = {0: 0, 1: 20, 4: 20, 3: 8, 5: 8}  # by gso_type


def refused(header: net.NetHeader, frame: bytes) -> str:
    """Why Linux 6.x would throw the frame away; empty if it would not."""
    gso_type = header.gso_type & ~net.VIRTIO_NET_HDR_GSO_ECN
    if gso_type not in L4_MIN:
        return f"gso_type {header.gso_type:#x}"
    if gso_type and header.gso_size in (0, 0xFFFF):
        return f"gso_size {header.gso_size:#x}"
    if header.flags & NEEDS:
        if header.csum_start < (40 if gso_type == 4 else 20):
            return f"csum_start {header.csum_start}"
        least = max(L4_MIN[gso_type], header.csum_offset + 2)
        if header.csum_start + least > len(frame):
            return f"csum_start {header.csum_start}, csum_offset {header.csum_offset}"
    return "frame too short" if len(frame) < 14 else ""


def _none_refused(lab: Lab, headers: list[net.NetHeader]) -> str:
    """Send TCP frames behind `headers`; those that arrive are such as Linux takes."""
    want = VERSION_1 | GUEST_CSUM & lab.offer.features
    a, b = lab.pair(VERSION_1 | CSUM & lab.offer.features, want)
    for header in headers:
        a.queue(lab.flow().tcp(b"linx" + bytes(100)).data, header)
    a.publish()
    count = 0
    for delivery in lab.arrivals(a, b, b"linx"):
        why = refused(delivery.header, delivery.frame)
        expect(not why, f"Linux would refuse {why} ({describe(delivery)})")
        count += 1
    return f"{count} of {len(headers)} arrived, all fit for Linux"


@check("LX-01", does="send gso_type 2, 6, 0x11", expects="not delivered like that")
def unknown_gso(lab: Lab) -> str:
    """Linux knows gso_type 0, 1, 3, 4 and 5."""
    return _none_refused(lab, [net.NetHeader(NEEDS, t, 54, 50, 34, 16) for t in (2, 6, 0x11)])


@check("LX-02", does="send GSO with gso_size 0", expects="not delivered like that")
def no_gso_size(lab: Lab) -> str:
    """GSO has a size."""
    return _none_refused(lab, [net.NetHeader(NEEDS, t, 54, 0, 34, 16) for t in (1, 3, 4, 5)])


@check("LX-03", does="NEEDS_CSUM at the very end, -1, 0 and +1", expects="never beyond the frame")
def sum_at_the_end(lab: Lab) -> str:
    """The field lies inside the frame."""
    length = 14 + 20 + 20 + 104
    starts = [length - 18 + step for step in (-1, 0, 1, 2)]
    return _none_refused(lab, [net.NetHeader(NEEDS, csum_start=s, csum_offset=16) for s in starts])


@check("LX-04", does="NEEDS_CSUM with csum_start 0xfffe", expects="not delivered like that")
def start_far_away(lab: Lab) -> str:
    """csum_start lies inside the frame, and the sum does not wrap."""
    pairs = ((0xFFFE, 0), (0xFFFE, 16), (0xFFFF, 0xFFFF), (34, 0xFFFF))
    return _none_refused(lab, [net.NetHeader(NEEDS, csum_start=s, csum_offset=o) for s, o in pairs])


@check("LX-05", does="NEEDS_CSUM with csum_start 0, 14 and 19", expects="not delivered like that")
def start_in_front(lab: Lab) -> str:
    """csum_start lies behind some L3 header."""
    starts = (0, 14, 19)
    return _none_refused(lab, [net.NetHeader(NEEDS, csum_start=s, csum_offset=16) for s in starts])


@check("LX-10", does="send gso_size 0xffff", expects="not delivered like that")
def marker_size(lab: Lab) -> str:
    """0xffff is a marker inside Linux."""
    return _none_refused(lab, [net.NetHeader(NEEDS, t, 54, 0xFFFF, 34, 16) for t in (1, 5)])


@check("LX-21", does="send frames of 0 to 13 bytes", expects="none is delivered")
def runts(lab: Lab) -> str:
    """Linux drops frames of less than 14 bytes."""
    a, b = lab.pair()
    for length in (0, 1, 6, 12, 13):
        a.queue(lab.flow().bare(b"")[:length])
    a.publish()
    a.sent(lab.patience)
    for delivery in lab.arrivals(a, b, b""):
        expect(len(delivery.frame) >= 14, describe(delivery))
    return "none arrived"


@check("LX-22", does="GET_FEATURES", expects="MRG_RXBUF", ports=1)
def mergeable_offered(lab: Lab) -> str:
    """Some Linux lost NEEDS_CSUM without MRG_RXBUF: offer it always."""
    lab.need(MRG)
    return "offered"
