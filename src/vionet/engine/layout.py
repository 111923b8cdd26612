"""Every record that kernels work on, and how large everything may become.

How it works: `State` is what a fabric is (ports, rings, memory maps, forwarding table); `Work` is
what one worker alone writes: the frame in hand and what it has counted.  Both are single blocks of
memory that never move; a kernel receives each as one pointer.

Invariants: every field has one writer at a time.  While the workers run, they write, and where
there are several `engine.share` says which; the control plane writes only while they are paused
(`fabric.worker`), except `State.stop` and `State.watched`.
Addresses end in `_hva` (host) or `_gpa` (guest-physical); lengths are bytes.
"""

from typing import Annotated, Final

from vionet.engine.entry import FdbEntry, Late, Region, Rule
from vionet.engine.status import DROP_REASONS, LEDGER_KEYS
from vionet.jit.record import Bytes, Ints, Record, Records, record_type

# --- limits -----------------------------------------------------------------------------------
PORTS_MAX: Final = 64  # ports of one fabric
WORKERS_MAX: Final = 16  # threads of one fabric
PAIRS_MAX: Final = 8  # queue pairs of one port
QUEUES_PER_PORT: Final = 2 * PAIRS_MAX + 1  # and a control queue
REGIONS_MAX: Final = 32  # memory regions of one guest (GET_MAX_MEM_SLOTS)
CHAIN_MAX: Final = 1024  # descriptors of one chain, direct and indirect together (spec SP-03)
SEGMENTS_MAX: Final = 2 * CHAIN_MAX + 16  # a descriptor may span two regions; plus our own
BURST_MAX: Final = 64  # frames taken from one port before the next has its turn
HEAD_ROOM: Final = 64  # in front of the head copy, for the virtio-net header
HEAD_LEN: Final = 128  # bytes of a frame copied to be judged
HEAD_MAX: Final = 512  # the most, where IPv6 extension headers need it
LATE_MAX: Final = 256  # deliveries written together
GSO_SEGMENTS_MAX: Final = 2048  # of one frame: 64 KiB at the smallest segment that TCP uses
BURST_SEGMENTS: Final = 128  # made in software, after which a burst ends: half a usual ring
PATIENCE_NS: Final = 2_000_000  # a driver is waited for that has posted enough for a frame before
FLOWS_MAX: Final = 1024  # slots of the table that keeps a flow on one queue, a power of two
FILTER_MAX: Final = 64  # addresses in a driver's unicast or multicast filter
CAPTURES_MAX: Final = 4  # at a time, of one fabric
CODE_MAX: Final = 4096  # instructions of a capture's filter (the kernel's BPF_MAXINSNS)
STORE_LEN: Final = 16  # words that a filter may keep (BPF_MEMWORDS)
RULES_MAX: Final = 24  # networks that a port is locked to, kept off, or reaches all the same
VLANS: Final = 4096
SLOT_LEN: Final = HEAD_ROOM + HEAD_MAX  # of one head copy; an odd number of cache lines
FRAME_MAX: Final = 65589  # spec RB-02: 14 + 40 + 65535
FDB_SIZE: Final = 16384  # slots of the forwarding table, a power of two
FDB_PROBES: Final = 8  # slots looked at for one address
FDB_PORT_MAX: Final = 4096  # addresses that one port may hold
EVENTS_MAX: Final = 64  # epoll events taken at once
PACKET_LEN: Final = 65536 + 4096  # private buffer for one frame read from a tap
IOV_MAX: Final = 1024  # Linux UIO_MAXIOV

TALK_FRAMES, TALK_BYTES, TALK_ELIDED, TALK_COMPUTED = range(4)  # what passed from port to port
TALK_LEN: Final = 4
LEDGER_LEN: Final = len(LEDGER_KEYS)
DROPS_LEN: Final = len(DROP_REASONS)
# Each lock has a cache line.
LOCK_WORDS: Final = 8


