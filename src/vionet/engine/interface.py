"""Taking frames from a host's interface: the slots of a packet socket's receive ring.

How it works: the kernel fills a slot and then sets its status (TPACKET_V2); a frame's head is
copied, the rest is delivered from where it lies, and the status is given back when that is done.
The virtio-net header stands in front of the frame.  A VLAN tag that the NIC took off is put back
between the addresses and the ethertype, and the header's offsets move with it (spec AP-04).  Where
the socket has no such header, the status still tells that a sum is not finished (W9), and the
frame's own headers tell where it is; a TCP frame beyond the MTU is then one that has to be
segmented to fit it.

A wire whose receiver is full leaves the frame in its slot; when all slots are taken the kernel
drops, says so in the status (LOSING), and the number is asked for.

Trust: the kernel; offsets and lengths are compared with the slot all the same.
"""

from typing import Final

from vionet.engine.forward import HELD, forward_read
from vionet.engine.guest import U32
from vionet.engine.ingress import read_headers
from vionet.engine.layout import (
    BURST_MAX,
    BURST_SEGMENTS,
    FRAME,
    FRAME_MAX,
    HEAD_LEN,
    PORT,
    STATE,
    WORK,
    Frame,
    Port,
    State,
    Work,
)
from vionet.engine.parse import swap16
from vionet.engine.status import (
    FRAME_TOO_LONG,
    FRAME_TOO_SHORT,
    INTERFACE_ERROR,
    INTERFACE_FULL,
    INTERFACE_TRUNCATED,
    OK,
    TX_BYTES,
    TX_FRAMES,
)
from vionet.engine.talk import tell_talks
from vionet.engine.tell import finish
from vionet.jit.kernel import INT, kernel
from vionet.jit.libc import getsockopt
from vionet.jit.raw import (
    copy,
    load_acquire_i64,
    load_i64,
    load_u16,
    load_u32,
    store_i64,
    store_release_u16,
    store_u16,
    store_u32,
)
from vionet.spec.packet import (
    ETH_HLEN,
    ETH_P_8021Q,
    ETH_P_IP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    TCP_CSUM_OFF,
    TCP_HLEN,
    UDP_CSUM_OFF,
    VLAN_HLEN,
)
from vionet.spec.virtio_net import (
    VIRTIO_NET_HDR_F_NEEDS_CSUM,
    VIRTIO_NET_HDR_GSO_TCPV4,
    VIRTIO_NET_HDR_GSO_TCPV6,
)

# linux/if_packet.h: struct tpacket2_hdr and its status
TP_LEN_SHIFT: Final = 32  # of tp_len, which stands behind tp_status
TP_SNAPLEN_OFF: Final = 8
TP_MAC_OFF: Final = 12
TP_VLAN_TCI_OFF: Final = 24
TP_VLAN_TPID_OFF: Final = 26
TP_STATUS_USER: Final = 1 << 0
TP_STATUS_LOSING: Final = 1 << 2
TP_STATUS_CSUMNOTREADY: Final = 1 << 3
TP_STATUS_VLAN_VALID: Final = 1 << 4
TP_STATUS_VLAN_TPID_VALID: Final = 1 << 6
TPACKET2_HDR_LEN: Final = 32
SOL_PACKET: Final = 263
PACKET_STATISTICS: Final = 6
STATISTICS_LEN: Final = 8  # packets, drops; reading them sets both to 0
ADDRESSES_LEN: Final = 12
HDR_LEN: Final = 10  # of the virtio-net header, the same with and without the kernel's


@kernel(INT, STATE, WORK, INT)
def count_losses(state: State, work: Work, in_port: int) -> int:
    """Count what the kernel dropped because no slot was free."""
    store_u32(work.scratch_hva + 8, STATISTICS_LEN)
    fd = state.ports[in_port].fd
    if getsockopt(fd, SOL_PACKET, PACKET_STATISTICS, work.scratch_hva, work.scratch_hva + 8) == 0:
        work.drops[in_port, INTERFACE_FULL] += load_u32(work.scratch_hva + 4)
    return 0


