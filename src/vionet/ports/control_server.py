"""Serving a control queue that is ours: commands off its ring, their effect into the records.

How it works: `ControlServer` holds what the driver has set (`control_queue.ControlState`).  `serve`
takes commands (`engine.control`), lets `control_queue.answer` judge each, calls back so that its
effect is in the records, and only then gives it back (spec CV-12, CV-27).

Invariants: all of it happens while the worker is held, for everybody.  So a driver has a budget of
commands, and of kicks without one; what is beyond it waits, and is answered all the same.
"""

import struct
from collections.abc import Callable
from typing import Final

from vionet.engine.control import BROKEN, COMMAND_MAX, TAKEN, give_back, new_command, take_command
from vionet.engine.layout import VLANS, Port
from vionet.engine.ring import arm, refresh
from vionet.ports.control_queue import ControlState, Terms, answer, filters
from vionet.vhost_user.budget import Budget

COMMANDS_BURST: Final = 256  # a boot needs about ten
COMMANDS_PER_SECOND: Final = 1000.0


class ControlServer:
    """One driver's control queue."""

    def __init__(self, mac: int) -> None:
        """`mac` is the address that the driver is given, 0 for none."""
        self._mac = mac
        self._command = new_command()
        self._budget = Budget(COMMANDS_BURST, COMMANDS_PER_SECOND)
        self.reset()

    def reset(self) -> None:
        """What a driver finds that starts anew."""
        self.state = ControlState(mac=self._mac)

    def serve(self, port: Port, terms: Terms, changed: Callable[[], None]) -> bool:
        """Answer what is there; true where it has to look again unasked.  *requires* hold."""
        queue = port.queues[port.control_ring]
        while self._budget.take():
            if not port.control_ring or not queue.live:
                return False
            found = take_command(port, queue, self._command)
            if found == TAKEN:
                ack = self._obey(terms, changed) if self._command.ack_hva else 0
                give_back(port, queue, self._command, ack)
            elif found == BROKEN:
                queue.broken = 1
                refresh(queue)
                return False
            elif not arm(port, queue):
                return bool(queue.polled)
        return True

    def _obey(self, terms: Terms, changed: Callable[[], None]) -> int:
        """Do what the command in hand says; the acknowledgement."""
        length = int(self._command.length)
        data = self._command.copied[: min(length, COMMAND_MAX)].tobytes()
        ack, state = answer(self.state, terms, data, length)
        if state != self.state:
            self.state = state
            changed()
        return ack

    def write_filters(self, port: Port, features: int) -> None:
        """What is kept away from the driver at its own wish.  *requires* hold."""
        state = self.state
        port.mac = state.mac
        port.filter = filters(state, features) if port.control_ring else 0
        unicast, multicast = state.unicast or (), state.multicast or ()
        port.n_unicast, port.n_multicast = len(unicast), len(multicast)
        port.unicast[: len(unicast)] = unicast
        port.multicast[: len(multicast)] = multicast
        words = state.vlans.to_bytes(VLANS // 8, "little")
        port.vlan_filter[:] = struct.unpack(f"<{VLANS // 64}q", words)
