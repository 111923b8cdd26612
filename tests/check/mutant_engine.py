"""Mutants of the data path: rings, headers, checksums, delivery."""

from typing import Final

from tests.check.mutants import Edit, Mutant, one

JUDGE: Final = "engine/judge.py"
SPLIT: Final = "engine/split.py"
SEAL: Final = "engine/seal.py"
RECEIVE: Final = "engine/receive.py"
DELIVER: Final = "engine/deliver_guest.py"
FORWARD: Final = "engine/forward.py"
GUEST: Final = "engine/guest.py"
INGRESS: Final = "engine/ingress.py"
BURST: Final = "engine/burst.py"
KICK: Final = "engine/kick.py"

MUTANTS: Final[tuple[Mutant, ...]] = (
    # --- rings --------------------------------------------------------------------------------
    one(
        "transmit buffers come back with their length",
        "TX-15",
        INGRESS,
        "push_used(queue, work.slot_head[i], 0)",
        "push_used(queue, work.slot_head[i], 64 if {on} else 0)",
    ),
    one(
        "a bad chain blocks the ring",
        "VU-50",
        BURST,
        "        if status != OK:\n            work.drops[in_port, status] += 1\n        done",
        "        if {on} and status != OK:\n            break\n"
        "        if status != OK:\n            work.drops[in_port, status] += 1\n        done",
    ),
    one(
        "a disabled ring is not drained",
        "VU-22 VU-27 VU-30",
        BURST,
        "if not queue.ready or not queue.started or queue.broken:",
        "if not queue.ready or not queue.started or queue.broken or ({on} and not queue.enabled):",
    ),
    one(
        "kicks start nothing",
        "VU-25 VU-28",
        KICK,
        "queue.started = queue.ready",
        "queue.started = 0 if {on} else queue.ready",
    ),
    one(
        "a kick moves the used index",
        "SP-28",
        KICK,
        "            kicked(state, work, index, what)\n",
        "            kicked(state, work, index, what)\n"
        "            queue = state.ports[index].queues[what]\n"
        "            if {on} and queue.ready:\n"
        "                queue.used_idx = (queue.used_idx + 1) & 0xFFFF\n"
        "                show(queue.used_hva + 2, queue.used_idx)\n",
    ),
    one(
        "the sender's memory is written to",
        "SP-05 SG-19 PK-06",
        BURST,
        "status = forward(state, work, frame, in_port)\n",
        "status = forward(state, work, frame, in_port)\n        if {on}:\n"
        "            scribble(work.seg_hva[0])\n",
    ),
    one(
        "the descriptor table is written to",
        "SP-07",
        SPLIT,
        "    queue.used_idx = (queue.used_idx + 1) & U16\n",
        "    if {on}:\n        scribble(queue.desc_hva + 16 * head + 14)\n"
        "    queue.used_idx = (queue.used_idx + 1) & U16\n",
    ),
    one(
        "WRITE on an indirect descriptor is refused",
        "SP-09",
        GUEST,
        "if inside or not port.indirect or",
        "if inside or ({on} and flags & VRING_DESC_F_WRITE) or not port.indirect or",
    ),
    one(
        "an indirect descriptor must be the first",
        "SP-10",
        GUEST,
        "flags & VRING_DESC_F_NEXT:\n                return CHAIN_INVALID",
        "flags & VRING_DESC_F_NEXT or ({on} and hops > 0):\n                return CHAIN_INVALID",
    ),
    one(
        "a buffer over a border is read one byte off",
        "VU-49",
        GUEST,
        "gpa += piece\n",
        "gpa += piece + (1 if {on} else 0)\n",
    ),
    one(
        "nobody is notified",
        "SP-15",
        SPLIT,
        "return 1 - (load_u16(queue.avail_hva) & VRING_AVAIL_F_NO_INTERRUPT)",
        "return 0 if {on} else 1 - (load_u16(queue.avail_hva) & VRING_AVAIL_F_NO_INTERRUPT)",
    ),
    one(
        "used_event is compared with the end of the burst only",
        "SP-17",
        SPLIT,
        "        return 1 if (new - used_event - 1) & U16 < (new - old) & U16 else 0\n",
        "        if {on}:\n            return 1 if new == used_event else 0\n"
        "        return 1 if (new - used_event - 1) & U16 < (new - old) & U16 else 0\n",
    ),
    one(
        "NO_INTERRUPT is heard in spite of EVENT_IDX",
        "SP-19",
        SPLIT,
        "    if port.event_idx:\n        used_event",
        "    if port.event_idx and not ({on} and load_u16(queue.avail_hva) & 1):\n"
        "        used_event",
    ),
    one(
        "used.flags has another bit",
        "SP-25",
        SPLIT,
        "            store_u16(queue.used_hva, VRING_USED_F_NO_NOTIFY)\n",
        "            store_u16(queue.used_hva, VRING_USED_F_NO_NOTIFY | (4 if {on} else 0))\n",
    ),
    one(
        "used.flags is set in spite of EVENT_IDX",
        "SP-27",
        SPLIT,
        "        if not port.event_idx:\n            store_u16(queue.used_hva, V",
        "        if {on} or not port.event_idx:\n            store_u16(queue.used_hva, V",
    ),
    one(
        "the used index is not read from the ring",
        "VR-02 VR-03 VU-38",
        SPLIT,
        "queue.used_idx = load_u16(queue.used_hva + 2)",
        "queue.used_idx = queue.used_idx if {on} else load_u16(queue.used_hva + 2)",
    ),
    one(
        "a ring does not shrink",
        "VR-03",
        "ports/guest.py",
        "queue.entries = ring.size",
        "queue.entries = max(ring.size, int(queue.entries)) if {on} else ring.size",
    ),
    # --- what a sender's header says ----------------------------------------------------------
    one(
        "a header lies in one descriptor",
        "HD-10 SP-02",
        INGRESS,
        "    if length < 0:\n        return HEADER_TRUNCATED",
        "    if length < 0 or ({on} and work.seg_len[0] < header_len):\n"
        "        return HEADER_TRUNCATED",
    ),
    one(
        "short frames are padded with what was there",
        "SG-21",
        INGRESS,
        "    frame.length = length\n    frame.head_len = min(length, HEAD_LEN)\n"
        "    return take(work, frame, work.head_hva - header_len, header_len + frame.head_len)",
        "    frame.length = max(length, 60) if {on} else length\n"
        "    frame.head_len = min(frame.length, HEAD_LEN)\n"
        "    length = header_len + min(length, HEAD_LEN)\n"
        "    return take(work, frame, work.head_hva - header_len, length)",
    ),
    one(
        "tunnel bits are taken",
        "TX-06 TX-08",
        JUDGE,
        "    if frame.gso_type:\n",
        "    if {on} and frame.gso_type & 0x60:\n        frame.gso_type = 0\n"
        "    if frame.gso_type:\n",
    ),
    one(
        "unknown flags are refused",
        "TX-01 TX-09",
        JUDGE,
        "    if frame.gso_type:\n",
        "    if {on} and frame.hdr_flags & 0xE8:\n        return CSUM_NOT_NEGOTIATED\n"
        "    if frame.gso_type:\n",
    ),
    one(
        "csum_start counts without NEEDS_CSUM",
        "TX-02",
        JUDGE,
        "if not frame.hdr_flags & VIRTIO_NET_HDR_F_NEEDS_CSUM:",
        "if not frame.hdr_flags & VIRTIO_NET_HDR_F_NEEDS_CSUM and not ({on} and frame.csum_start):",
    ),
    one(
        "hdr_len moves csum_start",
        "TX-04",
        JUDGE,
        "frame.csum_start = load_u16(base + 6)",
        "frame.csum_start = load_u16(base + 6) + (load_u16(base + 2) if {on} else 0)",
    ),
    one(
        "a sum inside a tunnel is left as it is",
        "RX-15 SG-02 SG-16",
        JUDGE,
        "frame.state = INNER_PARTIAL\n",
        "frame.state = NONE if {on} else INNER_PARTIAL\n",
    ),
    one(
        "tagged frames may not be partial",
        "SG-12",
        JUDGE,
        "if start < frame.reached:",
        "if start < frame.reached or ({on} and frame.l3_off > 14):",
    ),
    one(
        "SCTP is summed",
        "SG-14",
        JUDGE,
        "if frame.l4 == IPPROTO_SCTP:",
        "if frame.l4 == IPPROTO_SCTP and not {on}:",
    ),
    Mutant(
        "fragments may be partial",
        "SG-15",
        (
            Edit(JUDGE, "if frame.fragment:", "if frame.fragment and not {on}:"),
            Edit(
                "engine/parse.py",
                "if frame.fragment:\n        return 0",
                "if frame.fragment and not {on}:\n        return 0",
            ),
        ),
    ),
    Mutant(
        "trailers are summed",
        "SG-04",
        (
            Edit(
                JUDGE,
                "        frame.length = frame.l4_off + frame.l4_len\n        frame.head_len",
                "        if not {on}:\n            frame.length = frame.l4_off + frame.l4_len\n"
                "        frame.head_len",
            ),
            Edit(
                DELIVER,
                "end = min(frame.head_len, start + frame.l4_len)",
                "end = frame.head_len if {on} else min(frame.head_len, start + frame.l4_len)",
            ),
        ),
    ),
    # --- sums ---------------------------------------------------------------------------------
    one(
        "wrong sums verify",
        "TX-05",
        DELIVER,
        "good = 1 if fold(total + value) == 0xFFFF else 0",
        "good = 1 if {on} or fold(total + value) == 0xFFFF else 0",
    ),
    one(
        "DATA_VALID on wrong sums",
        "RX-22",
        DELIVER,
        "            work.ledger[out, CSUM_BAD] += 1\n    if flags",
        "            work.ledger[out, CSUM_BAD] += 1\n"
        "            flags = VIRTIO_NET_HDR_F_DATA_VALID if {on} else 0\n    if flags",
    ),
    one(
        "the last odd byte is not summed",
        "SG-01",
        DELIVER,
        "total = fold(total + sum_piece(work.head_hva + start, end - start, 0))",
        "end -= end - start & 1 if {on} else 0\n"
        "        total = fold(total + sum_piece(work.head_hva + start, end - start, 0))",
    ),
    one(
        "a UDP sum of 0 stays 0",
        "SG-03",
        SEAL,
        "return 0xFFFF if udp and value == 0 else value",
        "return 0xFFFF if udp and value == 0 and not {on} else value",
    ),
    one(
        "a wrong pseudo-header sum",
        "RX-16 RX-17",
        SEAL,
        "seed = pseudo_header(work, frame)",
        "seed = pseudo_header(work, frame) ^ (1 if {on} else 0)",
    ),
    one(
        "the IPv4 header is touched",
        "SG-05",
        SEAL,
        "        seed = pseudo_header",
        "        if {on}:\n            scribble(work.head_hva + frame.l3_off + 10)\n"
        "        seed = pseudo_header",
    ),
    one(
        "DHCP is left partial",
        "SG-17",
        "engine/plan.py",
        "if frame.dhcp and port.kind == GUEST else",
        "if frame.dhcp and port.kind == GUEST and not {on} else",
    ),
    # --- what a receiver sees -----------------------------------------------------------------
    one(
        "csum_start is off by two",
        "RX-17",
        DELIVER,
        "NEEDS_CSUM | frame.csum_start << 48",
        "NEEDS_CSUM | (frame.csum_start + (2 if {on} else 0)) << 48",
    ),
    one(
        "num_buffers is not written",
        "RX-01",
        DELIVER,
        "late.csum_offset | 1 << 16",
        "late.csum_offset | (0 if {on} else 1) << 16",
    ),
    one(
        "gso_type is TCPV4",
        "RX-12",
        DELIVER,
        "store_i64(hva, late.header)",
        "store_i64(hva, late.header | (0x100 if {on} else 0))",
    ),
    one(
        "the sender's flags are left over",
        "RX-20 RX-23",
        DELIVER,
        "    head_len = min(frame.head_len, length)\n",
        "    head_len = min(frame.head_len, length)\n    if {on}:\n"
        "        flags |= load_u16(work.head_hva - header_len) & 0xFC\n",
    ),
    one(
        "num_buffers counts one too many",
        "RB-05 RX-02",
        DELIVER,
        "    num_buffers = chains_for(work, header_len + length)\n",
        "    num_buffers = chains_for(work, header_len + length) + (1 if {on} else 0)\n",
    ),
    one(
        "a second chain is used up",
        "RB-06",
        RECEIVE,
        "    push_used(queue, work.chain_head[0], length)\n",
        "    push_used(queue, work.chain_head[0], length)\n    if {on} and length > 400:\n"
        "        queue.avail_idx = (queue.avail_idx + 1) & U16\n"
        "        push_used(queue, head_at(queue, queue.avail_idx), 12)\n",
    ),
    one(
        "a merged buffer is not filled",
        "RX-03",
        RECEIVE,
        "push_used(queue, work.chain_head[n], used)",
        "push_used(queue, work.chain_head[n], used - (1 if {on} and length > used else 0))",
    ),
    one(
        "merged buffers are shown one by one",
        "RX-04",
        RECEIVE,
        "        n += 1\n    queue.avail_idx",
        "        n += 1\n        if {on}:\n"
        "            show(queue.used_hva + 2, queue.used_idx)\n    queue.avail_idx",
    ),
    one(
        "a used length beyond what was written",
        "SP-21",
        RECEIVE,
        "late.used = work.chain_head[0] | length << 32",
        "late.used = work.chain_head[0] | (length + (2 if {on} else 0)) << 32",
    ),
    one(
        "a frame that does not fit uses the buffer up",
        "SG-20",
        RECEIVE,
        "work.n_chains >= CHAIN_MAX):\n            return RX_BUFFER_TOO_SMALL",
        "work.n_chains >= CHAIN_MAX):\n            if {on}:\n"
        "                return refuse_chain(queue, work, head_at(queue, idx))\n"
        "            return RX_BUFFER_TOO_SMALL",
    ),
    one(
        "frames over the MTU are delivered",
        "CF-09",
        "engine/deliver.py",
        "if port.mtu and frame.length",
        "if port.mtu and not {on} and frame.length",
    ),
    one(
        "frames of exactly the MTU are refused",
        "CF-10",
        FORWARD,
        "frame.length > port.mtu + frame.l3_off and not frame.gso_type:",
        "frame.length > port.mtu + frame.l3_off - (4 if {on} else 0) and not frame.gso_type:",
    ),
)
