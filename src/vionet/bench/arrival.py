"""What the load does with a frame that arrived, from whatever ring: is it the one expected?

How it works: a frame begins with its virtio-net header and may span several buffers.  Of each its
header's kind, its number and its length are compared; of a sample, every byte that is the same in
all frames (`End.same_hva` has their bits) with the frame as it was sent.

Trust: the back-end's lengths and num_buffers are only counted with; no access goes beyond the
pattern or the buffer.
"""

from typing import Final

from vionet.bench.layout import END, RING, End, Ring
from vionet.jit import raw
from vionet.jit.kernel import INT, kernel
from vionet.spec.virtio_net import HDR_NUM_BUFFERS, VIRTIO_NET_HDR_F_NEEDS_CSUM

LOW: Final = 0xFFFFFFFF
LARGE: Final = 0x0000_FFFF_0000_FF00  # of a header's first 8 bytes: gso_type and gso_size


@kernel(INT, END, INT, INT)
def compare(end: End, hva: int, length: int) -> int:
    """Compare a piece of the frame in hand, which begins at `pieces_len`, with what was sent."""
    length = min(length, end.frame_len - end.pieces_len)
    pattern_hva = end.pattern_hva + end.pieces_len
    same_hva = end.same_hva + end.pieces_len
    found = 0
    words = max(0, length) >> 3
    for i in range(words):
        word = raw.load_i64(hva + 8 * i) ^ raw.load_i64(pattern_hva + 8 * i)
        found |= word & raw.load_i64(same_hva + 8 * i)
    for i in range(8 * words, length):
        octet = raw.load_u8(hva + i) ^ raw.load_u8(pattern_hva + i)
        found |= octet & raw.load_u8(same_hva + i)
    end.wrong += found != 0
    return 0


@kernel(INT, END, INT, INT, inline=True)
def begin_frame(end: End, buf_hva: int, seq_hva: int) -> int:
    """Look at header and number of a frame whose first buffer this is."""
    header = raw.load_i64(buf_hva)
    end.partial += header & VIRTIO_NET_HDR_F_NEEDS_CSUM
    if end.mergeable:
        end.pieces = raw.load_u16(buf_hva + HDR_NUM_BUFFERS) - 1
        if end.pieces < 0:  # num_buffers was not written
            end.wrong += 1
            end.pieces = 0
    word = raw.load_i64(seq_hva)
    seq = word & LOW
    ahead = (seq - end.expected_seq) & LOW
    end.comparing = 1 if seq & end.sample == 0 else 0
    end.compared += end.comparing
    if header & LARGE != end.large or seq ^ ((word >> 32) & LOW) != LOW or ahead >> 31:
        end.wrong += 1
        return 0
    end.lost += ahead
    end.expected_seq = seq + 1
    return 0


@kernel(INT, END, RING, INT, INT, inline=True)
def take_buffer(end: End, ring: Ring, buf_hva: int, length: int) -> int:
    """Take in one used buffer, which begins a frame or goes on with the one in hand."""
    if end.pieces == 0:
        begin_frame(end, buf_hva, buf_hva + ring.seq_off)
        buf_hva += end.header_len
        length -= end.header_len
        end.pieces_len = 0
    else:
        end.pieces -= 1
    if end.comparing:
        compare(end, buf_hva, length)
    end.pieces_len += length
    if end.pieces == 0:
        end.received += 1
        end.octets += end.pieces_len
        end.wrong += end.pieces_len != end.frame_len
    return 0
