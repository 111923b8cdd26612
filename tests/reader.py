"""A front-end that reads the configuration space, as a guest's port sees one."""

import struct
from collections.abc import Callable

from vionet.ports.guest import GuestPort


class Reader:
    """A front-end that notes what it is told."""

    def __init__(self, port: GuestPort, reads_config: bool = True) -> None:
        self.port = port
        self.reads_config = reads_config
        self.config = b""
        self.changes: list[int] = []  # the status field of each that was told
        self.ended = ""
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay_s: float, call: Callable[[], None]) -> Callable[[], None]:
        timer = delay_s, call
        self.timers.append(timer)
        return lambda: self.timers.remove(timer)

    def show_config(self, config: bytes, *, changed: bool) -> None:
        self.config = config
        if changed:
            self.changes.append(struct.unpack_from("<H", config, 6)[0])

    def end(self, reason: str) -> None:
        self.ended = reason
        self.port.closed(reason)
