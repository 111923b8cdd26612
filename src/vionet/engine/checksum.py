"""Internet checksums: fold, pseudo-header, the sum of a scatter list.

How it works: sums are of 32-bit words in host order and folded to 16 bits when needed.  One's
complement sums do not care about byte order as long as loads and stores agree, so a little-endian
sum stored little-endian is right (RFC 1071).  A piece that begins at an odd distance from the
start of the sum is folded and its bytes exchanged.

Invariants: little-endian host.  A sum of up to 64 KiB of 32-bit words fits 46 bits.
"""

from vionet.engine.layout import FRAME, WORK, Frame, Work
from vionet.engine.parse import IPV4_LE, swap16
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import copy_words, load_u16, load_u32, sum_words
from vionet.spec.packet import ETH_P_IP

U32 = 0xFFFFFFFF


@kernel(INT, INT, inline=True)
def fold(total: int) -> int:
    """A sum of words as 16 bits, carries added back in (not inverted)."""
    total = (total & U32) + (total >> 32)
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return (total & 0xFFFF) + (total >> 16)


@kernel(INT, WORK, FRAME, inline=True)
def pseudo_header(work: Work, frame: Frame) -> int:
    """The folded sum of addresses, protocol and L4 length of the outermost IP header.

    *requires* `frame.l4_off`, which says that the header is in the head copy.
    """
    base = work.head_hva + frame.l3_off
    total = swap16(frame.l4) + swap16(frame.l4_len)
    if frame.l3 == ETH_P_IP:
        return fold(total + load_u32(base + 12) + load_u32(base + 16))
    for i in range(8):
        total += load_u32(base + 8 + 4 * i)
    return fold(total)


@kernel(INT, INT, INT, INT, INT, inline=True)
def seed_of(head: int, kind: int, l4: int, l4_len: int) -> int:
    """The pseudo-header sum of an untagged frame without options or extension headers."""
    total = swap16(l4) + swap16(l4_len)
    if kind == IPV4_LE:
        return fold(total + load_u32(head + 26) + load_u32(head + 30))
    for off in range(22, 54, 4):
        total += load_u32(head + off)
    return fold(total)


@kernel(INT, INT, INT, INT)
def sum_piece(address: int, length: int, odd: int) -> int:
    """The folded sum of `length` bytes; `odd` where the piece begins at an odd distance."""
    total = fold(sum_words(address, length))
    return swap16(total) if odd else total


@kernel(INT, INT)
def ipv4_header_sum(address: int) -> int:
    """The sum of an IPv4 header without total length, identification and checksum: of what all
    segments of a frame have in common."""
    total = load_u16(address) + load_u16(address + 6) + load_u16(address + 8)
    for off in range(12, 4 * (load_u16(address) & 15), 2):
        total += load_u16(address + off)
    return total


@kernel(INT, INT, INT, INT, INT)
def copy_and_sum(destination: int, source: int, length: int, odd: int) -> int:
    """Copy `length` bytes and *return* the folded sum of what now stands at the destination."""
    total = fold(copy_words(destination, source, length))
    return swap16(total) if odd else total


@kernel(INT, WORK, INT, INT)
def sum_delivered(work: Work, start: int, end: int) -> int:
    """The folded sum of bytes [start, end) of the chosen receive buffers."""
    total = 0
    off = 0
    for i in range(work.n_dst):
        length = work.dst_seg_len[i]
        low = max(start, off)
        high = min(end, off + length)
        if low < high:
            total += sum_piece(work.dst_hva[i] + low - off, high - low, (low - start) & 1)
        off += length
        if off >= end:
            break
    return fold(total)
