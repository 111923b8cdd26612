"""Frames that still have to be segmented: what their virtio-net header may say.

How it works: `judge_gso` compares type, size and checksum fields with the parsed headers and the
negotiated features, and leaves in the frame what any receiver needs to know: the `GSO_*` bits that
it must have agreed to, where the payload begins, and how many segments it makes.  A frame whose
payload fits one segment is an ordinary one (W44, spec LX-11).

Rules: only what was negotiated (TD-03 to TD-07), never without NEEDS_CSUM (TX-11, TD-11), size
neither 0 nor the kernel's own marker 0xffff (LX-02, LX-10), type and headers agree (SG-11, LX-05
to LX-08), the number of segments is bounded (SG-08, LX-09).  hdr_len is not looked at (TX-04).

Trust: a guest's header is not believed in anything.  A kernel that vouches for the sum of a frame
that its NIC put together (DATA_VALID) may leave NEEDS_CSUM out (LX-12).
"""

from vionet.engine.checksum import fold, ipv4_header_sum
from vionet.engine.ingress import lengthen_head
from vionet.engine.layout import FRAME, GSO_SEGMENTS_MAX, PORT, WORK, Frame, Port, Work
from vionet.engine.status import (
    CSUM_ON_FRAGMENT,
    FRAME_TOO_LONG,
    GSO_ECN,
    GSO_HEADER_MISMATCH,
    GSO_NOT_NEGOTIATED,
    GSO_SIZE_INVALID,
    GSO_TCP4,
    GSO_TCP6,
    GSO_TOO_MANY_SEGMENTS,
    GSO_TYPE_UNKNOWN,
    GSO_UDP4,
    GSO_UDP6,
    GSO_WITHOUT_CSUM,
    IP_LENGTH_INVALID,
    OK,
    PortKind,
)
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import load_u16, store_u16
from vionet.spec.packet import (
    ETH_P_IP,
    ETH_P_IPV6,
    IPPROTO_TCP,
    IPPROTO_UDP,
    TCP_CSUM_OFF,
    TCP_HLEN,
    UDP_CSUM_OFF,
    UDP_HLEN,
)
from vionet.spec.virtio_net import (
    VIRTIO_NET_HDR_F_DATA_VALID,
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_ECN,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
    VIRTIO_NET_HDR_GSO_UDP,
    VIRTIO_NET_HDR_GSO_UDP_L4,
)

GUEST = int(PortKind.GUEST)
TCP_CWR = 0x80
UDP_SEGMENTS_MAX = 128  # what Linux makes at most


@kernel(INT, FRAME, INT)
def needed_bits(frame: Frame, kind: int) -> int:
    """The `GSO_*` bits of a type, -1 for one that is unknown, 0 where the headers are others."""
    if kind == VIRTIO_NET_HDR_GSO_TCPV4:
        return GSO_TCP4 if frame.l3 == ETH_P_IP and frame.l4 == IPPROTO_TCP else 0
    if kind == VIRTIO_NET_HDR_GSO_TCPV6:
        return GSO_TCP6 if frame.l3 == ETH_P_IPV6 and frame.l4 == IPPROTO_TCP else 0
    if kind == VIRTIO_NET_HDR_GSO_UDP_L4:
        if frame.l4 != IPPROTO_UDP:
            return 0
        return GSO_UDP4 if frame.l3 == ETH_P_IP else GSO_UDP6
    return -1


@kernel(INT, INT)
def negotiable(kind: int) -> int:
    """The `GSO_*` bits one of which a sender must have negotiated for a type."""
    if kind == VIRTIO_NET_HDR_GSO_TCPV4:
        return GSO_TCP4
    if kind == VIRTIO_NET_HDR_GSO_TCPV6:
        return GSO_TCP6
    if kind == VIRTIO_NET_HDR_GSO_UDP_L4:
        return GSO_UDP4 | GSO_UDP6
    return 0


@kernel(INT, PORT, WORK, FRAME)
def measure_tcp(port: Port, work: Work, frame: Frame) -> int:
    """The length of the TCP header, 0 where it is not whole; notes CWR."""
    if frame.l4_len < TCP_HLEN or not lengthen_head(work, frame, frame.l4_off + TCP_HLEN):
        return 0
    word = load_u16(work.head_hva + frame.l4_off + 12)
    header_len = (word & 0xF0) >> 2
    if word >> 8 & TCP_CWR:
        frame.gso |= GSO_ECN
    if header_len < TCP_HLEN or header_len > frame.l4_len:
        return 0
    return header_len if lengthen_head(work, frame, frame.l4_off + header_len) else 0


