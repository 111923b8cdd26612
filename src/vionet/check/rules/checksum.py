"""Area 4.4: what checksums mean where nobody specifies it, segmentation apart."""

import time
from dataclasses import replace

from vionet.check.case import CSUM, GUEST_CSUM, VERSION_1, Lab, check, variety
from vionet.check.judge import NEXT_FRAGMENT, PROTOCOL_TCP, PROTOCOL_UDP, Sum, l4_sum, parse
from vionet.check.packet import BROADCAST, Frame, fragment_extension
from vionet.check.verdict import describe, expect, same
from vionet.spec import virtio_net as net

NEEDS = net.VIRTIO_NET_HDR_F_NEEDS_CSUM


@check("SG-01", does="NEEDS_CSUM with payloads of 0 to 70 bytes", expects="the right sums")
def every_length(lab: Lab) -> str:
    """Odd lengths are padded on the right."""
    a, b = lab.pair(VERSION_1 | CSUM)
    for length in range(0, 70):
        if length % 16 == 0:
            b.fill(32)
        token = lab.token()
        version = 4 if length % 4 < 2 else 6
        flow = lab.flow(version)
        body = token + bytes(range(1, length + 1))
        frame = flow.udp(body) if length % 3 else flow.tcp(body)
        lab.carry_partial(a, b, token, frame, f"{length} bytes")
    return "70 lengths"


@check("SG-02", does="NEEDS_CSUM on a sum inside VXLAN", expects="the inner sum, by csum_start")
def by_offsets(lab: Lab) -> str:
    """Sums are finished where csum_start says."""
    a, b = lab.pair(VERSION_1 | CSUM)
    for version in (4, 6):
        token = lab.token()
        flow = lab.flow(version)
        lab.carry_partial(a, b, token, flow.vxlan(flow.tcp(token)), f"TCP in VXLAN, IPv{version}")
        token = lab.token()
        lab.carry_partial(a, b, token, flow.vxlan(flow.udp(token)), f"UDP in VXLAN, IPv{version}")
    return "four tunnels"


def folding_to_zero(lab: Lab, version: int, odd: bool) -> tuple[bytes, Frame]:
    """A UDP frame whose computed sum is 0, and its token."""
    token = lab.token()
    flow = lab.flow(version)
    tail = b"\x21" if odd else b""
    plain = flow.udp(token + b"\0\0" + tail)
    held = int.from_bytes(plain.data[plain.field : plain.field + 2], "big")
    frame = flow.udp(token + held.to_bytes(2, "big") + tail)
    assert frame.data[frame.field : frame.field + 2] == b"\xff\xff"
    return token, frame


@check("SG-03", does="NEEDS_CSUM on UDP whose sum is 0", expects="0xffff")
def zero_is_ones(lab: Lab) -> str:
    """A UDP sum of 0 is sent as 0xffff."""
    a, b = lab.pair(VERSION_1 | CSUM)
    for version in (4, 6):
        for odd in (False, True):
            token, frame = folding_to_zero(lab, version, odd)
            lab.carry_partial(a, b, token, frame, f"IPv{version}")
    return "0xffff, IPv4 and IPv6"


@check("SG-04", does="NEEDS_CSUM with junk after the datagram", expects="a right sum, or nothing")
def trailer_left_out(lab: Lab) -> str:
    """Bytes after the IP datagram do not belong to its sum."""
    a, b = lab.pair(VERSION_1 | CSUM)
    seen = []
    for version in (4, 6):
        token = lab.token()
        frame = lab.flow(version).udp(token)
        header, data = frame.followed_by(b"\xde\xad\xbe\xef\x01").partial()
        data = frame.partial()[1] + data[len(frame.data) :]
        a.send(data, header)
        if (delivery := lab.arrival(a, b, token)) is None:
            seen.append("dropped")
            continue
        state = l4_sum(delivery.frame)
        expect(state is Sum.COMPLETE, f"IPv{version}: {describe(delivery)}")
        expect(delivery.frame.startswith(frame.data), f"IPv{version}: {describe(delivery)}")
        seen.append(describe(delivery))
    return "; ".join(seen)


