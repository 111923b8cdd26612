"""Area 1.4: what a driver must not do when it transmits; the device has to survive all of it."""

from vionet.check.case import CSUM, VERSION_1, Lab, check
from vionet.check.verdict import describe, expect, same
from vionet.spec import virtio_net as net

NEEDS = net.VIRTIO_NET_HDR_F_NEEDS_CSUM


def _gso_dropped(
    lab: Lab, gso_types: tuple[int, ...], *, flags: int = NEEDS, size: int = 50
) -> str:
    a, b = lab.pair(VERSION_1 | CSUM & lab.offer.features)
    for gso_type in gso_types:
        version = 6 if gso_type & 0x7F == net.VIRTIO_NET_HDR_GSO_TCPV6 else 4
        token = lab.token()
        is_udp = gso_type & 0x7F in (net.VIRTIO_NET_HDR_GSO_UDP, net.VIRTIO_NET_HDR_GSO_UDP_L4)
        flow, body = lab.flow(version), token + bytes(200)
        frame = flow.udp(body) if is_udp else flow.tcp(body)
        header, data = frame.partial(
            gso_type=gso_type, gso_size=size, hdr_len=frame.csum_start + 20
        )
        lab.absent_after(a, b, token, data, header._replace(flags=flags))
    return lab.survived(b) + "; dropped"


@check("TD-01", does="send num_buffers 7", expects="it arrives", survival=True)
def num_buffers_ignored(lab: Lab) -> str:
    """num_buffers means nothing on transmit."""
    a, b = lab.pair()
    token = lab.token()
    data = lab.flow().bare(token + bytes(40))
    return same(lab.carry(a, b, token, data, net.NetHeader(num_buffers=7)), data)


@check(
    "TD-02",
    does="send NEEDS_CSUM without CSUM",
    expects="dropped, or delivered unchanged with flags 0",
    survival=True,
)
def needs_csum_unnegotiated(lab: Lab) -> str:
    """Without CSUM nobody asks for sums."""
    a, b = lab.pair()
    token = lab.token()
    frame = lab.flow().udp(token)
    header, data = frame.partial()
    a.send(data, header)
    if (delivery := lab.arrival(a, b, token)) is not None:
        expect(delivery.header.flags == 0 and delivery.frame == data, describe(delivery))
        return f"{lab.survived(b)}; delivered unchanged"
    return f"{lab.survived(b)}; dropped"


@check("TD-03", does="send TCPV4 without HOST_TSO4", expects="dropped", survival=True)
def tcpv4_unnegotiated(lab: Lab) -> str:
    """TCPV4 only with HOST_TSO4."""
    return _gso_dropped(lab, (net.VIRTIO_NET_HDR_GSO_TCPV4,))


@check("TD-04", does="send TCPV6 without HOST_TSO6", expects="dropped", survival=True)
def tcpv6_unnegotiated(lab: Lab) -> str:
    """TCPV6 only with HOST_TSO6."""
    return _gso_dropped(lab, (net.VIRTIO_NET_HDR_GSO_TCPV6,))


@check("TD-05", does="send UDP without HOST_UFO", expects="dropped", survival=True)
def ufo_unnegotiated(lab: Lab) -> str:
    """UDP fragmentation only with HOST_UFO."""
    return _gso_dropped(lab, (net.VIRTIO_NET_HDR_GSO_UDP,))


@check("TD-06", does="send UDP_L4 without HOST_USO", expects="dropped", survival=True)
def uso_unnegotiated(lab: Lab) -> str:
    """UDP segmentation only with HOST_USO."""
    return _gso_dropped(lab, (net.VIRTIO_NET_HDR_GSO_UDP_L4,))


@check("TD-08", does="send NEEDS_CSUM with a wrong pre-load", expects="survival", survival=True)
def wrong_seed(lab: Lab) -> str:
    """The field holds the pseudo-header sum."""
    a, b = lab.pair(VERSION_1 | CSUM)
    for seed in (0, 0xFFFF, 0x1234):
        frame = lab.flow().tcp(lab.token())
        a.send(frame.with_field(seed), frame.partial()[0])
    a.sent(lab.patience)
    return lab.survived(b)


@check("TD-10", does="send GSO of each kind with ECN", expects="dropped", survival=True)
def gso_unnegotiated(lab: Lab) -> str:
    """Without HOST_TSO and friends gso_type is NONE."""
    return _gso_dropped(lab, (0x81, 0x84, 0x83, 0x85))


@check(
    "TD-11",
    does="send TCPV4 without NEEDS_CSUM, and with gso_size 0",
    expects="dropped",
    survival=True,
)
def gso_incomplete(lab: Lab) -> str:
    """GSO comes with NEEDS_CSUM and a size."""
    lab.need(CSUM | 1 << net.VIRTIO_NET_F_HOST_TSO4)
    a, b = lab.pair(VERSION_1 | CSUM | 1 << net.VIRTIO_NET_F_HOST_TSO4)
    for flags, size in ((0, 50), (NEEDS, 0)):
        token = lab.token()
        header, data = lab.flow().tcp(token + bytes(200)).partial(gso_type=1, gso_size=size)
        lab.absent_after(a, b, token, data, header._replace(flags=flags))
    return lab.survived(b) + "; dropped"


@check("TD-12", does="send hdr_len 0, 1 and 65535", expects="it arrives", survival=True)
def lying_hdr_len(lab: Lab) -> str:
    """hdr_len is a hint."""
    a, b = lab.pair(VERSION_1 | CSUM)
    for hdr_len in (0, 1, 0xFFFF):
        token = lab.token()
        frame = lab.flow().tcp(token + bytes(100))
        lab.carry_partial(a, b, token, frame, f"hdr_len {hdr_len}", hdr_len=hdr_len)
    return lab.survived(b)


@check("TD-14", does="send DATA_VALID and RSC_INFO", expects="it arrives", survival=True)
def receive_flags(lab: Lab) -> str:
    """The flags of reception are clear on transmit, but for FreeBSD."""
    a, b = lab.pair()
    for flags in (2, 4, 6):
        token = lab.token()
        frame = lab.flow().tcp(token)
        same(lab.carry(a, b, token, frame.data, net.NetHeader(flags=flags)), frame.data)
    return lab.survived(b)


@check(
    "TD-15",
    does="send the tunnel bits of gso_type, alone and both",
    expects="dropped",
    survival=True,
)
def tunnel_bits(lab: Lab) -> str:
    """Tunnel bits only where tunnels were negotiated."""
    return _gso_dropped(lab, (0x21, 0x41, 0x61))


@check("TD-20", does="send header and frame as two chains", expects="survival", survival=True)
def two_chains(lab: Lab) -> str:
    """A packet is one chain."""
    a, b = lab.pair()
    a.send(b"", net.NetHeader())
    a.send(lab.flow().udp(lab.token()).data, b"")
    a.sent(lab.patience)
    return lab.survived(b)
