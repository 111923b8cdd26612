"""Is the guest's memory shared with us?  The first obstacle of everybody who runs QEMU.

How it works: QEMU without a shared memory backend either sends no memory at all and sets up its
rings regardless, or (share=off) sends a file that it maps privately itself, so that what the guest
writes never reaches us.  The first case shows in the session; the second in the front-end's own
/proc/PID/maps, where the mapping at the address that it told us is marked private.  A front-end
whose maps we may not read, or whose addresses are made up, gets no hint.  It can make that file as
long as it likes: it is read once, and no further than `_LINES_MAX`.
"""

import itertools
from collections.abc import Collection
from pathlib import Path
from typing import Final

from vionet.vhost_user.session import Session

_LINES_MAX: Final = 10_000  # QEMU has some hundreds


def private_at(pid: int, uvas: Collection[int]) -> bool:
    """The process is known to map a page at one of `uvas` privately."""
    try:
        with Path(f"/proc/{pid}/maps").open() as lines:
            for line in itertools.islice(lines, _LINES_MAX):
                span, permissions, _ = line.split(" ", 2)
                start, end = (int(number, 16) for number in span.split("-"))
                if permissions.endswith("p") and any(start <= uva < end for uva in uvas):
                    return True
    except (OSError, ValueError):
        pass
    return False


def obstacle(session: Session, pid: int) -> str | None:
    """Where guest memory is not shared although the rings have their kicks: how to mend that."""
    regions = session.memory.regions
    if regions and not private_at(pid, [region.uva for region in regions]):
        return None
    megabytes = sum(region.size for region in regions) >> 20
    size = f"{megabytes}M" if megabytes else "SIZE"
    meaning = "" if megabytes else " (SIZE as in -m)"
    return (
        f"start QEMU with -object memory-backend-memfd,id=mem,size={size},share=on"
        f" -machine memory-backend=mem{meaning}"
    )