@check("SG-05", does="NEEDS_CSUM in IPv4", expects="the IPv4 header as it was sent")
def ip_header_untouched(lab: Lab) -> str:
    """The IPv4 header's sum is not offloaded."""
    a, b = lab.pair(VERSION_1 | CSUM, VERSION_1 | GUEST_CSUM & lab.offer.features)
    for options in (b"", b"\x94\x04\0\0"):
        token = lab.token()
        frame = lab.flow(options=options).udp(token)
        header, data = frame.partial()
        delivery = lab.carry(a, b, token, data, header)
        at = parse(data)
        ours, theirs = data[14 : at.l4_off], delivery.frame[14 : at.l4_off]
        expect(ours == theirs, f"sent {ours.hex()}, received {theirs.hex()}")
    return "unchanged, with options too"


@check("SG-12", does="NEEDS_CSUM behind tags, options and extension headers", expects="right sums")
def deep_headers(lab: Lab) -> str:
    """Headers before L4 may be many."""
    a, b = lab.pair(VERSION_1 | CSUM, VERSION_1 | GUEST_CSUM & lab.offer.features)
    names = []
    for name, token, frame in variety(lab):
        lab.carry_partial(a, b, token, frame, name)
        names.append(name)
    for tags in ((1, 2, 3), (4095,)):
        token = lab.token()
        lab.carry_partial(a, b, token, lab.flow(6, tags=tags).tcp(token), f"tags {tags}")
    return f"{len(names) + 2} kinds of frames"


@check("SG-14", does="NEEDS_CSUM on SCTP", expects="dropped, or the CRC32c unchanged and unmarked")
def sctp_left_alone(lab: Lab) -> str:
    """SCTP's checksum is not a sum."""
    a, b = lab.pair(VERSION_1 | CSUM, VERSION_1 | GUEST_CSUM & lab.offer.features)
    seen = []
    for marked in (False, True):
        for version in (4, 6):
            token = lab.token()
            frame = lab.flow(version).sctp(token)
            header = frame.partial()[0] if marked else net.NetHeader()
            a.send(frame.data, header)
            if (delivery := lab.arrival(a, b, token)) is None:
                expect(marked, "SCTP that was not marked was dropped")
                seen.append("dropped")
                continue
            expect(not delivery.header.flags & NEEDS, describe(delivery))
            expect(delivery.frame == frame.data, f"changed: {describe(delivery)}")
            seen.append("unchanged")
    return ", ".join(seen)


