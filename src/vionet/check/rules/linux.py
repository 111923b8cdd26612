"""Area 4.1: headers that Linux refuses must not reach a receiver, whoever sent them."""

from collections.abc import Sequence

from vionet.check.case import CSUM, GUEST_CSUM, MRG, VERSION_1, Lab, check
from vionet.check.judge import parse
from vionet.check.rules.segmentation import TCP, UDP, WHOLE, kinds, made
from vionet.check.segment import ECN, KINDS, Kind, l4_header_len
from vionet.check.verdict import describe, during, expect
from vionet.spec import virtio_net as net

NEEDS = net.VIRTIO_NET_HDR_F_NEEDS_CSUM
L4_MIN = {0: 0, 1: 20, 4: 20, 3: 8, 5: 8}  # by gso_type
UDP_SEGMENTS = 64  # that every Linux takes (spec LX-09)


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
    if gso_type and (why := _refused_large(header, frame, gso_type)):
        return why
    return "frame too short" if len(frame) < 14 else ""


def _refused_large(header: net.NetHeader, frame: bytes, gso_type: int) -> str:
    at = parse(frame)
    length = l4_header_len(frame, at)
    if gso_type in (1, 4):
        if header.flags & NEEDS and header.csum_offset != 16:
            return f"TCP with csum_offset {header.csum_offset}"
        if length < 20 or (header.flags & NEEDS and header.csum_start != at.l4_off):
            return f"a TCP header of {length} bytes, csum_start {header.csum_start}"
    if gso_type == 5:
        if header.gso_type & ECN or not header.flags & NEEDS or header.csum_offset != 6:
            return f"UDP_L4 with {header}"
        if at.l3_end - at.l4_off - length > UDP_SEGMENTS * header.gso_size:
            return f"more than {UDP_SEGMENTS} datagrams"
    return ""


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


def _fit(
    lab: Lab,
    among: tuple[Kind, ...],
    changes: Sequence[dict[str, int]],
    patch: tuple[int, int] = (0, 0),
    cut: int | None = None,
    length: int = 2500,
) -> str:
    """Large frames behind headers with `changes`: what arrives is such as Linux takes.

    `patch` changes a byte of the L4 header, `cut` ends the frame so many bytes behind its start,
    `length` is that of the payload.
    """
    guests = sum(1 << k.guest for k in KINDS if lab.offer.features >> k.guest & 1)
    taking = VERSION_1 | (guests | GUEST_CSUM) & lab.offer.features
    a, b = lab.port(0, lab.sending()), lab.port(1, taking, shape=WHOLE)
    lab.joined(a, b)
    count = arrived = 0
    for kind in kinds(lab, among):
        for change in changes:
            header, data = made(lab, kind, 1000, length).sent(**change)
            l4 = parse(data).l4_off
            if patch[0]:
                data = data[: l4 + patch[0]] + bytes([patch[1]]) + data[l4 + patch[0] + 1 :]
            a.send(data[: None if cut is None else l4 + cut], header)
            count += 1
            came = list(lab.arrivals(a, b, data[l4 : l4 + 4]))
            b.fill(len(came) + 1, WHOLE)
            arrived += len(came)
            for found in came:
                why = refused(found.header, found.frame)
                expect(not why, f"{kind.name}, {change}: Linux would refuse {why}")
    lab.joined(a, b)
    return f"{arrived} frames came of {count}, all fit for Linux"


@check("LX-06", does="end large frames inside their L4 header", expects="not delivered like that")
def truncated(lab: Lab) -> str:
    """The L4 header lies inside the frame."""
    return "; ".join(_fit(lab, KINDS, ({}, {"hdr_len": 40}), cut=cut) for cut in (5, 7, 19))


@check("LX-07", does="send large TCP with csum_offset 6 and 14", expects="not delivered like that")
def other_offset(lab: Lab) -> str:
    """The sum of TCP is at 16."""
    return _fit(lab, TCP, ({"csum_offset": 6}, {"csum_offset": 14}, {"csum_offset": 18}))


@check("LX-08", does="send UDP_L4 without NEEDS_CSUM, at 4, with ECN", expects="not like that")
def odd_uso(lab: Lab) -> str:
    """UDP_L4 has NEEDS_CSUM at 6 and no ECN."""
    return _fit(lab, UDP, ({"flags": 0}, {"csum_offset": 4}, {"gso_type": 5 | ECN}))


@check("LX-09", does="send UDP_L4 of 64, 65 and 200 datagrams", expects="at most 64 in a frame")
def many_datagrams(lab: Lab) -> str:
    """A Linux of 2024 takes 64 datagrams at once."""
    guests = sum(1 << k.guest for k in UDP if lab.offer.features >> k.guest & 1)
    taking = VERSION_1 | (guests | GUEST_CSUM) & lab.offer.features
    a, b = lab.port(0, lab.sending()), lab.port(1, taking, shape=WHOLE, rx_buffers=250)
    lab.joined(a, b)
    seen = []
    for kind in kinds(lab, UDP):
        for count in (64, 65, 200):
            header, data = made(lab, kind, 50, 50 * count).sent()
            at = parse(data)
            a.send(data, header)
            found = list(lab.arrivals(a, b, data[at.l4_off : at.l4_off + 4]))
            for each in found:
                why = refused(each.header, each.frame)
                expect(not why, f"{count} datagrams: Linux would refuse {why}")
            seen.append(f"{count} in {len(found)}")
            b.fill(250, WHOLE)
    return ", ".join(seen)


@check("LX-11", does="send large frames that are not large", expects="ordinary frames")
def not_large(lab: Lab) -> str:
    """A payload of gso_size or less is one frame."""
    guests = sum(1 << k.guest for k in KINDS if lab.offer.features >> k.guest & 1)
    for word in {0, (guests | GUEST_CSUM) & lab.offer.features}:
        a, b = lab.port(0, lab.sending()), lab.port(1, VERSION_1 | word, shape=WHOLE)
        lab.joined(a, b)
        for kind in kinds(lab):
            for size, length in ((1460, 100), (1000, 1000), (1, 1), (65534, 700)):
                with during(f"{kind.name}, {length} bytes by {size}"):
                    lab.carry_large(a, b, made(lab, kind, size, length))
    return "one frame each"


@check("LX-12", does="send large TCP without NEEDS_CSUM", expects="not delivered like that")
def without_sum(lab: Lab) -> str:
    """Large frames have partial sums."""
    return _fit(lab, TCP, ({"flags": 0}, {"flags": 2}))


@check("LX-13", does="send large TCP with gso_size 1 to 8", expects="dropped, or cut like that")
def tiny_segments(lab: Lab) -> str:
    """Linux cuts TCP into 8 bytes at least; there are buffers for 50 of 1."""
    return _fit(lab, TCP, ({"gso_size": 1}, {"gso_size": 7}, {"gso_size": 8}), length=50)


@check("LX-14", does="send large TCP with a header of 12 bytes", expects="not delivered like that")
def short_tcp(lab: Lab) -> str:
    """A TCP header has 20 bytes at least."""
    return "; ".join(_fit(lab, TCP, ({},), (12, words << 4)) for words in (0, 3, 4))
