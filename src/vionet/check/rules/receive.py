"""Areas 1.6 and 1.7: receive buffers, and the headers that a driver finds in them."""

import time

from vionet.check.case import CSUM, GUEST_CSUM, MRG, VERSION_1, Lab, check, variety
from vionet.check.driver import POISON, Broken
from vionet.check.judge import Sum, finish, l4_sum
from vionet.check.verdict import describe, expect, same
from vionet.spec import virtio_net as net

NEEDS = net.VIRTIO_NET_HDR_F_NEEDS_CSUM
VALID = net.VIRTIO_NET_HDR_F_DATA_VALID


@check("RB-01", does="send 1400 bytes to buffers of 512", expects="survival", survival=True)
def short_buffers(lab: Lab) -> str:
    """Buffers hold the largest frame."""
    a = lab.port(0)
    b = lab.port(1, shape=(512,), rx_buffers=64)
    lab.joined(a, b)
    token = lab.token()
    lab.absent_after(a, b, token, lab.flow().bare(token + bytes(1400)), net.NetHeader())
    return lab.survived(b)


@check("RB-03", does="post mergeable buffers of 4 bytes", expects="survival", survival=True)
def tiny_buffers(lab: Lab) -> str:
    """Mergeable buffers hold at least the header."""
    lab.need(MRG)
    b = lab.port(1)
    a = lab.port(0, VERSION_1 | MRG, rx_buffers=100, shape=(4,))
    b.send(lab.flow(back=True).bare(bytes(100)))
    b.sent(lab.patience)
    a.frontend.synchronise()
    return lab.survived(b)


@check("RB-04", does="send to a driver without buffers", expects="survival", survival=True)
def no_buffers(lab: Lab) -> str:
    """Receive queues are populated."""
    b = lab.port(1)
    a = lab.port(0, rx_buffers=0)
    for _ in range(10):
        b.send(lab.flow(back=True).bare(bytes(100)))
    time.sleep(0.02)  # the frames have to meet an empty queue
    a.fill(16)
    lab.joined(b, a)
    return lab.survived(b)


