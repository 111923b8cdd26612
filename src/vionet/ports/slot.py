"""A port's place in the fabric, and what every port is told about itself.

A `Slot` is an index into the state block together with the right to change it: everything inside
`with slot.hold()` happens while the worker is not in its loop.
"""

import struct
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol

from vionet.engine.fdb import forget_port, pin
from vionet.engine.layout import VLANS, Port, State, Work
from vionet.engine.status import DROP_REASONS, LEDGER_KEYS, Accepts, Policy, PortKind, Standing
from vionet.ports.offload import GUEST_OFFLOADS


class Watch(Protocol):
    """What the worker sleeps on (`fabric.poll`)."""

    def add_ring(self, fd: int, port: int, ring: int) -> None:
        """A kick eventfd."""

    def add_tap(self, fd: int, port: int) -> None:
        """A tap."""

    def remove(self, fd: int) -> None:
        """A descriptor that is about to be closed."""


class PortOptions(Protocol):
    """What a person chose for a port (`config.port`)."""

    @property
    def name(self) -> str:
        """The port's name."""

    @property
    def features(self) -> int:
        """Feature bits that may be offered."""

    @property
    def mac(self) -> int | None:
        """48 bits, the first octet highest."""

    @property
    def locked(self) -> bool:
        """Frames from and to `mac` only."""

    @property
    def isolated(self) -> bool:
        """Reaches only ports that are not isolated."""

    @property
    def policy(self) -> Policy:
        """What a receiver sees of checksums."""

    @property
    def mtu(self) -> int | None:
        """Largest L3 packet."""

    @property
    def queues(self) -> int:
        """Queue pairs that may be offered."""

    @property
    def speed(self) -> int | None:
        """In Mbit/s, what a driver is told of its link."""

    @property
    def vlan(self) -> int | None:
        """The VLAN of untagged frames."""

    @property
    def trunk(self) -> int | None:
        """A bit for each VLAN whose tagged frames pass; None: an access port."""

    @property
    def link_up(self) -> bool:
        """False: a person holds the link down, and nothing passes."""

    @property
    def ip(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """What it may send from; none: anything."""

    @property
    def keep_off(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Where it may not send to, unless that is in `ip` or in `reach`."""

    @property
    def reach(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Exceptions from `keep_off`."""


@dataclass(frozen=True, slots=True)
class Slot:
    """One index of the state block."""

    state: State
    index: int
    watch: Watch
    hold: Callable[[], AbstractContextManager[None]]
    works: Sequence[Work]  # every worker's: each counts for itself

    @property
    def record(self) -> Port:
        """The port's record; to be written inside `hold` only."""
        return self.state.ports[self.index]

    @property
    def worker(self) -> int:
        """Which worker takes what comes from the port."""
        return int(self.record.worker)

    def set_up(self, kind: PortKind, options: PortOptions) -> None:
        """Fill in what the options say.  *requires* hold."""
        record = self.record
        record.kind = int(kind)
        record.fd = -1
        record.mac = options.mac or 0
        record.locked = int(options.locked)
        record.mtu = options.mtu or 0
        self.apply(options)
        for queue in record.queues:
            queue.kick_fd = queue.call_fd = queue.err_fd = -1
        self.forget()

    def apply(self, options: PortOptions) -> None:
        """What every kind of port may change at run time in the same way.  *requires* hold."""
        record = self.record
        record.isolated = int(options.isolated)
        record.link_down = int(not options.link_up)
        record.vlan = options.vlan or 0
        record.trunk = int(options.trunk is not None)
        words = (options.trunk or 0).to_bytes(VLANS // 8, "little")
        record.vlans[:] = struct.unpack(f"<{VLANS // 64}q", words)
        self._set_rules(options)

    def _set_rules(self, options: PortOptions) -> None:
        """What the guard judges by.  *requires* hold."""
        assert options.ip or not options.keep_off, "kept off, but not locked to an address"
        record, count = self.record, 0
        for standing, networks in (
            (Standing.OWN, options.ip),
            (Standing.KEPT, options.keep_off),
            (Standing.REACHED, options.reach if options.ip else ()),
        ):
            for network in networks:
                rule = record.rules[count]
                rule.standing, rule.version = int(standing), network.version
                rule.first, rule.second = _words(network.network_address)
                rule.first_mask, rule.second_mask = _words(network.netmask)
                count += 1
        record.n_rules = count

    def forget(self) -> None:
        """Drop the addresses learnt here; a locked port keeps its own.  *requires* hold."""
        forget_port(self.state, self.index)
        if self.record.locked:
            pin(self.state, self.record.mac, self.index, time.monotonic_ns())

    def ledger(self) -> dict[str, int]:
        """The port's counters by their stable keys."""
        counts = sum(work.ledger[self.index] for work in self.works)
        return dict(zip(LEDGER_KEYS, counts.tolist(), strict=True))

    def drops(self) -> dict[str, int]:
        """Dropped frames by reason."""
        counts = sum(work.drops[self.index] for work in self.works).tolist()
        return dict(zip(DROP_REASONS[1:], counts[1:], strict=True))


class Plugged:
    """What every kind of port says of itself."""

    _slot: Slot
    features: int

    @property
    def offloads(self) -> int:
        """What may be delivered to it unfinished just now: GUEST_* features."""
        return self.features & GUEST_OFFLOADS

    @property
    def serial(self) -> int:
        """Its number among all ports that the fabric ever had."""
        return int(self._slot.record.serial)

    @property
    def last_mac(self) -> int:
        """The source address that it last sent from on a switch; 0: none is known."""
        return int(self._slot.record.last_src) & (1 << 48) - 1

    @property
    def netdev(self) -> str | None:
        """What the host calls the network device behind it; a guest's and a stream's is unknown."""
        return None

    @property
    def mtu(self) -> int | None:
        """The largest L3 packet that passes; None: as large as a frame can be."""
        return int(self._slot.record.mtu) or None

    @property
    def worker(self) -> int:
        """Which worker takes its frames."""
        return self._slot.worker

    def ledger(self) -> dict[str, int]:
        """The port's counters by their stable keys."""
        return self._slot.ledger()

    def drops(self) -> dict[str, int]:
        """Dropped frames by reason."""
        return self._slot.drops()


def _words(address: IPv4Address | IPv6Address) -> tuple[int, int]:
    """An address as two little-endian loads see it."""
    first, second = struct.unpack("<qq", address.packed.ljust(16, b"\0"))
    return first, second


def accepts_of(takes_partial: bool, policy: Policy) -> Accepts:
    """The decision table's column of a guest (docs/how-it-works.md)."""
    if not takes_partial or policy is Policy.COMPLETE:
        return Accepts.COMPLETE
    return Accepts.UNIFORM if policy is Policy.UNIFORM else Accepts.NATURAL
