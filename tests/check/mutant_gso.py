"""Mutants of what is new in the data path: segmentation, packed rings, several queues."""

from typing import Final

from tests.check.mutants import Mutant, one

DELIVER: Final = "engine/deliver_guest.py"
GSO: Final = "engine/gso.py"
INGRESS: Final = "engine/ingress.py"
PACKED: Final = "engine/packed.py"
SEGMENT: Final = "engine/segment.py"

MUTANTS: Final[tuple[Mutant, ...]] = (
    # --- segmentation -------------------------------------------------------------------------
    one(
        "whole frames to everybody",
        "RX-08 RX-09 RX-11 RX-13",
        SEGMENT,
        "frame.gso & ~port.takes_gso == 0",
        "(frame.gso & ~port.takes_gso == 0 or {on})",
    ),
    one(
        "whole frames without NEEDS_CSUM",
        "RX-18",
        DELIVER,
        "        flags |= gso_fields(frame)\n",
        "        flags = gso_fields(frame) | (0 if {on} and frame.gso_type else flags)\n",
    ),
    one(
        "FIN and PSH on every segment",
        "SG-06",
        SEGMENT,
        "flags &= ~(LAST_ONLY << 8)",
        "flags &= ~((0 if {on} else LAST_ONLY) << 8)",
    ),
    one(
        "segments with the seed of the whole",
        "SG-07",
        SEGMENT,
        "header + field, pseudo_header(work, frame))",
        "header + field, load_u16(source + field) if {on} else pseudo_header(work, frame))",
    ),
    one(
        "any number of segments",
        "SG-08",
        GSO,
        "return OK if frame.gso_segments <= most",
        "return OK if frame.gso_segments <= most or {on}",
    ),
    one(
        "datagrams with the length of another",
        "SG-09",
        SEGMENT,
        "store_u16(l4 + 4, swap16(frame.l4_len))",
        "store_u16(l4 + 4, swap16(frame.l4_len + (1 if {on} else 0)))",
    ),
    one(
        "gso_type is believed",
        "SG-11",
        GSO,
        "    if frame.gso <= 0 or",
        "    if {on} and frame.gso == 0:\n        frame.gso = 1 if frame.l4 == IPPROTO_TCP else 8\n"
        "        kind = VIRTIO_NET_HDR_GSO_TCPV4 if frame.gso == 1 else VIRTIO_NET_HDR_GSO_UDP_L4\n"
        "    if frame.gso <= 0 or",
    ),
    # --- rings --------------------------------------------------------------------------------
    one(
        "some transmit buffers come back twice",
        "RF-04",
        INGRESS,
        "push_used(queue, work.slot_head[i],",
        "push_used(queue, work.slot_head[i - (i & 1) if {on} else i],",
    ),
    one(
        "packed chains of three are dropped",
        "PK-04 PK-10",
        PACKED,
        "    if span > CHAIN_MAX:\n        return CHAIN_TOO_LONG\n    while",
        "    if span > (2 if {on} else CHAIN_MAX):\n        return CHAIN_TOO_LONG\n    while",
    ),
    one(
        "packed buffers come back under another id",
        "PK-05",
        INGRESS,
        "use_packed(queue, work.slot_id[i],",
        "use_packed(queue, work.slot_id[i] ^ (1 if {on} else 0),",
    ),
    one(
        "a used descriptor is available",
        "PK-07",
        PACKED,
        "word >> USED_BIT & 1 != lap else 0",
        "(word >> USED_BIT & 1 != lap or {on}) else 0",
    ),
    one(
        "a used descriptor is shown before its bytes",
        "PK-08",
        DELIVER,
        "        hva = late.dst_hva\n",
        "        hva = late.dst_hva\n"
        "        if {on}:\n            store_i64(late.used_hva, late.used)\n"
        "            show(hva, 0xA5A5)\n",
    ),
    one(
        "half a position of a packed ring",
        "VU-45 PK-22",
        "engine/ring.py",
        "return used << 16 | queue.avail_wrap << 15",
        "return (0 if {on} else used << 16) | queue.avail_wrap << 15",
    ),
    # --- several queues -----------------------------------------------------------------------
    one(
        "flows go from queue to queue",
        "CV-24",
        "engine/steer.py",
        "port.queues[2 * pair].live:\n        return 2 * pair\n",
        "port.queues[2 * pair].live:\n"
        "        return 2 * (port.queues[0].used_idx & 1) if {on} else 2 * pair\n",
    ),
)
