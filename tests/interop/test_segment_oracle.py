"""The same large frame through the host's kernel and through vionet: byte for byte the same.

The kernel's GSO is the oracle (spec SG-06): tap, bridge, and a veth that can do nothing, into a
capture.  Since guests of Linux 6.1 send no large UDP, the datagrams are those that a socket with
UDP_SEGMENT sends from the host.  On vionet's side a guest sends to one that takes nothing.
"""

from collections.abc import Iterator

import pytest

from tests.interop.kernel_cut import KernelSegmenter, KernelSender, own_namespace
from tests.reference import checksum
from tests.reference.frame import Frame, Layers, fragment6, options, routing
from tests.reference.header import IPV4, parse
from tests.reference.network import Network
from tests.reference.plug import FULL, GUEST_CSUM, HOST_GSO
from tests.reference.segment import header_len
from vionet.spec.virtio_net import NetHeader

pytestmark = pytest.mark.root
BODY = bytes((i * 11 + (i >> 7)) & 0xFF for i in range(65_536))
TIMESTAMP = b"\1\1\x08\x0a" + b"\1\2\3\4\5\6\7\x08"
FIN, PSH, ACK, URG, ECE, CWR = 0x01, 0x08, 0x10, 0x20, 0x40, 0x80


@pytest.fixture(scope="module")
def kernel() -> Iterator[KernelSegmenter]:
    """The kernel, ready to cut."""
    with own_namespace():
        made = KernelSegmenter()
        try:
            yield made
        finally:
            made.close()


