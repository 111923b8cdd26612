"""A simulated guest's port and its rings in a state block, as after a front-end's messages.

Requires that no worker runs yet; what a bench wants otherwise it writes over.
"""

from typing import Any, Final

from vionet.engine.ring import begin
from vionet.engine.status import PortKind

FRESH: Final = 1 << 15  # a packed ring's base: slot 0, lap 1


def plug_in(port: Any, header_len: int, gpa: int, hva: int, length: int) -> None:
    """A port whose guest has one region of memory, and no rings yet."""
    port.kind, port.up, port.fd = int(PortKind.GUEST), 1, -1
    port.header_len = header_len
    port.mergeable = port.indirect = port.offers_partial = port.n_pairs = port.n_regions = 1
    port.regions[0].gpa, port.regions[0].hva, port.regions[0].region_len = gpa, hva, length
    for queue in port.queues:
        queue.kick_fd = queue.call_fd = queue.err_fd = -1


def start_ring(port: Any, index: int, ring: Any, used_hva: int, entries: int, packed: int) -> None:
    """Start a queue of a port on a driver's `ring`, whose record has the other addresses."""
    queue = port.queues[index]
    queue.desc_hva, queue.avail_hva, queue.used_hva = ring.desc_hva, ring.avail_hva, used_hva
    queue.entries, queue.packed = entries, packed
    begin(port, queue, FRESH if packed else 0)
    queue.ready = queue.started = queue.enabled = queue.live = 1
