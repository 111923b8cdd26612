"""Any virtqueue: what does not depend on its format, and which format's kernel to ask.

How it works: `split` and `packed` know one format each.  Here is what the worker, the tellers and
the control plane need of a ring: showing what was used, asking for kicks, beginning at a position
and saying where it stands.  Taking chains is in `ingress` and `receive`.
"""

from vionet.engine.layout import PORT, QUEUE, Port, Queue
from vionet.engine.packed import adopt_packed, arm_packed, disarm_packed, publish_packed
from vionet.engine.split import adopt
from vionet.engine.split import arm as arm_split
from vionet.engine.split import disarm as disarm_split
from vionet.engine.split import publish as publish_split
from vionet.jit.kernel import INT, kernel


@kernel(INT, PORT, QUEUE)
def publish(port: Port, queue: Queue) -> int:
    """Show the driver every chain that was used; *returns* 1 if it wants to be told."""
    if queue.packed:
        return publish_packed(port, queue)
    return publish_split(port, queue)


@kernel(INT, PORT, QUEUE)
def arm(port: Port, queue: Queue) -> int:
    """Ask the driver to kick once it goes beyond what was seen; *returns* 1 if it already has."""
    if queue.packed:
        return arm_packed(port, queue)
    return arm_split(port, queue)


@kernel(INT, PORT, QUEUE, inline=True)
def disarm(port: Port, queue: Queue) -> int:
    """Advise the driver not to kick while we poll."""
    if queue.packed:
        return disarm_packed(queue)
    return disarm_split(port, queue)


@kernel(INT, PORT, QUEUE, INT)
def begin(port: Port, queue: Queue, base: int) -> int:
    """Take over a ring whose addresses were just set, at `base`; *returns* 1 if it was used before.

    The base is the vhost-user protocol's: of a split ring the next available index, of a packed
    one both positions (spec VU-45).  *requires* that it fits the ring (`vhost_user.ring`).
    """
    if queue.packed:
        return adopt_packed(port, queue, base)
    queue.avail_wrap = queue.used_wrap = queue.published_wrap = 0
    queue.avail_idx = base
    return 1 if adopt(port, queue) else 0


@kernel(INT, QUEUE)
def position(queue: Queue) -> int:
    """The base from which another back-end can go on (spec VU-32, VU-45, PK-22)."""
    if not queue.packed:
        return queue.avail_idx
    used = queue.used_wrap << 15 | queue.used_idx
    return used << 16 | queue.avail_wrap << 15 | queue.avail_idx


@kernel(INT, QUEUE)
def refresh(queue: Queue) -> int:
    """Recompute `live` from the ring's states (spec VU-22 to VU-28)."""
    queue.live = queue.ready & queue.started & queue.enabled & (1 - queue.broken)
    return queue.live
