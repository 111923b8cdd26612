"""Why: the words for each decision of the engine, each with the rules behind it.

How it works: the engine's records say what was decided (`engine.layout.Seen`); the tables here have
a text for everything that can stand there.  `CELLS` is indexed by state, column and action
together, so that a decision without words is an error here and never a wrong explanation; tests
compare the keys with the table of the engine and with a second table made by hand.

Drop reasons have their words in the register of counters (`spec.counter`).
"""

from typing import Final, NamedTuple

from vionet.engine.status import (
    GSO_ECN,
    GSO_TCP4,
    GSO_TCP6,
    GSO_UDP4,
    GSO_UDP6,
    Accepts,
    Action,
    Csum,
)
from vionet.spec.counter import counters, plain


class Why(NamedTuple):
    """A sentence, and the ids of the rules behind it."""

    text: str
    rules: tuple[str, ...]


def why(text: str, rules: str = "") -> Why:
    """With the ids as words."""
    return Why(text, tuple(rules.split()))


STATES: Final = {
    Csum.NONE: "none",
    Csum.UNKNOWN: "unknown",
    Csum.VALID: "valid",
    Csum.PARTIAL: "partial",
    Csum.INNER_PARTIAL: "inner partial",
}
STATES_WHY: Final = {
    Csum.NONE: why("no TCP or UDP checksum that could be looked at", "SG-14 SG-15 W48 W54 W58"),
    Csum.UNKNOWN: why("its sender says that it is finished; nobody has looked", "TX-02 TX-05"),
    Csum.VALID: why("the host's kernel vouches for it (DATA_VALID)", "TP-14"),
    Csum.PARTIAL: why(
        "the field holds the sum of the pseudo-header, to be finished (NEEDS_CSUM)", "TD-08 TX-12"
    ),
    Csum.INNER_PARTIAL: why(
        "a sum is to be finished that is not the outermost TCP or UDP one", "TX-12 SG-02 SG-16"
    ),
}
COLUMNS: Final = {
    Accepts.COMPLETE: "a guest that gets finished sums only",
    Accepts.UNIFORM: "a guest that takes partial sums, policy uniform",
    Accepts.NATURAL: "a guest that takes partial sums, policy natural",
    Accepts.KERNEL: "a kernel that takes partial sums",
    Accepts.STREAM: "a stream, or a kernel that takes no partial sums",
}
ACTIONS: Final = {
    Action.PASS: "pass",
    Action.PASS_VALID: "pass, DATA_VALID",
    Action.PASS_PARTIAL: "pass, NEEDS_CSUM",
    Action.FILL: "fill",
    Action.UNFILL: "unfill, NEEDS_CSUM",
    Action.VERIFY: "verify; good: unfill, NEEDS_CSUM; bad: pass",
    Action.FILL_THEN_VERIFY: "fill the inner sum, then the outermost as unknown",
}

