"""Several queues: which receive ring of a guest a frame goes to (spec CV-24 to CV-28).

How it works: `flow_of` hashes the frame's addresses, protocol and ports, the same for both
directions.  `learn_flow` notes on which transmit queue the driver sent a flow last, and `steer`
delivers it to the receive queue beside that one; a flow that is not known, and one whose queue is
not in use, goes where its hash says among those that are.  So the frames of one flow stay on one
queue, in order.

A slot of the table belongs to one flow until that has been idle for a while: another that hashes
there keeps its place by the hash, and neither pushes the other about.  Fragments are told apart by
their addresses only, because only the first has ports.

Invariants: only the head copy is read.  A ring that is not live is never chosen while another is.
"""

from vionet.engine.layout import FLOWS_MAX, FRAME, PORT, STATE, WORK, Frame, Port, State, Work
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import load_u32
from vionet.spec.packet import ETH_P_IP

U32 = 0xFFFFFFFF
MULTIPLIER = 0x45D9F3B  # below 2^27, so that no product exceeds 2^59
IDLE = 10  # units of 2^30 ns after which another flow may have the slot
# A slot: 1 + the pair in bits 0-7, the flow in 8-39, when it was last sent in 40-61.
TIME_MASK = 0x3FFFFF


@kernel(INT, INT, INT, inline=True)
def mix(value: int, word: int) -> int:
    """32 bits of hash and 32 more bits, hashed."""
    value = ((value ^ word) & U32) * MULTIPLIER
    return (value ^ value >> 17) & U32


@kernel(INT, INT, INT, INT, inline=True)
def mix_both(value: int, one: int, other: int) -> int:
    """Two words of 32 bits, the same whichever comes first."""
    return mix(mix(value, one ^ other), one + other)


@kernel(INT, INT)
def long_address(hva: int) -> int:
    """32 bits of an IPv6 address."""
    value = 0
    for i in range(4):
        value = mix(value, load_u32(hva + 4 * i))
    return value


@kernel(INT, WORK, FRAME)
def flow_of(work: Work, frame: Frame) -> int:
    """32 bits that are the same for all frames of a flow, in both directions.

    *requires* the frame parsed and its addresses read.
    """
    if frame.l4 < 0:
        return mix_both(
            mix_both(0, frame.src & U32, frame.dst & U32), frame.src >> 32, frame.dst >> 32
        )
    base = work.head_hva + frame.l3_off
    if frame.l3 == ETH_P_IP:
        value = mix_both(0, load_u32(base + 12), load_u32(base + 16))
    else:
        value = mix_both(0, long_address(base + 8), long_address(base + 24))
    if frame.fragment:
        return value
    value = mix(value, frame.l4)
    if frame.l4_off:
        ports = load_u32(work.head_hva + frame.l4_off)
        value = mix_both(value, ports & 0xFFFF, ports >> 16)
    return value


@kernel(INT, STATE, PORT, WORK, FRAME, INT)
def learn_flow(state: State, port: Port, work: Work, frame: Frame, ring: int) -> int:
    """The driver has sent the frame in hand on transmit ring `ring`."""
    flow = flow_of(work, frame)
    slot = flow & (FLOWS_MAX - 1)
    entry = port.flows[slot]
    now = work.now_ns >> 30 & TIME_MASK
    if entry == 0 or entry >> 8 & U32 == flow or (now - (entry >> 40)) & TIME_MASK > IDLE:
        port.flows[slot] = now << 40 | flow << 8 | (ring >> 1) + 1
    return 0


@kernel(INT, PORT, WORK, FRAME)
def steer(port: Port, work: Work, frame: Frame) -> int:
    """The receive ring for the frame in hand.  *requires* `port.n_pairs` above 1."""
    flow = flow_of(work, frame)
    entry = port.flows[flow & (FLOWS_MAX - 1)]
    pair: int = (entry & 0xFF) - 1
    if entry >> 8 & U32 == flow and 0 <= pair < port.n_pairs and port.queues[2 * pair].live:
        return 2 * pair
    live = 0
    for pair in range(port.n_pairs):
        live += port.queues[2 * pair].live
    nth = (flow >> 16) % max(live, 1)
    for pair in range(port.n_pairs):
        nth -= port.queues[2 * pair].live
        if nth < 0:
            return 2 * pair
    return 0
