"""VLANs of a switch by IEEE 802.1Q, on bytes: what enters by a port, and how it leaves by another.

Shares no code with the engine.
"""

from dataclasses import dataclass, replace
from typing import Final

TAG: Final = b"\x81\x00"
ALL: Final = frozenset(range(4096))


@dataclass(frozen=True, slots=True)
class Inside:
    """A frame inside the switch: its VLAN, its priority, the rest without any tag of ours."""

    vid: int
    priority: int  # the upper four bits of the tag
    bare: bytes
    came: bytes  # as it entered


@dataclass(frozen=True, slots=True)
class Membership:
    """One port: access (`vlan`), trunk (`trunk`, native `vlan`), or neither: transparent."""

    vlan: int = 0
    trunk: frozenset[int] | None = None

    @property
    def mask(self) -> int | None:
        """The trunk as a port's options have it: a bit for each VLAN."""
        return None if self.trunk is None else sum(1 << vid for vid in self.trunk)

    def carries(self, vid: int) -> bool:
        """Whether frames of this VLAN pass."""
        if self.trunk is None and not self.vlan:
            return True
        return vid in (self.trunk or ()) or (vid == self.vlan and vid != 0)

    def enter(self, frame: bytes) -> Inside | None:
        """A frame that comes in here; None: refused."""
        inside = Inside(self.vlan, 0, frame, frame)
        if frame[12:14] == TAG:
            tag = int.from_bytes(frame[14:16], "big")
            bare = frame[:12] + frame[16:]
            inside = Inside(tag & 0xFFF or self.vlan, tag & 0xF000, bare, frame)
        return inside if self.carries(inside.vid) else None

    def leave(self, inside: Inside) -> bytes | None:
        """How it goes out here; None: it does not."""
        if not self.carries(inside.vid):
            return None
        if inside.vid == 0:
            return inside.came
        if inside.vid == self.vlan:
            return inside.bare
        tag = (inside.priority | inside.vid).to_bytes(2, "big")
        return inside.bare[:12] + TAG + tag + inside.bare[12:]


def tagged(frame: bytes, tag: int, ethertype: bytes = TAG) -> bytes:
    """The frame with one more tag outside."""
    return frame[:12] + ethertype + tag.to_bytes(2, "big") + frame[12:]


ACCESS_10: Final = Membership(10)
ACCESS_20: Final = Membership(20)
TRUNK: Final = Membership(0, frozenset({10, 20}))
NATIVE: Final = replace(TRUNK, vlan=30)
TRANSPARENT: Final = Membership()