class Queue(Record):
    """One virtqueue.  Ring addresses are whole rings inside one region, checked once.

    A packed ring has its descriptors at `desc_hva`, the driver's event structure at `avail_hva`
    and the device's at `used_hva`; its indices are slots with a wrap counter beside them.
    """

    desc_hva: int
    avail_hva: int
    used_hva: int
    entries: int  # of a split ring a power of two
    packed: int
    avail_wrap: int  # packed: the wrap counters that belong to avail_idx, used_idx, published_idx
    used_wrap: int
    published_wrap: int
    avail_idx: int  # next entry of the available ring to take, mod 2^16
    avail_seen: int  # the driver's index when it was last read; saves touching its cache line
    used_idx: int  # next entry of the used ring to write, mod 2^16
    published_idx: int  # used_idx that the driver has been shown
    ready: int  # addresses are set and valid
    started: int  # spec VU-22: kicked, or never going to be
    enabled: int  # spec VU-22
    polled: int  # nobody will ever kick it (spec VU-26)
    broken: int  # the driver broke the ring; nothing is done until it is set up anew
    kick_fd: int  # -1: none
    call_fd: int
    err_fd: int
    armed: int  # the driver is asked to kick
    live: int  # ready, started, enabled and not broken: frames may be delivered
    starved: int  # a wire found too few buffers here and waits for a kick
    held: int  # a wire left a frame here because its receiver is starved
    touched: int  # a receive ring with entries that the driver has not been shown
    posted_max: int  # the most buffers ever seen waiting, until they fail to come again
    waits_ns: int  # since when a large frame waits for as many; 0: none does
    owed: int  # the driver is to be interrupted, whatever it asked for
    mirror_hva: int  # packed: where its position is kept for a restart; 0: nowhere