@check("RB-05", does="send frames of many sizes to buffers of 256", expects="num_buffers counts")
def buffers_counted(lab: Lab) -> str:
    """num_buffers is the number of buffers used."""
    a = lab.port(0)
    b = lab.port(1, VERSION_1 | MRG, rx_buffers=128, shape=(256,))
    lab.joined(a, b)
    seen = []
    for length in (60, 230, 231, 232, 500, 1000, 1400):
        token = lab.token()
        data = lab.flow().bare(token.ljust(length, b"\x44"))
        before = b.rx.last_used_idx
        delivery = lab.carry(a, b, token, data)
        used = (b.rx.last_used_idx - before) & 0xFFFF
        needed = -(-(b.hdr_len + len(data)) // 256)
        seen.append(f"{len(data)}: {delivery.header.num_buffers}")
        expect(delivery.header.num_buffers == used == needed, f"{', '.join(seen)} of {needed}")
        same(delivery, data)
        b.fill(needed, (256,))
    return ", ".join(seen)


@check("RB-06", does="post chains of 12 + 2000 bytes without MRG_RXBUF", expects="one chain each")
def one_chain(lab: Lab) -> str:
    """Without MRG_RXBUF a frame has one chain."""
    a = lab.port(0)
    b = lab.port(1, shape=(12, 2000))
    lab.joined(a, b)
    for length in (46, 500, 1400):
        token = lab.token()
        data = lab.flow().bare(token.ljust(length, b"\x55"))
        same(lab.carry(a, b, token, data), data)
        expect(b.rx.fresh == 0, f"{b.rx.fresh} more chains used")
    return "one chain each"


@check("RB-07", does="post buffers of seven descriptors", expects="frames are split over them")
def split_buffers(lab: Lab) -> str:
    """A buffer may have many descriptors."""
    a = lab.port(0)
    b = lab.port(1, shape=(12, 100, 1, 1, 300, 7, 1500), rx_buffers=32)
    lab.joined(a, b)
    token = lab.token()
    data = lab.flow().bare(token + bytes(i % 251 for i in range(1400)))
    return same(lab.carry(a, b, token, data), data)


@check("RX-01", does="receive without MRG_RXBUF", expects="num_buffers is 1")
def num_buffers_one(lab: Lab) -> str:
    """num_buffers is written, and 1."""
    a, b = lab.pair()
    for length in (46, 1400):
        token = lab.token()
        delivery = lab.carry(a, b, token, lab.flow().bare(token.ljust(length, b"\0")))
        seen = delivery.header.num_buffers
        expect(seen == 1, f"num_buffers is {seen:#x}")
    return "num_buffers is 1"


def _merge(lab: Lab) -> list[tuple[int, tuple[tuple[int, int], ...]]]:
    """Receive frames of several sizes into buffers of 200 bytes: (num_buffers, buffers) of each."""
    a = lab.port(0)
    b = lab.port(1, VERSION_1 | MRG, rx_buffers=128, shape=(200,))
    lab.joined(a, b)
    found = []
    for length in (40, 188, 189, 600, 1400):
        token = lab.token()
        data = lab.flow().bare(token.ljust(length, b"\x66"))
        delivery = lab.carry(a, b, token, data)
        same(delivery, data)
        found.append((delivery.header.num_buffers, delivery.buffers))
    return found


@check(
    "RX-02",
    "GU-10",
    does="receive up to 1400 bytes into buffers of 200",
    expects="num_buffers counts all",
)
def num_buffers_counts(lab: Lab) -> str:
    """num_buffers includes the buffer with the header."""
    counts = [count for count, _ in _merge(lab)]
    expect(counts == [1, 2, 2, 4, 8], f"{counts} instead of [1, 2, 2, 4, 8]")
    return f"num_buffers {counts}"


@check(
    "RX-03", does="receive up to 1400 bytes into buffers of 200", expects="all but the last full"
)
def buffers_full(lab: Lab) -> str:
    """All buffers of a frame but the last are filled."""
    for _, buffers in _merge(lab):
        for posted, used in buffers[:-1]:
            expect(used == posted, f"buffers used: {[u for _, u in buffers]} of {posted} each")
    return "all full"


@check("RX-04", does="watch the used index while 300 merged frames arrive", expects="whole frames")
def frames_whole(lab: Lab) -> str:
    """All buffers of a frame become used at once."""
    a = lab.port(0)
    b = lab.port(1, VERSION_1 | MRG, rx_buffers=128, shape=(200,))
    lab.joined(a, b)
    data = lab.flow().bare(bytes(1400))
    for _ in range(300):
        a.reap()
        a.send(data)
        deadline = time.monotonic() + lab.patience
        while not (fresh := b.rx.fresh):
            if time.monotonic() > deadline:
                raise Broken("nothing arrived")
        head = b.rx.used_at(b.rx.last_used_idx).head
        count = net.NetHeader.unpack(b.memory.read(b.posted[head][0].gpa, 12)).num_buffers
        expect(fresh >= count, f"{fresh} of {count} buffers were visible")
        b.next_frame(deadline)
        b.fill(count, (200,))
    return "300 frames, each whole at once"


@check("RX-05", does="receive 1400 bytes into buffers of 200", expects="one header, in the first")
def one_header(lab: Lab) -> str:
    """Only the first buffer begins with a header."""
    return f"{len(_merge(lab))} frames, bytes unbroken over buffers"


@check("RX-06", does="send partial, complete and wrong sums to a plain driver", expects="flags 0")
def plain_flags(lab: Lab) -> str:
    """Without GUEST_CSUM flags are 0."""
    a, b = lab.pair(VERSION_1 | CSUM & lab.offer.features)
    for name, token, frame in variety(lab):
        sent = [(net.NetHeader(flags=VALID), frame.data), (net.NetHeader(), frame.corrupted())]
        if a.features & CSUM:
            sent.append(frame.partial())
        for header, data in sent:
            delivery = lab.carry(a, b, token, data, header)
            expect(delivery.header.flags == 0, f"{name}: {describe(delivery)}")
    return "flags 0"


@check("RX-07", does="send partial sums to a plain driver", expects="complete sums")
def plain_sums(lab: Lab) -> str:
    """Without GUEST_CSUM sums are complete."""
    a, b = lab.pair(VERSION_1 | CSUM)
    for name, token, frame in variety(lab):
        header, data = frame.partial()
        delivery = lab.carry(a, b, token, data, header)
        state = l4_sum(delivery.frame)
        expect(state is Sum.COMPLETE, f"{name}: {describe(delivery)}")
    return "complete"


@check("RX-12", does="send gso_type ECN and nonsense", expects="gso_type NONE")
def plain_gso(lab: Lab) -> str:
    """Without GUEST_TSO and friends gso_type is NONE."""
    a, b = lab.pair(
        VERSION_1 | CSUM & lab.offer.features, VERSION_1 | GUEST_CSUM & lab.offer.features
    )
    for gso_type in (0, 0x80, 1, 4, 5, 0x7F):
        token = b"gso?" + bytes(8)
        frame = lab.flow().tcp(token + bytes(100))
        a.queue(frame.data, net.NetHeader(gso_type=gso_type, gso_size=1000, hdr_len=54))
        if a.features & CSUM:
            header, data = frame.partial(gso_type=gso_type, gso_size=50, hdr_len=54)
            a.queue(data, header)
    a.publish()
    count = 0
    for delivery in lab.arrivals(a, b, b"gso?"):
        expect(delivery.header.gso_type == 0, describe(delivery))
        count += 1
    expect(count > 0, "not even the frames without GSO arrived")
    return f"{count} frames, gso_type 0"


@check("RX-14", does="send a partial sum to a driver with GUEST_CSUM", expects="NEEDS_CSUM, maybe")
def may_be_partial(lab: Lab) -> str:
    """NEEDS_CSUM may be set."""
    a, b = lab.pair(VERSION_1 | CSUM, VERSION_1 | GUEST_CSUM)
    token = lab.token()
    frame = lab.flow().tcp(token)
    header, data = frame.partial()
    return describe(lab.carry(a, b, token, data, header))


@check("RX-15", does="send VXLAN with a partial inner sum", expects="a complete outer sum")
def outer_sum(lab: Lab) -> str:
    """NEEDS_CSUM vouches for what lies before it."""
    a, b = lab.pair(VERSION_1 | CSUM, VERSION_1 | GUEST_CSUM & lab.offer.features)
    for outer in (True, False):
        token = lab.token()
        frame = lab.flow().vxlan(lab.flow().tcp(token + bytes(50)), outer_sum=outer)
        lab.carry_partial(a, b, token, frame, f"outer sum {outer}")
    return "right, with an outer sum and without"


def _partials(lab: Lab) -> list[tuple[str, net.NetHeader, bytes, bytes]]:
    """What a driver with GUEST_CSUM gets for partial frames: name, header, frame, expected."""
    a, b = lab.pair(VERSION_1 | CSUM, VERSION_1 | GUEST_CSUM)
    found = []
    for name, token, frame in variety(lab):
        header, data = frame.partial()
        delivery = lab.carry(a, b, token, data, header)
        if delivery.header.flags & NEEDS:
            found.append((name, delivery.header, delivery.frame, frame.data))
    return found


@check("RX-16", does="receive with GUEST_CSUM", expects="NEEDS_CSUM: the pseudo-header sum")
def pseudo_sums(lab: Lab) -> str:
    """With NEEDS_CSUM the field holds the pseudo-header sum."""
    found = _partials(lab)
    for name, header, frame, _ in found:
        state = l4_sum(frame, partial=True)
        expect(state is Sum.PARTIAL, f"{name}: {header}, the field holds {state.value}")
    return f"{len(found)} frames with NEEDS_CSUM"


@check("RX-17", does="receive with GUEST_CSUM", expects="NEEDS_CSUM: csum_start leads to the sum")
def places_right(lab: Lab) -> str:
    """With NEEDS_CSUM the sum from csum_start on completes the frame."""
    found = _partials(lab)
    for name, header, frame, expected in found:
        expect(finish(header, frame) == expected, f"{name}: {header} does not complete the frame")
    return f"{len(found)} frames with NEEDS_CSUM"


@check("RX-20", does="send RSC_INFO", expects="never delivered")
def no_rsc(lab: Lab) -> str:
    """RSC_INFO only with RSC_EXT."""
    a, b = lab.pair(VERSION_1, VERSION_1 | GUEST_CSUM & lab.offer.features)
    for flags in (4, 6):
        token = lab.token()
        delivery = lab.carry(a, b, token, lab.flow().tcp(token).data, net.NetHeader(flags=flags))
        expect(not delivery.header.flags & 4, describe(delivery))
    return "flag 4 is clear"


@check("RX-22", does="send wrong sums marked DATA_VALID", expects="DATA_VALID is not claimed")
def valid_is_verified(lab: Lab) -> str:
    """DATA_VALID only where somebody verified."""
    a, b = lab.pair(VERSION_1 | CSUM & lab.offer.features, VERSION_1 | GUEST_CSUM)
    for name, token, frame in variety(lab):
        for flags in (0, VALID):
            delivery = lab.carry(a, b, token, frame.corrupted(), net.NetHeader(flags=flags))
            expect(not delivery.header.flags & VALID, f"{name}: {describe(delivery)}")
    return "never claimed"


@check("RX-23", does="send the tunnel flag and the tunnel bits", expects="never delivered")
def no_tunnels(lab: Lab) -> str:
    """Tunnel bits only where negotiated."""
    a, b = lab.pair(VERSION_1, VERSION_1 | GUEST_CSUM & lab.offer.features)
    for flags, gso_type in ((8, 0), (0, 0x20), (0, 0x40), (8, 0x21), (0x38, 0)):
        frame = lab.flow().tcp(b"tunl" + bytes(60))
        a.queue(frame.data, net.NetHeader(flags=flags, gso_type=gso_type, gso_size=100))
    a.publish()
    for delivery in lab.arrivals(a, b, b"tunl"):
        header = delivery.header
        expect(not header.flags & 0x78 and not header.gso_type & 0x60, describe(delivery))
    return "clear"


@check("SG-20", does="send 1400 bytes to buffers of 512", expects="dropped, buffers untouched")
def too_small(lab: Lab) -> str:
    """A frame that does not fit is dropped and the buffer stays as it was."""
    a = lab.port(0)
    b = lab.port(1, shape=(512,), rx_buffers=200)
    lab.joined(a, b)
    token = lab.token()
    heads = set(b.posted)
    lab.absent_after(a, b, token, lab.flow().bare(token + b"\x77" * 1400), net.NetHeader())
    gone = heads - set(b.posted)
    expect(len(gone) == 1, f"{len(gone)} buffers are gone for one frame that fits")
    for head in b.posted:
        for piece in b.posted[head]:
            bytes_seen = set(b.memory.read(piece.gpa, piece.length))
            expect(bytes_seen == {POISON}, f"buffer {head} was written to")
    b.frontend.synchronise()
    return "dropped; the buffers are untouched"