_LEFT_OPEN: Final = why(
    "left partial by the sender, taken partial by the receiver: nobody computes it",
    "TX-17 RX-14 RX-16 RX-17 SG-16",
)
_UNIFORM: Final = "policy uniform shows every good frame as partial, from wherever it came"
_UNTOUCHED: Final = why(
    "there is no such sum, so the frame passes as it is, flags 0", "SG-14 SG-15 W48 W58"
)
_NOT_LOOKED_AT: Final = why(
    "nobody here has a reason to compute it, and nobody vouches for it: flags 0", "TX-05 RX-29"
)
CELLS: Final[dict[tuple[Csum, Accepts, Action], Why]] = {
    **{(Csum.NONE, accepts, Action.PASS): _UNTOUCHED for accepts in Accepts},
    (Csum.UNKNOWN, Accepts.COMPLETE, Action.PASS): why(
        "it is finished as it came, and flags are 0 for this receiver", "RX-06 TX-05"
    ),
    (Csum.UNKNOWN, Accepts.UNIFORM, Action.VERIFY): why(
        f"{_UNIFORM}: it is summed while it is copied, and if it is good the pseudo-header sum"
        " takes its place; a bad one passes as it is, flags 0",
        "TX-05 RX-15 RX-16",
    ),
    (Csum.UNKNOWN, Accepts.NATURAL, Action.PASS): _NOT_LOOKED_AT,
    (Csum.UNKNOWN, Accepts.KERNEL, Action.PASS): _NOT_LOOKED_AT,
    (Csum.UNKNOWN, Accepts.STREAM, Action.PASS): _NOT_LOOKED_AT,
    (Csum.VALID, Accepts.COMPLETE, Action.PASS): why(
        "it is good, and flags are 0 for this receiver, which may not be told", "RX-06"
    ),
    (Csum.VALID, Accepts.UNIFORM, Action.UNFILL): why(
        f"{_UNIFORM}: the pseudo-header sum takes the place of the good one; only headers are read",
        "RX-15 RX-16 RX-17",
    ),
    (Csum.VALID, Accepts.NATURAL, Action.PASS_VALID): why(
        "it is good, and the receiver is told so", "RX-22"
    ),
    (Csum.VALID, Accepts.KERNEL, Action.PASS_VALID): why(
        "it is good, and the kernel is told so, which may believe it", "TP-14 LX-17"
    ),
    (Csum.VALID, Accepts.STREAM, Action.PASS): why("it is good, and goes as it came", "AP-09"),
    (Csum.PARTIAL, Accepts.COMPLETE, Action.FILL): why(
        "this receiver takes no partial sum, so it is finished here",
        "RX-06 RX-07 SG-01 SG-18 W7 W11",
    ),
    (Csum.PARTIAL, Accepts.UNIFORM, Action.PASS_PARTIAL): _LEFT_OPEN,
    (Csum.PARTIAL, Accepts.NATURAL, Action.PASS_PARTIAL): _LEFT_OPEN,
    (Csum.PARTIAL, Accepts.KERNEL, Action.PASS_PARTIAL): why(
        "the kernel takes it partial, and finishes it if it leaves the machine",
        "TP-09 AP-03 SG-16 W13",
    ),
    (Csum.PARTIAL, Accepts.STREAM, Action.FILL): why(
        "nobody behind this port could finish it, so it is finished here", "AP-09 SG-01 W13 W18"
    ),
    (Csum.INNER_PARTIAL, Accepts.COMPLETE, Action.FILL): why(
        "this receiver takes no partial sum, so it is finished here, to the end of the frame",
        "RX-06 RX-07 SG-02 W60",
    ),
    (Csum.INNER_PARTIAL, Accepts.UNIFORM, Action.FILL_THEN_VERIFY): why(
        "many drivers look for the outermost sum only, so the inner one is finished here; then"
        " the outermost is looked at, as policy uniform has it",
        "SG-02 SG-16 RX-15 W19 W60",
    ),
    (Csum.INNER_PARTIAL, Accepts.NATURAL, Action.FILL): why(
        "many drivers look for the outermost sum only, so the inner one is finished here",
        "SG-02 SG-16 W19 W60",
    ),
    (Csum.INNER_PARTIAL, Accepts.KERNEL, Action.PASS_PARTIAL): why(
        "the kernel finishes a sum wherever it is", "TP-09 SG-02 W19"
    ),
    (Csum.INNER_PARTIAL, Accepts.STREAM, Action.FILL): why(
        "nobody behind this port could finish it, so it is finished here", "AP-09 SG-02 W19"
    ),
}
DHCP: Final = why(
    "DHCP clients read raw frames, so a guest gets it finished whatever it agreed to",
    "SG-17 W1 W2 W3 W4",
)
REPAIRED: Final = why(
    "its field did not hold the pseudo-header sum; that was put right before anybody got it",
    "TD-08 SG-07 W63",
)
BAD: Final = why(
    "its finished sum was computed and is wrong: it passes as it is, flags 0, and the receiver"
    " drops it",
    "TX-05 RX-29",
)
NOT_REACHED: Final = why(
    "it goes to the other ports of its VLAN, of which the receiver is none", "SG-12 W51"
)

WHOLE: Final = why(
    "the receiver agreed to all that it needs, so it passes whole; hdr_len and the gso fields are"
    " made anew",
    "RX-18 RX-21 TX-04",
)
GSO_NAMES: Final = {  # what a receiver has to acknowledge, with the rule
    GSO_TCP4: ("GUEST_TSO4", "RX-08"),
    GSO_TCP6: ("GUEST_TSO6", "RX-09"),
    GSO_ECN: ("GUEST_ECN", "RX-13"),
    GSO_UDP4: ("GUEST_USO4", "RX-11"),
    GSO_UDP6: ("GUEST_USO6", "RX-11"),
}
SEGMENTED_SUMS: Final = why("it takes no partial sums, so nothing large either", "RX-12 SG-18 W26")
SEGMENTED_MANY: Final = why("older guests refuse more than 64 UDP segments at once", "LX-09")
SEGMENTED_ROOM: Final = why("its buffers do not hold the whole", "SG-20 W36")


def not_agreed(needs: int, takes: int) -> Why:
    """The features without which a receiver gets segments."""
    missing = [GSO_NAMES[bit] for bit in GSO_NAMES if needs & ~takes & bit]
    names = " and ".join(name for name, _ in missing)
    return why(f"it does not have {names}", f"{' '.join(rule for _, rule in missing)} SG-18 W26")


def dropped(reason: str) -> Why:
    """What the register says of a drop reason."""
    counter = counters()[reason]
    text = f"{counter.what}; likely: {counter.cause}; to mend it: {counter.mend}"
    return why(plain(text), counter.rules)


def cell(state: int, accepts: int, action: int) -> Why:
    """The words for one decision; KeyError where no table has such a cell."""
    return CELLS[Csum(state), Accepts(accepts), Action(action)]
