"""What is ours in every frame: the virtio-net header in front, the pseudo-header sum.

Nothing of one header is left for the next (W39, W40): all its bytes are written each time.
"""

from vionet.engine.checksum import pseudo_header
from vionet.engine.layout import FRAME, WORK, Frame, Work
from vionet.engine.status import Csum
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import load_u16, store_i64, store_u16, store_u32
from vionet.spec.packet import IPPROTO_UDP, TCP_CSUM_OFF, UDP_CSUM_OFF

PARTIAL = int(Csum.PARTIAL)
HDR_LEN = 12


@kernel(INT, FRAME, inline=True)
def field_off(frame: Frame) -> int:
    """Where the outermost L4 checksum field is.  *requires* `frame.l4_off`."""
    return frame.l4_off + (UDP_CSUM_OFF if frame.l4 == IPPROTO_UDP else TCP_CSUM_OFF)


@kernel(INT, INT, INT, inline=True)
def finished(total: int, udp: int) -> int:
    """The checksum of a folded sum; for UDP 0 is sent as 0xffff (spec SG-03, W52, W53)."""
    value = total ^ 0xFFFF
    return 0xFFFF if udp and value == 0 else value


@kernel(INT, FRAME, inline=True)
def gso_fields(frame: Frame) -> int:
    """gso_type, hdr_len and gso_size of a frame that passes whole, as they stand in the first
    eight bytes; 0 for an ordinary one.  hdr_len is our own (spec RX-21)."""
    if frame.gso_type == 0:
        return 0
    return frame.gso_type << 8 | frame.gso_header_len << 16 | frame.gso_size << 32


@kernel(INT, INT, INT, INT, INT, INT, INT, inline=True)
def write_header(
    address: int, header_len: int, flags: int, start: int, offset: int, num_buffers: int
) -> int:
    """Write a fresh virtio-net header; `flags` may carry `gso_fields`."""
    store_i64(address, flags | (start << 48))
    if header_len == HDR_LEN:
        store_u32(address + 8, offset | (num_buffers << 16))
    else:
        store_u16(address + 8, offset)
    return 0


@kernel(INT, WORK, FRAME, inline=True)
def plant_seed(work: Work, frame: Frame) -> int:
    """Put our own pseudo-header sum into a PARTIAL frame; *returns* 1 for a wrong one (W63, SG-07).

    Once, at ingress: every receiver gets it or has it filled in.  With an IPv6 routing header
    under way only the sender knows the final address, and its seed stands.
    """
    if frame.state == PARTIAL and not frame.routed:
        field = work.head_hva + field_off(frame)
        seed = pseudo_header(work, frame)
        if load_u16(field) != seed:
            store_u16(field, seed)
            return 1
    return 0