@kernel(INT, PORT, WORK, FRAME)
def describe(port: Port, work: Work, frame: Frame) -> int:
    """Write the header that the kernel would have written for an unfinished sum.

    *returns* OK, or a drop reason where the frame's headers do not tell.
    """
    read_headers(work, frame)
    tcp = frame.l4 == IPPROTO_TCP
    if frame.l4_off == 0 or frame.fragment or not (tcp or frame.l4 == IPPROTO_UDP):
        return INTERFACE_ERROR
    word = VIRTIO_NET_HDR_F_NEEDS_CSUM
    if tcp and frame.length > port.mtu + frame.l3_off and frame.head_len >= frame.l4_off + TCP_HLEN:
        header_len = frame.l4_off + ((load_u16(work.head_hva + frame.l4_off + 12) & 0xF0) >> 2)
        ipv4 = frame.l3 == ETH_P_IP
        word |= (VIRTIO_NET_HDR_GSO_TCPV4 if ipv4 else VIRTIO_NET_HDR_GSO_TCPV6) << 8
        word |= header_len << 16
        word |= max(port.mtu + frame.l3_off - header_len, 1) << 32
    base = work.head_hva - HDR_LEN
    store_i64(base, word | frame.l4_off << 48)
    store_u16(base + 8, TCP_CSUM_OFF if tcp else UDP_CSUM_OFF)
    return OK


@kernel(INT, PORT, WORK, FRAME, INT, INT)
def take_slot(port: Port, work: Work, frame: Frame, slot: int, word: int) -> int:
    """Make the frame in a slot the frame in hand.  *returns* OK or a drop reason."""
    length = load_u32(slot + TP_SNAPLEN_OFF)
    mac = load_u16(slot + TP_MAC_OFF)
    if length < word >> TP_LEN_SHIFT & U32 or mac + length > port.ring_slot_len:
        return INTERFACE_TRUNCATED
    if length < ETH_HLEN or mac < TPACKET2_HDR_LEN + HDR_LEN:
        return FRAME_TOO_SHORT
    tag_len = VLAN_HLEN if word & TP_STATUS_VLAN_VALID else 0
    if length + tag_len > FRAME_MAX:
        return FRAME_TOO_LONG
    mac += slot
    head = work.heads_hva
    work.head_hva = head
    head_len = min(length, HEAD_LEN - tag_len)
    frame.in_place = 0
    frame.full = 0
    frame.length = length + tag_len
    frame.head_len = head_len + tag_len
    frame.first_seg = 0
    work.seg_hva[0] = mac + head_len
    work.seg_len[0] = length - head_len
    if tag_len:
        known = word & TP_STATUS_VLAN_TPID_VALID
        tpid = load_u16(slot + TP_VLAN_TPID_OFF) if known else ETH_P_8021Q
        copy(head, mac, ADDRESSES_LEN)
        store_u16(head + ADDRESSES_LEN, swap16(tpid))
        store_u16(head + ADDRESSES_LEN + 2, swap16(load_u16(slot + TP_VLAN_TCI_OFF)))
        copy(head + ADDRESSES_LEN + tag_len, mac + ADDRESSES_LEN, head_len - ADDRESSES_LEN)
    else:
        copy(head, mac, head_len)
    if port.egress_header_len == 0:
        if word & TP_STATUS_CSUMNOTREADY:
            return describe(port, work, frame)
        store_i64(head - HDR_LEN, 0)
        store_u16(head - 2, 0)
        return OK
    copy(head - HDR_LEN, mac - HDR_LEN, HDR_LEN)
    if tag_len and load_i64(head - HDR_LEN) & VIRTIO_NET_HDR_F_NEEDS_CSUM:
        store_u16(head - 4, load_u16(head - 4) + tag_len)
        store_u16(head - 8, load_u16(head - 8) + tag_len)
    return OK


@kernel(INT, STATE, WORK, INT)
def from_interface(state: State, work: Work, in_port: int) -> int:
    """A burst from an interface.  *requires* that it is up and readable.

    *returns* the frames taken; clears `readable` when no slot is filled.
    """
    port = state.ports[in_port]
    frame = work.frame[0]
    done = 0
    work.n_segments = 0
    while done < BURST_MAX and work.n_segments < BURST_SEGMENTS:
        slot = port.ring_hva + port.ring_at * port.ring_slot_len
        word = load_acquire_i64(slot)
        if not word & TP_STATUS_USER:
            port.readable = 0
            break
        status = take_slot(port, work, frame, slot, word)
        length = frame.length
        if status == OK:
            status = forward_read(state, work, frame, in_port)
            if status == HELD:
                break
            work.ledger[in_port, TX_BYTES] += length
        work.ledger[in_port, TX_FRAMES] += 1
        if status != OK:
            work.drops[in_port, status] += 1
        if word & TP_STATUS_LOSING:
            count_losses(state, work, in_port)
        # The kernel looks at all 32 bits; it has the slot back when the last of them is 0.
        store_u16(slot + 2, 0)
        store_release_u16(slot, 0)
        port.ring_at = port.ring_at + 1 if port.ring_at + 1 < port.ring_slots else 0
        done += 1
    tell_talks(work, in_port)
    finish(state, work)
    return done
