"""Areas 1.4 to 1.7, 4.1 and 4.4: frames that are larger than a wire carries."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

from vionet.check.case import GUEST_CSUM, MRG, VERSION_1, Lab, check
from vionet.check.driver import Broken, Delivery, NotOffered, Port
from vionet.check.judge import ip_header_right, objections, parse
from vionet.check.segment import CWR, KINDS, Kind, Large, breaches, large
from vionet.check.verdict import describe, during, expect
from vionet.spec import virtio
from vionet.spec import virtio_net as net

HOST_ECN: Final = 1 << net.VIRTIO_NET_F_HOST_ECN
GUEST_ECN: Final = 1 << net.VIRTIO_NET_F_GUEST_ECN
HDRLEN: Final = 1 << net.VIRTIO_NET_F_GUEST_HDRLEN
ACK: Final = 0x10
WHOLE: Final = (66000,)  # a receive buffer for the largest frame
SIZES: Final = ((1000, 3500), (1400, 2800), (536, 537), (1400, 1000))  # gso_size, payload
TCP: Final = KINDS[:2]
UDP: Final = KINDS[2:]


def payload(lab: Lab, length: int) -> bytes:
    """Bytes that differ from place to place, with a token in front."""
    return (lab.token() + bytes(i * 7 % 251 for i in range(length)))[:length]


def kinds(lab: Lab, among: tuple[Kind, ...] = KINDS) -> list[Kind]:
    """Those that the back-end takes from a sender."""
    if found := [kind for kind in among if lab.offer.features >> kind.host & 1]:
        return found
    raise NotOffered(" or ".join(sorted({virtio.NAMES[kind.host] for kind in among})))


def made(lab: Lab, kind: Kind, size: int, length: int, flags: int = 0x19, **layers: Any) -> Large:
    """A large frame with ports of its own."""
    port = 42000 + int(lab.token()[-5:])
    flow = lab.flow(kind.version, src_port=port, **layers)
    return large(flow, kind, payload(lab, length), size, flags)


def mixture(lab: Lab) -> Iterator[Large]:
    """Every kind that may be sent, in several sizes; TCP with CWR where ECN is offered."""
    for kind in kinds(lab):
        for size, length in SIZES:
            yield made(lab, kind, size, length)
        if kind in TCP and lab.offer.features & HOST_ECN:
            yield made(lab, kind, 1000, 2500, 0x19 | CWR)


def receivers(lab: Lab) -> Iterator[tuple[str, int, tuple[int, ...]]]:
    """Drivers that agree to nothing, to each kind alone, to all: name, features, buffers."""
    guests = [k.guest for k in KINDS if lab.offer.features >> k.guest & 1]
    words = [0, GUEST_CSUM & lab.offer.features]
    words += [GUEST_CSUM | 1 << guest for guest in guests]
    words += [sum(1 << guest for guest in guests) | words[1]] if guests else []
    words += [words[-1] | GUEST_ECN] if lab.offer.features & GUEST_ECN else []
    for word in words:
        for merge in (0, MRG & lab.offer.features):
            shape = (2048,) if merge or not word & ~GUEST_CSUM else WHOLE
            yield ", ".join(virtio.names(word | merge)) or "nothing", word | merge, shape
            if not merge & MRG and not lab.offer.features & MRG:
                break


def everything(
    lab: Lab, look: Callable[[str, Port, Large, list[Delivery]], None] = lambda *_: None
) -> str:
    """Every large frame to every receiver; `look` at what each was delivered as."""
    a = lab.port(0, lab.sending())
    whole = cut = 0
    for name, word, shape in receivers(lab):
        b = lab.port(1, VERSION_1 | word, shape=shape, rx_buffers=100)
        lab.joined(a, b)
        for each in mixture(lab):
            b.fill(100, shape)
            what = f"{each.kind.name}, gso_size {each.size}, to {name}"
            with during(what):
                found = lab.carry_large(a, b, each)
            look(what, b, each, found)
            whole, cut = whole + (len(found) == 1), cut + (len(found) > 1)
    return f"{whole} arrived whole, {cut} in segments"


# --- what arrives -----------------------------------------------------------------------------
@check("TX-13", does="send large frames of all kinds to all receivers", expects="the same segments")
def cut_right(lab: Lab) -> str:
    """A large frame is its headers before each piece of payload."""
    return everything(lab)


def _obeys(rule_id: str, expects: str, among: tuple[Kind, ...]) -> None:
    @check(rule_id, does="send large frames of all kinds to all receivers", expects=expects)
    def obeyed(lab: Lab) -> str:
        kinds(lab, among)

        def look(what: str, b: Port, _: Large, found: list[Delivery]) -> None:
            for each in found:
                wrong = breaches(each.header, each.frame, b.features)
                expect(rule_id not in wrong, f"{what}: {wrong.get(rule_id)}")

        return everything(lab, look)


for _id, _expects, _among in (
    ("RX-08", "TCPV4 only to drivers with GUEST_TSO4", KINDS[:1]),
    ("RX-09", "TCPV6 only to drivers with GUEST_TSO6", KINDS[1:2]),
    ("RX-11", "UDP_L4 only to drivers with GUEST_USO of that family", UDP),
    ("RX-18", "gso_type only with NEEDS_CSUM and a gso_size", KINDS),
    ("RX-21", "hdr_len reaches to the end of the L4 header", KINDS),
):
    _obeys(_id, _expects, _among)


@check("RX-13", "TD-07", does="send TCP with CWR, with and without ECN", expects="CWR once")
def congestion(lab: Lab) -> str:
    """CWR stays on the first segment; whole only to drivers with GUEST_ECN."""
    seen = []
    guests = [k.guest for k in TCP if lab.offer.features >> k.guest & 1]
    whole = GUEST_CSUM | virtio.mask(guests) if guests else 0
    for word in {0, whole, whole | GUEST_ECN & lab.offer.features}:
        a, b = lab.port(0, lab.sending()), lab.port(1, VERSION_1 | word, shape=WHOLE)
        lab.joined(a, b)
        for kind in kinds(lab, TCP):
            for ecn in (True, False) if a.features & HOST_ECN else (False,):
                each = replace(made(lab, kind, 1000, 2900, 0x19 | CWR), ecn=ecn)
                with during(f"{kind.name}, ECN {ecn}"):
                    found = lab.carry_large(a, b, each)
                seen.append("whole" if len(found) == 1 else "cut")
    return ", ".join(seen)


@check("RX-10", "SG-10", does="send UDP for IP fragmentation", expects="fragments, or whole to UFO")
def fragmented(lab: Lab) -> str:
    """A datagram larger than the MTU arrives as fragments of itself."""
    lab.need(1 << net.VIRTIO_NET_F_HOST_UFO)
    a, b = lab.pair(lab.sending())
    port = 42000
    frame = lab.flow(src_port=port).udp(payload(lab, 3000))
    at = parse(frame.data)
    header, data = frame.partial(gso_type=3, gso_size=1480, hdr_len=42)
    a.send(data, header)
    pieces: dict[int, bytes] = {}
    for each in lab.arrivals(a, b, frame.data[at.l3_off + 12 : at.l3_off + 20]):
        word = int.from_bytes(each.frame[20:22], "big")
        expect(each.header.gso_type == 0, describe(each))
        expect(ip_header_right(each.frame), "the sum of a fragment's header is wrong")
        pieces[(word & 0x1FFF) * 8] = each.frame[34:]
    whole = b"".join(pieces[offset] for offset in sorted(pieces))
    expect(whole == frame.data[34:], f"{len(pieces)} fragments, {len(whole)} bytes")
    return f"{len(pieces)} fragments"


@check("SG-06", does="cut TCP with options, FIN, PSH, CWR, URG", expects="each where it belongs")
def tcp_fields(lab: Lab) -> str:
    """Sequence numbers, flags, identifications, options."""
    a, b = lab.pair(lab.sending())
    count = 0
    for kind in kinds(lab, TCP):
        for flags in (ACK, 0x11, 0x18, 0x19, 0x39, 0x19 | 0x40):
            options = b"\x01\x01\x08\x0a" + bytes(range(8)) if flags & 1 else b""
            flow = lab.flow(kind.version, src_port=43000 + count)
            each = large(flow, kind, payload(lab, 2500), 1000, flags, options)
            b.fill(10)
            with during(f"{kind.name}, flags {flags:#x}"):
                lab.carry_large(a, b, each)
            count += 1
    return f"{count} frames"


@check("SG-07", does="send large frames with other seeds", expects="right sums all the same")
def seeds(lab: Lab) -> str:
    """Stacks disagree about the length in the seed of a large frame."""
    a, b = lab.pair(lab.sending())
    for kind in kinds(lab):
        for seed in (0, 0x1234, 0xFFFF):
            each = made(lab, kind, 1000, 2500)
            header, _ = each.sent()
            b.fill(10)
            wrong = replace(each, frame=replace(each.frame, data=each.frame.with_field(seed)))
            a.send(wrong.frame.data, header)
            at = parse(wrong.frame.data)
            ports = wrong.frame.data[at.l4_off : at.l4_off + 4]
            found = [d.frame for d in lab.arrivals(a, b, ports)]
            expect(found == each.segments(), f"{kind.name}, seed {seed:#x}: {len(found)} segments")
    return "right"


@check("SG-08", does="send gso_size 1 with 60000 bytes", expects="bounded work, then service")
def amplification(lab: Lab) -> str:
    """The number of segments is limited."""
    a = lab.port(0, lab.sending())
    b = lab.port(1, size=8192, rx_buffers=8000, shape=(128,))
    lab.joined(a, b)
    seen = []
    for kind in kinds(lab):
        header, data = made(lab, kind, 1, 60000).sent()
        a.send(data, header)
        a.sent(lab.patience)
        count = b.drain()
        expect(count <= 7500, f"{kind.name}: {count} frames of one")  # Linux makes them 8 bytes
        b.fill(count, (128,))
        header, data = made(lab, kind, 1, 20).sent()
        a.send(data, header)
        a.sent(lab.patience)
        seen.append(f"{kind.name}: {b.drain()}")
    lab.joined(a, b)
    return f"bounded; of 20 segments of 1 byte: {', '.join(seen)}"


@check("SG-09", does="cut UDP", expects="each datagram has length, sum and identification")
def datagrams(lab: Lab) -> str:
    """UDP_L4: many datagrams."""
    a, b = lab.pair(lab.sending())
    count = 0
    for kind in kinds(lab, UDP):
        for size, length in ((1200, 3601), (1200, 3600), (100, 6400), (1, 2), (999, 1000)):
            b.fill(80)
            with during(f"{kind.name}, {length} bytes by {size}"):
                count += len(lab.carry_large(a, b, made(lab, kind, size, length)))
    return f"{count} datagrams"


def _absent(lab: Lab, a: Port, b: Port, header: net.NetHeader, data: bytes, what: str) -> None:
    """It may only arrive in a form that Linux takes, or not at all."""
    a.send(data, header)
    at = parse(data)
    for each in lab.arrivals(a, b, data[at.l4_off : at.l4_off + 4]):
        raise Broken(f"{what}: it was delivered, with {describe(each)}")


@check("SG-11", does="mix gso_type and protocol", expects="dropped")
def mismatch(lab: Lab) -> str:
    """gso_type says what is inside, and lies."""
    a, b = lab.pair(lab.sending(), VERSION_1 | GUEST_CSUM & lab.offer.features)
    count = 0
    for kind in kinds(lab):
        for other in KINDS:
            if lab.offer.features >> other.host & 1 and other.gso_type != kind.gso_type:
                header, data = made(lab, kind, 1000, 2500).sent(gso_type=other.gso_type)
                _absent(lab, a, b, header, data, f"{kind.name} called {other.name}")
                count += 1
    if not count:
        raise NotOffered("two kinds of segmentation")
    return f"{count} mixtures, all dropped"


@check("TX-14", "RB-02", does="send the largest frames there are", expects="every byte arrives")
def largest(lab: Lab) -> str:
    """An IPv4 total length of 65535, an IPv6 payload of 65535."""
    guests = sum(1 << k.guest for k in TCP if lab.offer.features >> k.guest & 1)
    words = [0, guests | GUEST_CSUM] if guests else [0]
    words += [w | MRG for w in words] if lab.offer.features & MRG else []
    seen = []
    for word in words:
        shape = (4096,) if word & MRG else WHOLE if word & guests else (2048,)
        a = lab.port(0, lab.sending())
        b = lab.port(1, VERSION_1 | word, shape=shape, rx_buffers=100)
        lab.joined(a, b)
        for kind in kinds(lab, TCP):
            b.fill(100, shape)
            headers = 40 if kind.version == 4 else 20
            with during(f"{kind.name} to {' '.join(virtio.names(word)) or 'nothing'}"):
                seen.append(len(lab.carry_large(a, b, made(lab, kind, 1400, 65535 - headers))))
    return f"arrived in {seen} frames"


@check("TX-03", does="send large frames with any hdr_len", expects="the same segments")
def header_lengths(lab: Lab) -> str:
    """hdr_len may be used, but not trusted."""
    a, b = lab.pair(lab.sending() | HDRLEN & lab.offer.features)
    for kind in kinds(lab):
        for hdr_len in (0, 1, 14, 53, 54, 100, 0x7FFF, 0xFFFF):
            b.fill(10)
            with during(f"{kind.name}, hdr_len {hdr_len}"):
                lab.carry_large(a, b, made(lab, kind, 1000, 2500), hdr_len=hdr_len)
    return "hdr_len 0 to 65535"


@check("FB-31", does="accept GUEST_HDRLEN, send large frames", expects="they arrive")
def exact_header_length(lab: Lab) -> str:
    """GUEST_HDRLEN: hdr_len is exact."""
    lab.need(HDRLEN)
    a, b = lab.pair(lab.sending() | HDRLEN)
    for kind in kinds(lab):
        lab.carry_large(a, b, made(lab, kind, 1000, 2500))
    return "they arrive"


def _passes(lab: Lab, a: Port, b: Port, tags: tuple[int, ...]) -> bool:
    """Frames with these tags may pass at all."""
    token = lab.token()
    a.send(lab.flow(back=a.where == 1, tags=tags).bare(token.ljust(46, b"\0")))
    try:
        return bool(b.collect(token, lab.patience / 4))
    except Broken:
        return False


@check("SG-13", does="send partial and large frames over a port that tags", expects="right frames")
def tagging(lab: Lab) -> str:
    """A tag that comes or goes moves csum_start and hdr_len."""
    guests = sum(1 << k.guest for k in KINDS if lab.offer.features >> k.guest & 1)
    taking = VERSION_1 | (guests | GUEST_CSUM) & lab.offer.features
    moved = count = 0
    for tags in ((), (10,), (10, 30)):
        for back in (False, True):
            ends = [lab.port(w, lab.sending() | taking, shape=WHOLE) for w in (0, 1)]
            a, b = reversed(ends) if back else ends
            if not _passes(lab, a, b, tags):
                continue
            for kind in kinds(lab):
                each = made(lab, kind, 1000, 2500, tags=tags, back=back)
                header, data = each.sent()
                at = parse(data)
                a.send(data, header)
                for found in lab.arrivals(a, b, data[at.l4_off : at.l4_off + 4], tags):
                    seen = parse(found.frame)
                    moved += seen.tags != at.tags
                    count += 1
                    start = found.header.csum_start
                    expect(start in (0, seen.l4_off), f"{tags}: {describe(found)}")
                    wrong = [*breaches(found.header, found.frame, b.features).values()]
                    wrong += objections(found.header, found.frame)
                    expect(not wrong, f"{tags}: {'; '.join(wrong)}")
    if not moved:
        raise NotOffered("a port that pushes or pops VLAN tags")
    return f"{moved} of {count} frames with a tag more or less, all right"