@kernel(INT, WORK, FRAME)
def renew_ipv4_sum(work: Work, frame: Frame) -> int:
    """Make the IPv4 header's checksum anew: some leave it out where they expect segments (W17)."""
    address = work.head_hva + frame.l3_off
    total = ipv4_header_sum(address) + load_u16(address + 2) + load_u16(address + 4)
    store_u16(address + 10, fold(total) ^ 0xFFFF)
    return 0


@kernel(INT, PORT, FRAME, INT, INT)
def check_type(port: Port, frame: Frame, kind: int, size: int) -> int:
    """What can be said without the headers.  *returns* OK or a drop reason."""
    known = negotiable(kind)
    if not known:
        return GSO_NOT_NEGOTIATED if kind == VIRTIO_NET_HDR_GSO_UDP else GSO_TYPE_UNKNOWN
    if not port.offers_gso & known or not port.offers_partial:
        return GSO_NOT_NEGOTIATED
    if frame.gso_type & VIRTIO_NET_HDR_GSO_ECN and not port.offers_gso & GSO_ECN:
        return GSO_NOT_NEGOTIATED
    if size == 0 or size == 0xFFFF:
        return GSO_SIZE_INVALID
    if not frame.hdr_flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        vouched = frame.hdr_flags & VIRTIO_NET_HDR_F_DATA_VALID and not frame.routed
        if port.kind == GUEST or not vouched:
            return GSO_WITHOUT_CSUM
        frame.hdr_flags |= VIRTIO_NET_HDR_F_NEEDS_CSUM  # its seed will be planted
        frame.csum_start = frame.l4_off
        frame.csum_offset = UDP_CSUM_OFF if frame.l4 == IPPROTO_UDP else TCP_CSUM_OFF
    return OK


@kernel(INT, PORT, WORK, FRAME)
def judge_gso(port: Port, work: Work, frame: Frame) -> int:
    """Set the frame's GSO fields, or make it an ordinary one.  *returns* OK or a drop reason."""
    kind = frame.gso_type & ~VIRTIO_NET_HDR_GSO_ECN
    size = load_u16(work.head_hva - port.header_len + 4)
    status = check_type(port, frame, kind, size)
    if status != OK:
        return status
    if frame.fragment:
        return CSUM_ON_FRAGMENT
    if frame.bad_len:
        return IP_LENGTH_INVALID
    frame.gso = needed_bits(frame, kind)
    if frame.gso <= 0 or frame.l4_off == 0 or frame.csum_start != frame.l4_off:
        return GSO_HEADER_MISMATCH
    if frame.gso_type & VIRTIO_NET_HDR_GSO_ECN:
        frame.gso |= GSO_ECN
    if kind == VIRTIO_NET_HDR_GSO_UDP_L4:
        header_len = UDP_HLEN
        if frame.csum_offset != UDP_CSUM_OFF or frame.gso & GSO_ECN:
            return GSO_HEADER_MISMATCH
    else:
        header_len = measure_tcp(port, work, frame)
        if header_len == 0 or frame.csum_offset != TCP_CSUM_OFF:
            return GSO_HEADER_MISMATCH
    if frame.l3 == ETH_P_IP:
        renew_ipv4_sum(work, frame)
    payload = frame.l4_len - header_len
    frame.gso_header_len = frame.l4_off + header_len
    largest = frame.gso_header_len + min(size, payload)
    if port.mtu and largest > port.mtu + frame.l3_off:
        return FRAME_TOO_LONG
    if payload <= size:
        frame.gso_type = 0
        return OK
    frame.gso_type = kind | (VIRTIO_NET_HDR_GSO_ECN if frame.gso & GSO_ECN else 0)
    frame.gso_size = size
    frame.gso_segments = (payload + size - 1) // size
    most = UDP_SEGMENTS_MAX if kind == VIRTIO_NET_HDR_GSO_UDP_L4 else GSO_SEGMENTS_MAX
    return OK if frame.gso_segments <= most else GSO_TOO_MANY_SEGMENTS
