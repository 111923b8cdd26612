"""Area 1.3: the packet header, its two sizes, and that it may lie anywhere."""

from vionet.check.case import CSUM, INDIRECT, MRG, VERSION_1, Lab, check
from vionet.check.driver import Port
from vionet.check.verdict import describe, during, expect, same
from vionet.spec import virtio_net as net

SPLITS = ((12, 46), (1, 11), (5, 7), (1,) * 12, (10, 2), (3, 9, 5, 9), (12, 1, 1, 1), (26,))


@check("HD-01", "HD-11", does="send NEEDS_CSUM at 34+6", expects="the sum at byte 40 is finished")
def field_layout(lab: Lab) -> str:
    """Fields are where they are, little-endian."""
    a, b = lab.pair(VERSION_1 | CSUM)
    token = lab.token()
    frame = lab.flow().udp(token)
    header, data = frame.partial()
    expect((header.csum_start, header.csum_offset) == (34, 6), "tester out of order")
    return same(lab.carry(a, b, token, data, header), frame.data)


@check("HD-02", does="send the flags DATA_VALID and RSC_INFO", expects="no sum is finished")
def flag_values(lab: Lab) -> str:
    """Only NEEDS_CSUM asks for a sum."""
    a, b = lab.pair(VERSION_1 | CSUM & lab.offer.features)
    for flags in (2, 4, 6):
        token = lab.token()
        frame = lab.flow().udp(token)
        header = net.NetHeader(flags=flags, csum_start=34, csum_offset=6)
        delivery = lab.carry(a, b, token, frame.corrupted(), header)
        expect(delivery.frame == frame.corrupted(), f"flags {flags}: {describe(delivery)}")
    return "frames with flags 2, 4 and 6 arrived untouched"


@check("HD-03", does="send every gso_type there is", expects="none is delivered as it came")
def gso_values(lab: Lab) -> str:
    """A receiver that agreed to none sees none."""
    a, b = lab.pair(VERSION_1 | CSUM & lab.offer.features)
    flags = 1 if a.features & CSUM else 0
    delivered = 0
    for first in range(1, 256, 51):
        for gso_type in range(first, first + 51):
            frame = lab.flow().tcp(b"gso!" + bytes(100))
            header = net.NetHeader(flags, gso_type, 54, 50, 34, 16)
            a.queue(frame.with_field(frame.seed()), header)
        a.publish()
        a.sent(lab.patience)
        for delivery in lab.arrivals(a, b, b"gso!"):
            expect(delivery.header.gso_type == 0, describe(delivery))
            delivered += 1
        b.fill(60)
    return f"{delivered} of 255 arrived, all with gso_type 0"


@check("HD-04", does="VERSION_1 without MRG_RXBUF", expects="frames begin at byte 12")
def modern_length(lab: Lab) -> str:
    """The modern header has 12 bytes."""
    a, b = lab.pair()
    token = lab.token()
    data = lab.flow().bare(token + bytes(range(60)))
    return same(lab.carry(a, b, token, data), data)


@check("HD-05", does="every combination of VERSION_1 and MRG_RXBUF", expects="10 bytes, else 12")
def header_lengths(lab: Lab) -> str:
    """Without both the header has 10 bytes."""
    lab.need(MRG)
    for sender in (0, MRG, VERSION_1, VERSION_1 | MRG):
        for receiver in (0, MRG, VERSION_1, VERSION_1 | MRG):
            a, b = lab.pair(sender, receiver)
            token = lab.token()
            data = lab.flow().bare(token + bytes(range(60)))
            delivery = lab.carry(a, b, token, data)
            with during(f"headers of {a.hdr_len} and {b.hdr_len} bytes"):
                same(delivery, data)
                posted, used = delivery.buffers[0]
                expect(used == b.hdr_len + len(data), f"{used} bytes used of {posted}")
    return "all 16 pairs pass frames"


@check(
    "HD-10",
    "SP-02",
    does="split header and frame over descriptors anywhere, direct and indirect, both ways",
    expects="the same frame",
)
def any_layout(lab: Lab) -> str:
    """No assumption about where the header ends."""
    want = VERSION_1 | INDIRECT & lab.offer.features
    a, b = lab.port(0, want | CSUM & lab.offer.features), lab.port(1, want)
    lab.joined(a, b)
    for shape in SPLITS:
        for direct in (None, 0) if want & INDIRECT else (None,):
            _split(lab, a, b, shape, direct)
    for shape in SPLITS:
        for direct in (None, 0) if want & INDIRECT else (None,):
            c = lab.port(1, want, rx_buffers=0)
            c.fill(4, (*shape, 1000), direct=direct)
            lab.joined(a, c)
            _split(lab, a, c, (), None, shape)
    kinds = "direct and indirect" if want & INDIRECT else "direct"
    return f"{len(SPLITS)} layouts to send and to receive, {kinds}"


def _split(
    lab: Lab,
    a: Port,
    b: Port,
    shape: tuple[int, ...],
    direct: int | None,
    into: tuple[int, ...] = (),
) -> None:
    token = lab.token()
    frame = lab.flow().udp(token + bytes(range(100)))
    header, data = frame.partial() if a.features & CSUM else (net.NetHeader(), frame.data)
    where = f"sent as {shape}" if shape else f"received into {into}"
    with during(f"{where}{'' if direct is None else ', indirect'}"):
        same(lab.carry(a, b, token, data, header, shape, direct=direct), frame.data)