def fragments(lab: Lab) -> list[tuple[str, bytes, bytes, net.NetHeader]]:
    """Fragments of every position: name, token, frame, and a header that marks it."""
    found = []
    for version in (4, 6):
        for name, offset, more in (("first", 0, True), ("middle", 64, True), ("last", 128, False)):
            for protocol, csum_offset in ((PROTOCOL_UDP, 6), (PROTOCOL_TCP, 16)):
                token = lab.token()
                l4 = token + bytes(range(52))
                flow = lab.flow(version)
                if version == 4:
                    data = flow.datagram(l4, protocol, offset // 8 | more << 13)
                else:
                    parts = ((NEXT_FRAGMENT, fragment_extension(offset, more)),)
                    data = replace(flow, extensions=parts).datagram(l4, protocol)
                header = net.NetHeader(NEEDS, csum_start=len(data) - 64, csum_offset=csum_offset)
                found.append((f"{name} IPv{version} fragment", token, data, header))
    return found


@check("SG-15", does="NEEDS_CSUM on fragments", expects="never delivered as NEEDS_CSUM")
def fragments_unmarked(lab: Lab) -> str:
    """A fragment has no sum of its own."""
    a, b = lab.pair(VERSION_1 | CSUM, VERSION_1 | GUEST_CSUM & lab.offer.features)
    delivered = 0
    for name, token, data, header in fragments(lab):
        plain = lab.carry(a, b, token, data)
        expect(plain.header.flags == 0 and plain.frame == data, f"plain {name}: {describe(plain)}")
        a.send(data, header)
        if (delivery := lab.arrival(a, b, token)) is not None:
            delivered += 1
            expect(not delivery.header.flags & NEEDS, f"{name}: {describe(delivery)}")
    return f"plain ones unchanged; {delivered} of 12 marked ones delivered, unmarked"


@check("SG-16", does="NEEDS_CSUM inside VXLAN to GUEST_CSUM", expects="finished inside")
def inner_finished(lab: Lab) -> str:
    """NEEDS_CSUM is passed on for the outermost TCP or UDP header only."""
    a, b = lab.pair(VERSION_1 | CSUM, VERSION_1 | GUEST_CSUM)
    for version in (4, 6):
        token = lab.token()
        flow = lab.flow(version)
        frame = flow.vxlan(flow.tcp(token + bytes(30)))
        delivery = lab.carry_partial(a, b, token, frame, f"IPv{version}")
        at, header = parse(delivery.frame), delivery.header
        outermost = (header.csum_start, header.csum_offset) == (at.l4_off, at.csum_off)
        expect(not header.flags & NEEDS or outermost, describe(delivery))
    return "the inner sum is complete"


@check("SG-17", does="partial DHCP to a driver with GUEST_CSUM", expects="a complete sum")
def dhcp_complete(lab: Lab) -> str:
    """DHCP clients read raw frames."""
    a, b = lab.pair(VERSION_1 | CSUM, VERSION_1 | GUEST_CSUM)
    cases = [(4, 67, 68), (4, 68, 67), (6, 546, 547), (6, 547, 546)]
    for version, source, destination in cases:
        token = lab.token()
        flow = lab.flow(version, src_port=source, dst_port=destination)
        frame = flow.udp(token + bytes(300))
        delivery = lab.carry_partial(a, b, token, frame, f"port {source} to {destination}")
        state = l4_sum(delivery.frame)
        expect(state is Sum.COMPLETE, f"{source} to {destination}: {describe(delivery)}")
    return "complete, four pairs of ports"


@check(
    "SG-18",
    does="the same partial frames to drivers with and without GUEST_CSUM",
    expects="both can use them",
)
def per_receiver(lab: Lab) -> str:
    """What is delivered depends on who receives."""
    a = lab.port(0, VERSION_1 | CSUM)
    seen = []
    for want in (0, GUEST_CSUM & lab.offer.features, 0):
        b = lab.port(1, VERSION_1 | want)
        lab.joined(a, b)
        token = lab.token()
        frame = lab.flow().tcp(token + bytes(100))
        delivery = lab.carry_partial(a, b, token, frame, "GUEST_CSUM" if want else "plain")
        if not want:
            expect(delivery.header.flags == 0, describe(delivery))
        seen.append("partial" if delivery.header.flags & NEEDS else "complete")
    return ", ".join(seen)


@check(
    "SG-19", does="broadcast a partial frame", expects="right, and the sender's memory unchanged"
)
def broadcast_unshared(lab: Lab) -> str:
    """Preparing a frame for a receiver does not change it for others."""
    a, b = lab.pair(VERSION_1 | CSUM)
    token = lab.token()
    frame = replace(lab.flow(), dst_mac=BROADCAST).udp(token + bytes(900))
    header, data = frame.partial()
    a.reap()
    head = a.send(data, header, (12, 50, 100))
    piece = a.loans[head]
    delivery = b.collect(token, lab.patience)
    a.wait(lambda: a.tx.fresh > 0, 1, time.monotonic() + lab.patience)
    seen = a.memory.read(piece.gpa, piece.length)
    expect(seen == header.pack(a.hdr_len) + data, "the sender's memory changed")
    return same(delivery, frame.data)


@check("SG-21", does="send frames of 14 to 59 bytes", expects="unchanged, or padded with zeros")
def no_stale_padding(lab: Lab) -> str:
    """Short frames do not leak memory."""
    a, b = lab.pair()
    for length in (26, 31, 59):
        token = lab.token()
        data = lab.flow().bare(token.ljust(length - 14, b"\x01"))
        before = lab.token()
        lab.carry(a, b, before, lab.flow().bare(before.ljust(200, b"\x5a")))
        delivery = lab.carry(a, b, token, data)
        padding = delivery.frame[len(data) :]
        expect(delivery.frame.startswith(data), describe(delivery))
        expect(not any(padding), f"padded with {padding.hex()}")
    a.send(lab.flow().bare(b""))
    a.sent(lab.patience)
    return "no stale bytes"