class Port(Record):
    """One attachment to the fabric."""

    kind: int  # PortKind
    serial: int  # of this port among all that the fabric ever had, from 1
    up: int  # attached and able to exchange frames
    features: int  # negotiated
    header_len: int  # of the virtio-net header on its rings or its tap
    egress_header_len: int  # that the kernel of a tap or an interface wants; 0: none
    mergeable: int
    event_idx: int
    indirect: int
    offers_partial: int  # it may send NEEDS_CSUM
    offers_gso: int  # GSO_* bits of what it may send
    accepts: int  # Accepts
    worker: int  # that takes what comes from it
    special: int  # ASKED, SHARED, GUARDED, CAPTURED (`engine.share`)
    takes_gso: int  # GSO_* bits of what may be delivered whole
    n_pairs: int  # queue pairs in use: frames may be delivered to receive rings 0, 2, … below
    control_ring: int  # index of the control queue; 0: it has none
    control_kicked: int  # the driver has put a command there
    link_down: int  # set down by a person: nothing passes either way
    filter: int  # FILTER_* bits of what a driver's control queue asked to keep away; 0: nothing
    vlan: int  # of untagged frames; 0: none
    trunk: int  # 1: tagged frames pass, as `vlans` allows; 0: an access port
    steers: int  # 1: more than one receive ring is in use
    locked: int
    mac: int  # 48 bits, the first octet highest; 0: none
    isolated: int
    mtu: int  # largest L3 packet, 0: no limit but FRAME_MAX
    fd: int  # of a tap, an interface, a stream
    max_frame_len: int  # the largest frame a tap's kernel side sends
    ring_hva: int  # an interface's receive ring, mapped; 0: it is read with `readv`
    ring_slots: int
    ring_slot_len: int
    ring_at: int  # the next slot to look at
    in_hva: int  # a stream's receive buffer
    in_off: int  # where the next frame in it begins
    in_len: int  # and where the bytes in it end
    out_hva: int  # what is left of a frame that the stream took only in part
    out_len: int
    out_off: int
    writable: int  # the stream takes more
    ended: int  # why its session is over: -1: the peer left, else a drop reason; 0: it is not
    polled: int  # one of its rings is
    readable: int  # epoll said that the tap has frames
    fdb_count: int  # addresses learnt here
    swept_ns: int  # when its aged addresses were last cleared out
    last_src: int  # the source address last learnt here, so that it is not looked up again
    last_seen_ns: int  # when that was
    n_regions: int
    last_region: int  # where the last address was found; tried first
    regions: Annotated[Records[Region], REGIONS_MAX]
    queues: Annotated[Records[Queue], QUEUES_PER_PORT]
    tx_pairs: int  # pairs whose transmit ring is looked at
    tx_next: int  # the pair whose turn it is
    flows: Annotated[Ints, FLOWS_MAX]  # where a flow was last sent (`engine.steer`)
    n_unicast: int
    n_multicast: int
    unicast: Annotated[Ints, FILTER_MAX]  # addresses that the driver wants besides its own
    multicast: Annotated[Ints, FILTER_MAX]
    vlans: Annotated[Ints, VLANS // 64]  # a bit for each VLAN that may pass a trunk
    vlan_filter: Annotated[Ints, VLANS // 64]  # a bit for each VLAN that the driver wants
    service: int  # 1: the control plane is at the other end (`ports.service_port`)
    n_rules: int  # 0: it may send from and to any IP address
    rules: Annotated[Records[Rule], RULES_MAX]


class Capture(Record):
    """One capture: which frames, and the ring where copies of them go (`engine.capture`)."""

    on: int
    tx_ports: int  # a bit for each port: what comes from it is recorded, once
    rx_ports: int  # what is delivered to it, or dropped there, is
    snap_len: int  # bytes of a frame at most, where nothing is to be computed from it
    whole: int  # 1: frames that are to be finished come with all their bytes whatever `snap_len`
    ring_hva: int  # the page that both sides know; records begin RING_PAGE bytes behind it
    ring_len: int  # bytes of records, a power of two
    head: int  # bytes ever written; what the page says of it is for the reader
    records: int  # ever written
    lost: int  # that found no room
    notify_fd: int  # a pipe, written where the reader waits
    code_len: int  # instructions of the filter; 0: every frame
    code: Annotated[Ints, CODE_MAX]  # struct sock_filter


class Seen(Record):
    """One record of a capture ring; `cap_len` bytes of the frame follow, then padding to 8."""

    record_len: int  # bytes with frame and padding; 0: the next record is at the ring's begin
    time_ns: int  # CLOCK_REALTIME
    in_serial: int
    out_serial: int  # 0: nobody
    in_features: int
    out_features: int
    side: int  # 0: as its sender sent it, tags and all; 1: as it was given to the receiver
    drop: int  # a drop reason, or OK
    state: int  # Csum before the plan
    accepts: int  # Accepts of the receiver; -1: nothing was planned
    action: int  # Action; -1: nothing was planned
    facts: int  # FACT_* bits
    segments: int  # delivered in software-made segments
    header: int  # the first 8 bytes of the sender's virtio-net header
    csum_offset: int
    chain: int  # the sender's descriptor; -1: it has none
    pieces: int  # that the frame lay in
    ring: int  # the sender's ring
    vid: int  # its VLAN on a switch that knows VLANs
    length: int  # bytes of the frame
    cap_len: int  # that are here


FACT_WHOLE: Final = 1  # a large frame was delivered whole
FACT_SEGMENTED: Final = 2
FACT_FLOODED: Final = 4
FACT_REPAIRED: Final = 8  # its pseudo-header sum was wrong and is right here
FACT_JUDGED: Final = 16  # `state` is known: the frame was not refused before
FACT_BAD: Final = 32  # its finished sum was verified, and is wrong

# The page in front of a capture ring: offsets; each side writes its own cache line only.
RING_PAGE: Final = 4096
RING_HEAD: Final = 0  # bytes ever written (release)
RING_LOST: Final = 8  # records ever lost
RING_TAIL: Final = 64  # bytes ever read: the reader's
RING_WAITS: Final = 72  # 1: the reader sleeps and wants its eventfd written: it sets, we clear


class State(Record):
    """A whole fabric."""

    stop: int  # the control plane asks the workers to return
    closing: int  # and not to come back
    n_workers: int
    locks_hva: int  # of `locks`, from a cache line's begin
    first_fd: int  # epoll of kicks that start receive rings; every worker looks there
    kind: int  # FabricKind
    vlan_aware: int  # some port has a VLAN or a trunk
    reserved: int  # a bit for each of 01:80:c2:00:00:00 to :0f that passes
    unstarted: int  # receive rings that are ready, enabled and wait for their first kick
    n_ports: int  # slots below this may be in use
    ageing_ns: int
    hash_low: int  # random multipliers of the forwarding table's hash
    hash_high: int
    watched: int  # the control plane looks at the workers now and then; 0: who wakes says so
    sleep_ms: int  # how long to sleep at most; -1: until something happens
    spin_ns: int  # how long an idle worker polls before it sleeps
    notice_fd: int  # eventfd: something happened that the control plane should log
    ports: Annotated[Records[Port], PORTS_MAX]
    fdb: Annotated[Records[FdbEntry], FDB_SIZE]
    epoll_fds: Annotated[Ints, WORKERS_MAX]  # what each worker sleeps on
    locks: Annotated[Ints, LOCK_WORDS * (PORTS_MAX + CAPTURES_MAX + 2)]  # `engine.share`
    service: int  # 1 + the port where guests' requests are answered; 0: there is none
    n_captures: int  # slots of `captures` below this may be on
    captures: Annotated[Records[Capture], CAPTURES_MAX]


class Frame(Record):
    """The frame in hand: where its bytes are, and what its headers say."""

    length: int  # bytes, virtio-net header not counted
    head_len: int  # bytes of it in Work.head
    first_seg: int  # scatter list of the rest: Work.seg_*[first_seg:]
    full: int  # it filled the buffers to the last byte, so the kernel may have cut it off
    in_place: int  # the rest lies in the chosen receive buffers (a wire's tap read), whose
    # virtio-net header is this long; 0: it does not
    header: int  # the first 8 bytes of the virtio-net header, as they came
    chain: int  # of a guest's: which of the burst it is, and in how many pieces it lay
    pieces: int
    hdr_flags: int  # of the virtio-net header
    gso_type: int
    gso_size: int  # payload bytes of a segment
    gso: int  # GSO_* bits that a receiver needs to take it whole; 0: an ordinary frame
    gso_header_len: int  # bytes in front of the payload, L4 header included
    gso_segments: int
    csum_start: int
    csum_offset: int
    state: int  # Csum of the L4 checksum; -1: not judged yet
    outer: int  # Csum of the outermost L4 checksum; differs from state for INNER_PARTIAL
    l3_off: int
    l3: int  # ethertype, VLAN tags skipped
    l4_off: int  # 0: no L4 header was found
    l4: int  # IP protocol of the L4 header
    l4_len: int  # bytes from l4_off to the end of the IP datagram
    fragment: int
    routed: int  # IPv6 routing header with segments left: pseudo-header not ours to know
    dhcp: int
    bad_len: int  # the IP header's length does not fit the frame
    reached: int  # parsing knows that everything before this offset is headers below L4
    dst: int  # 48 bits
    src: int
    vid: int  # its VLAN on a switch that knows VLANs
    repaired: int  # its pseudo-header sum was put right
    tagged: int  # it carries that VLAN (or priority) in an outermost 802.1Q tag
    tci: int  # that tag's 16 bits, or those that a tag is to be made of


class Work(Record):
    """One worker's own: its clock, what it counts, its scratch."""

    now_ns: int  # the time, read now and then
    number: int  # of this worker, from 0
    n_held: int  # ports that it has locked
    n_ports: int  # that it serves
    rounds: int  # of the loop: it advances while the loop does
    telling: int  # 1 + the port whose driver is being told something; 0: none
    head_hva: int  # of the head copy in hand: a slot of `heads`, behind its room
    heads_hva: int  # of the first one
    scratch_hva: int
    packet_hva: int
    stream_hva: int
    iov_hva: int
    events_hva: int
    clock_hva: int
    one_hva: int
    stop_hva: int  # of State.stop
    parked_fd: int  # eventfd: this worker has let go of all state
    go_fd: int  # eventfd, blocking: it may go on
    n_touched: int
    n_late: int
    n_alts: int  # slots of `alts` in use
    alts_hva: int
    segment_hva: int  # the headers of the segment in hand, behind their room
    tx_ring: int  # the transmit ring that the burst is from
    rx_ring: int  # the receive ring chosen for the frame in hand
    n_segments: int  # made in software since the burst began
    crowded: int  # the last round brought much
    n_active: int
    moved: int  # bytes from guests since every port was last looked at
    taken_bytes: int  # of frames of this burst
    passed_bytes: int  # and of those that went the straight path
    cut: int  # bytes taken off the front of the scatter entry in hand
    status: int  # why not every segment was delivered
    n_dst: int
    n_chains: int
    room: int  # bytes that the chosen receive buffers can hold
    walked_len: int  # bytes of the chain walked last
    n_walked: int  # scatter entries after walking it
    frame: Annotated[Records[Frame], 1]
    touched: Annotated[Ints, PORTS_MAX * PAIRS_MAX + 1]  # port << 8 | ring with unpublished entries
    served: Annotated[Ints, PORTS_MAX]  # the ports that it serves
    quiet: Annotated[Ints, PORTS_MAX]  # looks at each of them since it last brought a frame
    active: Annotated[Ints, PORTS_MAX]  # those that were not quiet for long
    held: Annotated[Ints, PORTS_MAX]  # the ports that it has locked, and for each whether it has
    holds: Annotated[Ints, PORTS_MAX]
    seg_hva: Annotated[Ints, SEGMENTS_MAX]
    seg_len: Annotated[Ints, SEGMENTS_MAX]
    dst_hva: Annotated[Ints, SEGMENTS_MAX]
    dst_seg_len: Annotated[Ints, SEGMENTS_MAX]
    chain_head: Annotated[Ints, CHAIN_MAX]  # receive chains chosen for the frame in hand
    chain_len: Annotated[Ints, CHAIN_MAX]
    chain_span: Annotated[Ints, CHAIN_MAX]  # packed: slots of the ring that the chain takes
    iov: Annotated[Ints, 2 * IOV_MAX]
    events: Annotated[Bytes, 16 * EVENTS_MAX]
    clock: Annotated[Ints, 2]
    one: Annotated[Ints, 1]
    scratch: Annotated[Bytes, 16]
    late: Annotated[Records[Late], LATE_MAX]
    slot_head: Annotated[Ints, BURST_MAX]  # of each frame of a burst: its chain's descriptor
    slot_id: Annotated[Ints, BURST_MAX]  # packed: the buffer id that goes back
    slot_span: Annotated[Ints, BURST_MAX]  # packed: slots of the ring that its chain takes
    slot_hva: Annotated[Ints, BURST_MAX]  # where it begins, virtio-net header first
    slot_len: Annotated[Ints, BURST_MAX]  # without that header; 0: not staged
    heads: Annotated[Bytes, BURST_MAX * SLOT_LEN + 64]
    alts: Annotated[Bytes, BURST_MAX * SLOT_LEN + 64]  # head copies with a tag more or less
    segment: Annotated[Bytes, SLOT_LEN + 64]
    given: int  # a bit for each port that this burst was delivered to
    planned: int  # 1: for the last receiver it was; 0: a rule kept the frame away
    made: int  # segments of that delivery, made in software
    bad: int  # 1: its sum was verified, and is wrong
    went: int  # who the frame in hand was offered to; -1: nobody, or everybody
    outcome: int  # what became of it there
    asked: int  # captures whose filters have seen the frame in hand, a bit each
    wanted: int  # and those of them that want it
    seen_hva: int
    wall_hva: int
    seen: Annotated[Records[Seen], 1]  # the record in hand
    wall: Annotated[Ints, 2]  # the time of day
    store: Annotated[Ints, STORE_LEN]  # what a filter keeps
    talks: Annotated[Ints, PORTS_MAX, PORTS_MAX, TALK_LEN]  # from, to: TALK_* counts
    talked: Annotated[Ints, PORTS_MAX, TALK_LEN]  # and their sums, by receiver (`engine.talk`)
    ledger: Annotated[Ints, PORTS_MAX, LEDGER_LEN]  # what this worker has counted, by port
    drops: Annotated[Ints, PORTS_MAX, DROPS_LEN]
    packet: Annotated[Bytes, PACKET_LEN]  # the rest of a frame read from a tap
    stream: Annotated[Bytes, PACKET_LEN]  # a frame finished for a stream


STATE = record_type(State)
WORK = record_type(Work)
PORT = record_type(Port)
QUEUE = record_type(Queue)
CAPTURE = record_type(Capture)
FRAME = record_type(Frame)