def segmented(data: bytes, header: NetHeader) -> list[bytes]:
    """What a guest that takes nothing gets of the frame through vionet's switch."""
    with Network() as network:
        source = network.guest(FULL | HOST_GSO)
        sink = network.guest(FULL & ~GUEST_CSUM, size=4096, data_len=1 << 20)
        for _ in range(-(-len(data) // header.gso_size)):
            sink.post(header.gso_size + 200)
        source.send(data, header)
        assert 1 == network.run(source)
        assert {} == source.drops == sink.drops
        found = sink.received()
        assert {0} == {one.header.flags for one in found}
        return [one.frame for one in found]


TCP = {
    "v4": (Layers().tcp(BODY[:20_000]), 1448),
    "v6": (Layers(6).tcp(BODY[:20_000]), 1428),
    "v4, odd": (Layers().tcp(BODY[:9_999]), 1001),
    "v6, odd": (Layers(6).tcp(BODY[:9_999]), 333),
    "longest": (Layers().tcp(BODY[:65_495]), 1460),
    "longest v6": (Layers(6).tcp(BODY[:65_515]), 1440),
    "large segments": (Layers().tcp(BODY[:60_000]), 8948),
    "tail of one": (Layers().tcp(BODY[:2897]), 1448),
    "equal tail": (Layers(6).tcp(BODY[:4000]), 1000),
    "timestamps": (Layers().tcp(BODY[:9000], TIMESTAMP), 1436),
    "all options": (Layers(6).tcp(BODY[:9000], b"\1" * 40), 1000),
    "ipv4 options": (Layers(options=b"\1" * 7 + b"\0").tcp(BODY[:9000]), 1000),
    "longest ipv4 options": (Layers(options=b"\1" * 40).tcp(BODY[:9000], b"\1" * 40), 1000),
    "fin and push": (Layers().tcp(BODY[:5000], flags=FIN | PSH | ACK), 1000),
    "urgent": (Layers(6).tcp(BODY[:5000], flags=URG | ACK, urgent=700), 1000),
    "ece alone": (Layers().tcp(BODY[:5000], flags=ECE | ACK), 1000),
    "id wraps": (Layers(ident=0xFFFE).tcp(BODY[:5000]), 1000),
    "id 0, do not fragment": (Layers(ident=0, fragment=0x4000).tcp(BODY[:5000]), 1000),
    "seq wraps": (Layers().tcp(BODY[:5000], seq=0xFFFFFA00), 1000),
    "hop by hop": (Layers(6, extensions=((0, options()),)).tcp(BODY[:5000]), 1000),
    "destination": (Layers(6, extensions=((60, options(bytes(9))),)).tcp(BODY[:5000]), 999),
    "small segments": (Layers().tcp(BODY[:3000]), 8),
    "two tags": (Layers(tags=((0x88A8, 5), (0x8100, 6))).tcp(BODY[:5000]), 1000),
    "tag": (Layers(6, tags=((0x8100, 0x2006),)).tcp(BODY[:5000]), 1000),
}  # fmt: skip


@pytest.mark.parametrize("name", TCP)
def test_tcp(kernel: KernelSegmenter, name: str) -> None:
    """SG-05 to SG-07: both families, options, flags, identification, sequence, odd sizes, tails."""
    frame, size = TCP[name]
    header = frame.gso(size)
    wanted = kernel.cut(frame.partial, header)
    assert len(wanted) > 1
    assert wanted == segmented(frame.partial, header)
    assert wanted == frame.segments(size), "the reference segmenter of the other tests"


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("flags", [CWR | ACK, CWR | ECE | FIN | PSH | ACK])
@pytest.mark.parametrize("bit", [True, False])
def test_ecn(kernel: KernelSegmenter, version: int, flags: int, bit: bool) -> None:
    """CWR is on the first segment only, whether or not the header has the ECN bit."""
    frame = Layers(version).tcp(BODY[:5000], flags=flags)
    header = frame.gso(1000, ecn=bit)
    wanted = kernel.cut(frame.partial, header)
    assert 5 == len(wanted)
    assert wanted == segmented(frame.partial, header)


UDP = {
    "v4": (Layers().udp(BODY[:20_000]), 1472),
    "v6": (Layers(6).udp(BODY[:20_000]), 1452),
    "odd": (Layers().udp(BODY[:9_999]), 1001),
    "equal tail": (Layers(6).udp(BODY[:4000]), 1000),
    "tail of one": (Layers().udp(BODY[:4001]), 1000),
    "64 of one byte": (Layers().udp(BODY[:64]), 1),
    "128": (Layers(6).udp(BODY[:12_800]), 100),
    "options": (Layers(options=b"\1" * 8).udp(BODY[:4001]), 1000),
    "extensions": (Layers(6, extensions=((60, options(bytes(9))),)).udp(BODY[:4001]), 1000),
    "id wraps": (Layers(ident=0xFFFF).udp(BODY[:4001]), 1000),
}


@pytest.mark.parametrize("name", UDP)
def test_udp(kernel: KernelSegmenter, name: str) -> None:
    """SG-09: a large UDP frame written to the tap."""
    frame, size = UDP[name]
    header = frame.gso(size)
    wanted = kernel.cut(frame.partial, header)
    assert len(wanted) > 1
    assert wanted == segmented(frame.partial, header)
    assert wanted == frame.segments(size)


@pytest.mark.parametrize("make", [Layers().tcp, Layers(6).tcp, Layers().udp, Layers(6).udp])
@pytest.mark.parametrize("zero", [1000, 2000, 3000])
def test_w52_w53_sums_of_zero(kernel: KernelSegmenter, make: object, zero: int) -> None:
    """W52: a datagram's sum of 0 is sent as 0xffff by both.  W53: a TCP segment's stays 0 with us;
    the kernel, which sends 0xffff there too (LX-20), says the same in other words."""
    payload = bytearray(BODY[:5000])
    payload[zero : zero + 2] = b"\0\0"
    frame: Frame = make(bytes(payload))  # type: ignore[operator]
    held = checksum.word(frame.segments(1000)[zero // 1000], frame.field)
    payload[zero : zero + 2] = held.to_bytes(2, "big")
    frame = make(bytes(payload))  # type: ignore[operator]
    wanted = kernel.cut(frame.partial, frame.gso(1000))
    found = segmented(frame.partial, frame.gso(1000))
    udp = frame.csum_offset == 6
    assert (0xFFFF if udp else 0) == checksum.word(found[zero // 1000], frame.field)
    if not udp and checksum.word(wanted[zero // 1000], frame.field) == 0xFFFF:
        wanted[zero // 1000] = checksum.put(wanted[zero // 1000], frame.field, 0)
    assert wanted == found


def uncut(first: bytes, payload: bytes) -> tuple[Frame, NetHeader]:
    """The large frame of which `first` is the first segment, as a driver would hand it over."""
    headers = parse(first)
    front = first[: header_len(first, headers)]
    l3, l4 = headers.l3_off, headers.l4_off
    length = len(front) - l4 + len(payload)
    if headers.ethertype == IPV4:
        front = checksum.put(front, l3 + 2, l4 - l3 + length)
        front = checksum.put(front, l3 + 10, 0)
        front = checksum.put(front, l3 + 10, 0xFFFF - checksum.ones_sum(front[l3:l4]))
    else:
        front = checksum.put(front, l3 + 4, l4 - l3 - 40 + length)
    front = checksum.put(front, l4 + 4, length)
    seed = checksum.pseudo_header(headers.src, headers.dst, checksum.UDP, length)
    frame = Frame(front + payload, l4, 6, seed)
    return frame, frame.gso(len(first) - len(front))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("length", "size"),
    [(20_000, 1400), (9_999, 1001), (4000, 1000), (4001, 1000), (12_800, 100), (128, 1), (65, 1)],
)
def test_w61_udp_sockets(version: int, length: int, size: int) -> None:
    """W61: what a socket with UDP_SEGMENT sends is what vionet makes of the same datagrams in one
    frame: equal tails, shorter ones, one byte, up to 128."""
    with own_namespace():
        sender = KernelSender()
        try:
            wanted = sender.datagrams(version, BODY[:length], size)
        finally:
            sender.close()
    assert -(-length // size) == len(wanted)
    frame, header = uncut(wanted[0], BODY[:length])
    assert wanted == segmented(frame.partial, header)


@pytest.mark.parametrize("value", [0, 0xFFFF])
def test_w17_wrong_ipv4_header_checksum(kernel: KernelSegmenter, value: int) -> None:
    """W17: the kernel's bridge is not bothered by it, and its segments are right; so are ours."""
    frame = Layers().tcp(BODY[:5000])
    data = checksum.put(frame.partial, 24, value)
    assert kernel.cut(frame.partial, frame.gso(1000)) == segmented(data, frame.gso(1000))


def test_routing_under_way(kernel: KernelSegmenter) -> None:
    """The seed of a sender that knows the final address, corrected by the length alone."""
    final = bytes(range(16))
    layers = Layers(6, extensions=((43, routing(1)),))
    plain = layers.tcp(BODY[:5000])
    seed = checksum.pseudo_header(layers.ends[0], final, checksum.TCP, 5020)
    frame = Frame(plain.data, plain.csum_start, plain.csum_offset, seed)
    wanted = kernel.cut(frame.partial, frame.gso(1000))
    assert 5 == len(wanted)
    assert wanted == segmented(frame.partial, frame.gso(1000))


def test_atomic_fragment() -> None:
    """An atomic fragment's extension header is repeated; the kernel refuses to cut such a frame,
    so that the reference is all there is to compare with."""
    frame = Layers(6, extensions=((44, fragment6(0, False)),)).tcp(BODY[:5000])
    assert frame.segments(1000) == segmented(frame.partial, frame.gso(1000))


def test_oracle_sees_a_difference(kernel: KernelSegmenter) -> None:
    """The comparison is of whole frames: one more in sequence, and they differ."""
    one, other = Layers().tcp(BODY[:5000]), Layers().tcp(BODY[:5000], seq=1001)
    assert kernel.cut(one.partial, one.gso(1000)) != segmented(other.partial, other.gso(1000))
