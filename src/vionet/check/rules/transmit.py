"""Area 1.5: what a device does with what drivers transmit."""

from vionet.check.case import CSUM, GUEST_CSUM, VERSION_1, Lab, check, variety
from vionet.check.packet import Frame
from vionet.check.verdict import describe, during, expect, same
from vionet.spec import virtio_net as net

NEEDS = net.VIRTIO_NET_HDR_F_NEEDS_CSUM


@check("TX-01", does="set the flags 0x20, 0x40, 0x80 and 0x10", expects="it arrives with flags 0")
def unknown_flags(lab: Lab) -> str:
    """Unknown flags are ignored."""
    a, b = lab.pair()
    for flags in (0x20, 0x40, 0x80, 0x10, 0xF0):
        token = lab.token()
        data = lab.flow().udp(token).data
        delivery = lab.carry(a, b, token, data, net.NetHeader(flags=flags))
        expect(delivery.header.flags == 0, f"flags {flags:#x}: {describe(delivery)}")
        same(delivery, data)
    return "all arrived with flags 0"


@check("TX-02", does="flags 0 with a csum_start and csum_offset", expects="the same bytes")
def offsets_ignored(lab: Lab) -> str:
    """Without NEEDS_CSUM nobody looks at the offsets."""
    a, b = lab.pair(VERSION_1 | CSUM & lab.offer.features)
    for start, offset in ((34, 6), (34, 16), (0xFFFF, 0xFFFF), (0, 0), (14, 2)):
        token = lab.token()
        data = lab.flow().udp(token + bytes(50)).corrupted()
        header = net.NetHeader(csum_start=start, csum_offset=offset)
        delivery = lab.carry(a, b, token, data, header)
        expect(delivery.frame == data, f"{start}+{offset}: {describe(delivery)}")
    return "five pairs of offsets, all ignored"


@check("TX-04", does="NEEDS_CSUM with hdr_len 0, 1, 14 and 65535", expects="the right sum")
def hdr_len_ignored(lab: Lab) -> str:
    """hdr_len is not relied on."""
    a, b = lab.pair(VERSION_1 | CSUM)
    for hdr_len in (0, 1, 14, 40, 0xFFFF):
        token = lab.token()
        frame = lab.flow().tcp(token + bytes(100))
        lab.carry_partial(a, b, token, frame, f"hdr_len {hdr_len}", hdr_len=hdr_len)
    return "five values, all right"


@check("TX-05", does="send wrong sums with flags 0", expects="no DATA_VALID, no NEEDS_CSUM")
def nothing_assumed(lab: Lab) -> str:
    """A sum is not right because its sender did not ask for one."""
    a, b = lab.pair(VERSION_1 | CSUM & lab.offer.features, VERSION_1 | GUEST_CSUM)
    for version in (4, 6):
        for kind in ("udp", "tcp"):
            token = lab.token()
            flow = lab.flow(version)
            frame = flow.udp(token) if kind == "udp" else flow.tcp(token)
            delivery = lab.carry(a, b, token, frame.corrupted())
            expect(not delivery.header.flags & 3, f"{kind} IPv{version}: {describe(delivery)}")
            expect(delivery.frame == frame.corrupted(), f"changed: {describe(delivery)}")
    return "flags 0, the wrong sums unchanged"


def _rejected(lab: Lab, headers: tuple[tuple[int, int], ...]) -> str:
    a, b = lab.pair(VERSION_1 | CSUM & lab.offer.features)
    for flags, gso_type in headers:
        token = lab.token()
        header, data = (
            lab.flow()
            .tcp(token + bytes(200))
            .partial(flags=flags, gso_type=gso_type, gso_size=100, hdr_len=54)
        )
        with during(f"flags {flags:#x} gso_type {gso_type:#x}"):
            lab.absent_after(a, b, token, data, header)
    return "none was delivered"


@check("TX-06", does="set both tunnel bits (gso_type 0x61)", expects="rejected")
def both_tunnels(lab: Lab) -> str:
    """Both tunnel bits are one too many."""
    return _rejected(lab, ((NEEDS, 0x61),))


@check("TX-08", does="a tunnel bit without NEEDS_CSUM, with DATA_VALID, alone", expects="rejected")
def tunnel_nonsense(lab: Lab) -> str:
    """Combinations that mean nothing."""
    return _rejected(lab, ((0, 0x21), (3, 0x21), (NEEDS, 0x20)))


@check("TX-09", does="set UDP_TUNNEL_CSUM, which cannot be negotiated here", expects="ignored")
def tunnel_flag(lab: Lab) -> str:
    """Unknown as long as tunnels are not negotiated, which vhost-user cannot."""
    a, b = lab.pair()
    token = lab.token()
    data = lab.flow().udp(token).data
    delivery = lab.carry(a, b, token, data, net.NetHeader(flags=8))
    expect(delivery.header.flags == 0, describe(delivery))
    return same(delivery, data)


@check("TX-12", does="NEEDS_CSUM on TCP and UDP in every wrapping", expects="the right sums")
def sums_finished(lab: Lab) -> str:
    """The sum runs from csum_start to the end."""
    a, b = lab.pair(VERSION_1 | CSUM)
    kinds: list[tuple[str, bytes, Frame]] = list(variety(lab))
    for name, token, frame in kinds:
        lab.carry_partial(a, b, token, frame, name)
    return f"{len(kinds)} kinds of frames"


@check("TX-15", does="transmit", expects="used lengths of 0")
def nothing_written(lab: Lab) -> str:
    """A transmit buffer has nothing to write to."""
    a, b = lab.pair(VERSION_1 | CSUM & lab.offer.features)
    for length in (0, 100, 1400):
        a.queue(lab.flow().udp(lab.token() + bytes(length)).data)
    a.publish()
    lengths = [used.length for used in a.sent(lab.patience)]
    b.frontend.synchronise()
    expect(not any(lengths), f"used lengths {lengths}")
    return f"used lengths {lengths}"


@check("TX-16", does="transmit 4000 frames with NO_INTERRUPT", expects="all chains come back")
def no_interrupts(lab: Lab) -> str:
    """Chains come back although nobody is told."""
    a, _ = lab.pair()
    a.sent(lab.patience)
    a.tx.avail_flags = 1
    data = lab.flow().bare(bytes(46))
    returned = 0
    for _ in range(80):
        lab.refresh(1, 64)
        for _ in range(50):
            a.queue(data)
        a.publish()
        returned += len(a.sent(lab.patience))
    expect(returned == 4000, f"{returned} came back")
    return "4000 came back"


@check("TX-17", does="NEEDS_CSUM to a driver with GUEST_CSUM", expects="it may stay unfinished")
def left_unfinished(lab: Lab) -> str:
    """Nobody has to sum between ends that agreed not to."""
    lab.need(CSUM | GUEST_CSUM)
    a, b = lab.pair(VERSION_1 | CSUM, VERSION_1 | GUEST_CSUM)
    token = lab.token()
    delivery = lab.carry_partial(a, b, token, lab.flow().tcp(token), "TCP")
    how = "elided" if delivery.header.flags & NEEDS else "finished by the device"
    return f"{how}: {describe(delivery)}"
