"""The engine's vocabulary: ledger keys, drop reasons, and the small codes kept in records.

Each list's order is the index that kernels use; the strings are what people see in `status`, in
logs and in docs: the constants' own names.  A drop reason is the same word everywhere.
"""

from enum import IntEnum
from typing import Final


def _words(first: str, last: str) -> tuple[str, ...]:
    """The constants of this module from `first` to `last`, in the words that people see."""
    names = list(globals())
    return tuple(name.lower() for name in names[names.index(first) : names.index(last) + 1])


# --- the ledger: stable keys (docs/ledger.md) -------------------------------------------------
(
    TX_FRAMES,
    TX_BYTES,
    RX_FRAMES,
    RX_BYTES,
    CSUM_ELIDED,
    CSUM_FILLED,
    CSUM_UNFILLED,
    CSUM_VERIFIED,
    CSUM_BAD,
    PSEUDO_HEADER_REPAIRED,
    GSO_PASSED,
    GSO_SEGMENTED,
    SEGMENTS,
    HEADER_BYTES,
    PAYLOAD_BYTES_COPIED,
    PAYLOAD_BYTES_SUMMED,
    KICKS,
    CALLS,
    CALLS_SUPPRESSED,
    WAKEUPS,
) = range(20)
LEDGER_KEYS: Final = _words("TX_FRAMES", "WAKEUPS")

# --- drop reasons -----------------------------------------------------------------------------
# Index 0 means "not dropped", so that a kernel's status is a drop reason or OK.
OK: Final = 0
(
    CHAIN_TOO_LONG,
    CHAIN_INVALID,
    DESCRIPTOR_UNMAPPED,
    HEADER_TRUNCATED,
    FRAME_TOO_SHORT,
    FRAME_TOO_LONG,
    CSUM_NOT_NEGOTIATED,
    GSO_NOT_NEGOTIATED,
    GSO_TYPE_UNKNOWN,
    GSO_SIZE_INVALID,
    GSO_WITHOUT_CSUM,
    GSO_HEADER_MISMATCH,
    GSO_TOO_MANY_SEGMENTS,
    CSUM_OUT_OF_FRAME,
    CSUM_START_IN_HEADER,
    CSUM_ON_FRAGMENT,
    CSUM_ON_SCTP,
    IP_LENGTH_INVALID,
    SOURCE_MAC_LOCKED,
    SOURCE_MAC_INVALID,
    RING_DISABLED,
    RING_BROKEN,
    RX_RING_FULL,
    RX_RING_STOPPED,
    RX_RING_BROKEN,
    RX_CHAIN_INVALID,
    RX_BUFFER_TOO_SMALL,
    MTU_EXCEEDED,
    DESTINATION_MAC_LOCKED,
    ISOLATED,
    NO_OTHER_PORT,
    SAME_PORT,
    FDB_FULL,
    TAP_FULL,
    TAP_ERROR,
    TAP_TRUNCATED,
    INTERFACE_FULL,
    INTERFACE_ERROR,
    INTERFACE_TRUNCATED,
    STREAM_FULL,
    STREAM_ERROR,
    STREAM_FRAME_INVALID,
    VLAN_NOT_ALLOWED,
    VLAN_FILTERED,
    ADDRESS_FILTERED,
    RESERVED_MULTICAST,
    LINK_DOWN,
    QUEUE_UNUSED,
    SOURCE_IP_LOCKED,
    NEIGHBOUR_LOCKED,
    PROTOCOL_LOCKED,
    SERVICE_FORGED,
    KEPT_OFF,
) = range(1, 54)
DROP_REASONS: Final = ("", *_words("CHAIN_TOO_LONG", "KEPT_OFF"))


class FabricKind(IntEnum):
    """What joins the ports."""

    SWITCH = 0
    WIRE = 1


class PortKind(IntEnum):
    """What is plugged in; FREE is an unused slot."""

    FREE = 0
    GUEST = 1
    TAP = 2
    INTERFACE = 3
    STREAM = 4


class Standing(IntEnum):
    """What a network is to a port that is locked to IP addresses (`engine.guard`)."""

    OWN = 1  # it may send from there
    KEPT = 2  # it may not send to there
    REACHED = 4  # but to there all the same


class Policy(IntEnum):
    """What a receiver sees of checksums (docs/how-it-works.md)."""

    UNIFORM = 0
    NATURAL = 1
    COMPLETE = 2


class Csum(IntEnum):
    """The state of a frame's L4 checksum; never inferred from bytes."""

    NONE = 0
    UNKNOWN = 1
    VALID = 2
    PARTIAL = 3
    INNER_PARTIAL = 4


class Accepts(IntEnum):
    """The kind of egress, as the decision table has it."""

    COMPLETE = 0  # did not negotiate GUEST_CSUM, or policy complete
    UNIFORM = 1  # takes partial, policy uniform
    NATURAL = 2  # takes partial, policy natural
    KERNEL = 3  # a tap or interface whose kernel takes partial
    STREAM = 4  # takes finished frames only


class Action(IntEnum):
    """What the plan tells delivery to do with the checksum."""

    PASS = 0  # as it is, flags 0
    PASS_VALID = 1  # as it is, DATA_VALID
    PASS_PARTIAL = 2  # pseudo-header sum in the field, NEEDS_CSUM
    FILL = 3  # finish it, flags 0
    UNFILL = 4  # replace a verified sum by the pseudo-header sum, NEEDS_CSUM
    VERIFY = 5  # sum what was delivered: good, then UNFILL; bad, then PASS
    FILL_THEN_VERIFY = 6  # finish the inner sum, then treat the outer one as UNKNOWN


# --- what a frame needs to pass whole, and what a port takes: bits ------------------------------
GSO_TCP4: Final = 1
GSO_TCP6: Final = 2
GSO_ECN: Final = 4  # TCP with the CWR flag set
GSO_UDP4: Final = 8
GSO_UDP6: Final = 16
GSO_ALL: Final = 31

# --- what a driver's control queue keeps away (Port.filter) -------------------------------------
FILTER_UNICAST: Final = 1  # addresses that are neither its own nor in its table
FILTER_MULTICAST: Final = 2  # groups that are not in its table; never broadcast
FILTER_VLAN: Final = 4  # tags that are not in its table
FILTER_NO_UNICAST: Final = 8  # CTRL_RX_EXTRA (spec CV-08)
FILTER_NO_MULTICAST: Final = 16
FILTER_NO_BROADCAST: Final = 32
