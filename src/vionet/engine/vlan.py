"""VLANs of a switch: which one a frame belongs to, which ports it may leave by, and its tag.

How it works: `classify` finds the VLAN of a frame at ingress, `change_for` what leaving by a port
does to its tag.  `retag` makes a head copy with the tag pushed or popped and moves every offset of
the frame with it (spec SG-13, W51); `restore` takes the frame back, so that the next port of a
flood finds it as it came.

An access port (`vlan`, no `trunk`) sends and receives untagged; a trunk carries tagged what its
bitmap allows, and its native VLAN (`vlan`) untagged.  A port with neither is transparent: all
VLANs pass tagged, and what is untagged is in VLAN 0 and stays as it came.  Only an outermost 802.1Q
tag counts: with 802.1ad outside the frame is untagged, and passes whole.  A priority tag (VID 0) is
given the port's VLAN and keeps its priority.

Invariants: nothing of this is asked unless `State.vlan_aware`.  The head copy that came is left as
it was, because deliveries that are still to be written (`work.late`) point at it and at earlier
ones; the copies live in `work.alts` until the end of the burst.
"""

from vionet.engine.deliver_guest import flush
from vionet.engine.guest import U16, copy_head
from vionet.engine.layout import (
    BURST_MAX,
    FRAME,
    FRAME_MAX,
    PORT,
    SLOT_LEN,
    WORK,
    Frame,
    Port,
    Work,
)
from vionet.engine.parse import swap16
from vionet.engine.status import FRAME_TOO_LONG, FRAME_TOO_SHORT, OK, VLAN_NOT_ALLOWED, Csum
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import load_i64, load_u16, load_u32, store_i64, store_u16, store_u32
from vionet.spec.packet import ETH_HLEN, ETH_P_8021Q

INNER_PARTIAL = int(Csum.INNER_PARTIAL)
TAG_LEN = 4
TAG_OFF = 12
VID_MASK = 0xFFF
VLAN_SHIFT = 48  # of the VLAN in a key of the forwarding table
NOT_A_MEMBER = 1  # of `change_for`, which else returns -4, 0 or 4
TAG_LE = (ETH_P_8021Q & 0xFF) << 8 | ETH_P_8021Q >> 8  # as a little-endian load sees it


@kernel(INT, WORK, FRAME, inline=True)
def tag_of(work: Work, frame: Frame) -> int:
    """The 16 bits of the outermost 802.1Q tag; -1: there is none, or it is cut off."""
    base = work.head_hva + TAG_OFF
    if load_u16(base) != TAG_LE or frame.head_len < ETH_HLEN + TAG_LEN:
        return -1
    return swap16(load_u16(base + 2))


@kernel(INT, PORT, INT)
def member(port: Port, vid: int) -> int:
    """Whether frames of VLAN `vid` may pass this port; VLAN 0 is what no port gave a VLAN."""
    if port.vlan:
        if vid == port.vlan:
            return 1
    elif not port.trunk:
        return 1
    return port.vlans[vid >> 6] >> (vid & 63) & 1 if port.trunk else 0


@kernel(INT, PORT, WORK, FRAME)
def classify(port: Port, work: Work, frame: Frame) -> int:
    """Set the frame's VLAN.  *returns* OK or a drop reason."""
    frame.vid = port.vlan
    frame.tci = port.vlan
    frame.tagged = 0
    tci = tag_of(work, frame)
    if tci >= 0:
        frame.tagged = 1
        if tci & VID_MASK:
            frame.vid = tci & VID_MASK
        elif port.vlan:
            store_u16(work.head_hva + TAG_OFF + 2, swap16(tci | port.vlan))
    elif load_u16(work.head_hva + TAG_OFF) == TAG_LE:
        return FRAME_TOO_SHORT
    return OK if member(port, frame.vid) else VLAN_NOT_ALLOWED


@kernel(INT, PORT, FRAME)
def change_for(port: Port, frame: Frame) -> int:
    """By how many bytes the frame's tag makes it longer at `port`, or NOT_A_MEMBER."""
    if not member(port, frame.vid):
        return NOT_A_MEMBER
    if frame.vid == 0:
        return 0
    if frame.vid == port.vlan:
        return -TAG_LEN if frame.tagged else 0
    return 0 if frame.tagged else TAG_LEN


@kernel(INT, FRAME, INT)
def shift(frame: Frame, change: int) -> int:
    """Move every offset behind the tag by `change` bytes."""
    frame.length += change
    frame.head_len += change
    frame.reached += change
    frame.csum_start += change
    frame.gso_header_len += change
    if frame.l3_off:
        frame.l3_off += change
    if frame.l4_off:
        frame.l4_off += change
    return 0


@kernel(INT, WORK, FRAME, INT)
def retag(work: Work, frame: Frame, change: int) -> int:
    """Push (4) or pop (-4) the tag, in a head copy of its own.  *returns* OK or a drop reason."""
    if frame.length + change > FRAME_MAX or (
        frame.state == INNER_PARTIAL and frame.csum_start + change > U16  # a header could not say
    ):
        return FRAME_TOO_LONG
    if work.n_alts == BURST_MAX:
        flush(work)
        work.n_alts = 0
    source = work.head_hva
    slot = work.alts_hva + SLOT_LEN * work.n_alts
    work.n_alts += 1
    copy_head(slot, source, frame.head_len)  # what is behind the tag is now where it belongs
    head = slot - change
    store_i64(head, load_i64(source))
    store_u32(head + 8, load_u32(source + 8))
    if change > 0:
        store_u32(head + TAG_OFF, TAG_LE | swap16(frame.tci) << 16)
    work.head_hva = head
    shift(frame, change)
    return OK


@kernel(INT, WORK, FRAME, INT, INT)
def restore(work: Work, frame: Frame, change: int, head_hva: int) -> int:
    """The frame as it was before `retag`."""
    work.head_hva = head_hva
    shift(frame, -change)
    return 0
