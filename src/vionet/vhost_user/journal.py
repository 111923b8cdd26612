"""Log lines about one port whose peer may come and go as often as it likes: at most so many."""

import time
from typing import Any, Final

import structlog

LINES_BURST: Final = 30  # log lines at once
LINES_PER_SECOND: Final = 1.0


class Journal:
    """A logger bound to a port, with a budget."""

    def __init__(self, name: str, logger: str = "vionet.vhost_user") -> None:
        self._log = structlog.get_logger(logger).bind(port=name)
        self._budget = float(LINES_BURST)
        self._filled = time.monotonic()
        self._left_out = 0

    def write(self, level: str, event: str, **fields: Any) -> None:
        """Log one line, unless there were too many."""
        now = time.monotonic()
        self._budget += (now - self._filled) * LINES_PER_SECOND
        self._budget = min(self._budget, LINES_BURST)
        self._filled = now
        if self._budget < 1:
            self._left_out += 1
            return
        self._budget -= 1
        if self._left_out:
            fields["lines_left_out"], self._left_out = self._left_out, 0
        getattr(self._log, level)(event, **fields)
