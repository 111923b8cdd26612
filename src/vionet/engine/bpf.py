"""Classic BPF: whether a capture's filter accepts the frame in hand.

How it works: two registers of 32 bits and 16 words of store, as in Linux; an instruction is a
`struct sock_filter`, one word of `Capture.code`.  Loads are big-endian, from the head copy and then
from the scatter list; one that goes beyond the frame rejects it.  libpcap compiled the filter at
the client's; `fabric.capture` has judged it before it came here: opcodes, jumps forward and inside,
store bounds, no constant 0 to divide by, RET at the end.

Invariants: each turn of the loop goes forward, so a run costs at most as many as there are
instructions.  Nothing but `work.store` is written.  A guest's bytes are compared and forgotten:
whatever they change to meanwhile decides only whether the frame is recorded.
"""

from typing import Final

from vionet.engine.layout import CAPTURE, FRAME, WORK, Capture, Frame, Work
from vionet.engine.parse import swap16
from vionet.jit.kernel import INT, kernel
from vionet.jit.raw import load_u8, load_u16

U32 = 0xFFFFFFFF
# linux/bpf_common.h: the parts of an opcode
LD, LDX, ST, STX, ALU, JMP, RET, MISC = range(8)  # & 0x07
W, H, B = 0x00, 0x08, 0x10  # & 0x18
IMM, ABS, IND, MEM, LEN, MSH = range(0, 0xC0, 0x20)  # & 0xe0
ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR = range(0, 0xB0, 0x10)  # & 0xf0
JA, JEQ, JGT, JGE, JSET = range(0, 0x50, 0x10)  # & 0xf0
X: Final = 0x08
A: Final = 0x10  # of RET
TXA: Final = 0x80  # of MISC


@kernel(INT, WORK, FRAME, INT)
def octet(work: Work, frame: Frame, off: int) -> int:
    """The byte at `off`.  *requires* that the frame has it."""
    if off < frame.head_len:
        return load_u8(work.head_hva + off)
    off -= frame.head_len
    s = frame.first_seg
    while off >= work.seg_len[s]:
        off -= work.seg_len[s]
        s += 1
    return load_u8(work.seg_hva[s] + off)


@kernel(INT, WORK, FRAME, INT, INT)
def peek_far(work: Work, frame: Frame, off: int, size: int) -> int:
    """`peek` beyond the head copy."""
    if off + size > frame.length:
        return -1
    value = 0
    for i in range(size):
        value = value << 8 | octet(work, frame, off + i)
    return value


@kernel(INT, WORK, FRAME, INT, INT, inline=True)
def peek(work: Work, frame: Frame, off: int, size: int) -> int:
    """The `size` bytes at `off` as a number, -1 where the frame ends before."""
    if off + size > frame.head_len:
        return peek_far(work, frame, off, size)
    at = work.head_hva + off
    if size == 1:
        return load_u8(at)
    if size == 2:
        return swap16(load_u16(at))
    return swap16(load_u16(at)) << 16 | swap16(load_u16(at + 2))


@kernel(INT, INT, INT, INT)
def compute(operation: int, a: int, operand: int) -> int:
    """ALU; -1 for a division by 0.  Shifts are by the lowest 5 bits, as in Linux."""
    value = a
    if operation == ADD:
        value = a + operand
    elif operation == SUB:
        value = a - operand
    elif operation == MUL:
        value = a * operand
    elif operation == DIV or operation == MOD:
        if operand == 0:
            return -1
        value = a // operand if operation == DIV else a % operand
    elif operation == OR:
        value = a | operand
    elif operation == AND:
        value = a & operand
    elif operation == XOR:
        value = a ^ operand
    elif operation == LSH:
        value = a << (operand & 31)
    elif operation == RSH:
        value = a >> (operand & 31)
    elif operation == NEG:
        value = -a
    return value & U32


@kernel(INT, INT, INT, INT, inline=True)
def holds(condition: int, a: int, operand: int) -> int:
    """Whether a conditional jump is taken to its first target."""
    if condition == JEQ:
        return 1 if a == operand else 0
    if condition == JGT:
        return 1 if a > operand else 0
    if condition == JGE:
        return 1 if a >= operand else 0
    return 1 if a & operand else 0


@kernel(INT, WORK, FRAME, INT, INT, INT, inline=True)
def load(work: Work, frame: Frame, code: int, k: int, x: int) -> int:
    """What LD and LDX load, -1 where the frame ends before."""
    mode = code & 0xE0
    if mode == IMM:
        return k
    if mode == MEM:
        return int(work.store[k])
    if mode == LEN:
        return frame.length
    if mode == MSH:
        value = peek(work, frame, k, 1)
        return value if value < 0 else (value & 15) << 2
    width = code & 0x18
    size = 4 if width == W else 2 if width == H else 1
    return peek(work, frame, k if mode == ABS else k + x & U32, size)


@kernel(INT, CAPTURE, WORK, FRAME)
def run(capture: Capture, work: Work, frame: Frame) -> int:
    """What the filter returns for the frame in hand; 0: it rejects it."""
    a = x = at = 0
    while at < capture.code_len:
        word = int(capture.code[at])
        at += 1
        code = word & 0xFFFF
        k = word >> 32 & U32
        kind = code & 7
        if kind == LD or kind == LDX:
            value = int(load(work, frame, code, k, x))
            if value < 0:
                return 0
            if kind == LD:
                a = value
            else:
                x = value
        elif kind == JMP:
            if code & 0xF0 == JA:
                at += k
            elif holds(code & 0xF0, a, x if code & X else k):
                at += word >> 16 & 0xFF
            else:
                at += word >> 24 & 0xFF
        elif kind == ALU:
            a = compute(code & 0xF0, a, x if code & X else k)
            if a < 0:
                return 0
        elif kind == RET:
            return a if code & 0x18 == A else k
        elif kind == MISC:
            if code & TXA:
                a = x
            else:
                x = a
        else:
            work.store[k] = a if kind == ST else x
    return 0
