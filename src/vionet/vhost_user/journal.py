"""Log lines about one port whose peer may do what is logged as often as it likes: at most so many,
and the next one says how many were left out."""

from typing import Any, Final

import structlog

from vionet.vhost_user.budget import Budget

LINES_BURST: Final = 30  # log lines at once
LINES_PER_SECOND: Final = 1.0


class Journal:
    """A logger bound to a port, with a budget."""

    def __init__(
        self,
        name: str,
        fabric: str,
        logger: str = "vionet.vhost_user",
        burst: int = LINES_BURST,
        per_second: float = LINES_PER_SECOND,
    ) -> None:
        """For the port `name`; `fabric` may be empty."""
        where = {"fabric": fabric, "port": name} if fabric else {"port": name}
        self._log = structlog.get_logger(logger).bind(**where)
        self._budget = Budget(burst, per_second)
        self._left_out = 0

    def write(self, level: str, event: str, **fields: Any) -> None:
        """Log one line, unless there were too many."""
        if not self._budget.take():
            self._left_out += 1
            return
        if self._left_out:
            fields["lines_left_out"], self._left_out = self._left_out, 0
        getattr(self._log, level)(event, **fields)
