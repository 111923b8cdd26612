"""The engine's vocabulary: ledger keys, drop reasons, and the small codes kept in records.

Each list's order is the index that kernels use; the strings are what people see in `status`, in
logs and in docs.  A drop reason is the same word everywhere.
"""

from enum import IntEnum
from typing import Final

# --- the ledger: stable keys (docs/ledger.md) -------------------------------------------------
LEDGER_KEYS: Final = (
    "tx_frames",
    "tx_bytes",
    "rx_frames",
    "rx_bytes",
    "csum_elided",
    "csum_filled",
    "csum_unfilled",
    "csum_verified",
    "csum_bad",
    "pseudo_header_repaired",
    "gso_passed",
    "gso_segmented",
    "segments",
    "header_bytes",
    "payload_bytes_copied",
    "payload_bytes_summed",
    "kicks",
    "calls",
    "calls_suppressed",
    "wakeups",
)
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
) = range(len(LEDGER_KEYS))

# --- drop reasons -----------------------------------------------------------------------------
# Index 0 means "not dropped", so that a kernel's status is a drop reason or OK.
OK: Final = 0
DROP_REASONS: Final = (
    "",
    "chain_too_long",
    "chain_invalid",
    "descriptor_unmapped",
    "header_truncated",
    "frame_too_short",
    "frame_too_long",
    "csum_not_negotiated",
    "gso_not_negotiated",
    "csum_out_of_frame",
    "csum_start_in_header",
    "csum_on_fragment",
    "csum_on_sctp",
    "ip_length_invalid",
    "source_mac_locked",
    "source_mac_invalid",
    "ring_disabled",
    "ring_broken",
    "rx_ring_full",
    "rx_ring_stopped",
    "rx_ring_broken",
    "rx_chain_invalid",
    "rx_buffer_too_small",
    "mtu_exceeded",
    "destination_mac_locked",
    "isolated",
    "no_other_port",
    "same_port",
    "fdb_full",
    "tap_full",
    "tap_error",
    "tap_truncated",
)
(
    _NONE,
    CHAIN_TOO_LONG,
    CHAIN_INVALID,
    DESCRIPTOR_UNMAPPED,
    HEADER_TRUNCATED,
    FRAME_TOO_SHORT,
    FRAME_TOO_LONG,
    CSUM_NOT_NEGOTIATED,
    GSO_NOT_NEGOTIATED,
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
) = range(len(DROP_REASONS))


class FabricKind(IntEnum):
    """What joins the ports."""

    SWITCH = 0
    WIRE = 1


class PortKind(IntEnum):
    """What is plugged in; FREE is an unused slot."""

    FREE = 0
    GUEST = 1
    TAP = 2


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
