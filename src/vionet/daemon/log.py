"""Logging to standard error: structlog's events and everybody else's records, one format.

How it works: an event is a short constant text with fields behind it (docs/logs.md has them all).
Whatever a field holds is first made into what any terminal and any JSON parser takes (`harmless`):
fields come from guests' front-ends, files and programs too.  Then it is written as a line of text,
or as a JSON object.  Where standard error is journald's, each line begins with its priority, and
text has no time of its own, because journald keeps both.

Rates are bounded where guests and front-ends can cause events, not here.
"""

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

TEXT_MAX: Final = 2000  # characters of one value, but for a traceback
_DEPTH_MAX: Final = 4
_FIRST: Final = ("timestamp", "level", "logger", "event", "site", "vm", "fabric", "port")
_TRACES: Final = ("exception", "stack")
_SHARED: Final[list[Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
# Syslog's, as journald reads them in front of a line (sd-daemon(3)).
_PRIORITIES: Final = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))


def configure(*, json: bool, level: int) -> None:
    """Send log lines to standard error, as text or as JSON, one line each."""
    journal = _is_journal(sys.stderr, os.environ.get("JOURNAL_STREAM", ""))
    colors = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        (_Journal if journal else structlog.stdlib.ProcessorFormatter)(
            foreign_pre_chain=_SHARED,
            processors=rendering(as_json=json, colors=colors, timed=not journal),
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # The libraries' own chatter is for their authors.
    logging.getLogger("numba").setLevel(logging.WARNING)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def rendering(*, as_json: bool, colors: bool = False, timed: bool = True) -> list[Processor]:
    """What makes a line of an event."""
    common: list[Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta,
        structlog.processors.format_exc_info,
        _tamed,
    ]
    if as_json:
        return [*common, structlog.processors.JSONRenderer()]
    renderer = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0, sort_keys=False)
    return [*common, _as_text if timed else _as_untimed_text, renderer]


def harmless(value: object, depth: int = 0) -> Any:
    """`value` as numbers, printable texts, and lists and objects of them."""
    match value:
        case None | bool():
            return value
        case int():
            return int(value)
        case float():
            return float(value) if math.isfinite(value) else repr(float(value))
        case bytes() | bytearray():
            return _printable(bytes(value).decode(errors="backslashreplace"))
        case Mapping() if depth < _DEPTH_MAX:
            return {_text(key): harmless(one, depth + 1) for key, one in value.items()}
        case list() | tuple() | set() | frozenset() if depth < _DEPTH_MAX:
            return [harmless(one, depth + 1) for one in value]
    return _text(value)


def _text(value: object) -> str:
    try:
        return _printable(str(value))
    except Exception:  # somebody's __str__
        return f"<{type(value).__name__}>"


def _printable(text: str) -> str:
    """One line without control characters, and not too long."""
    if len(text) > TEXT_MAX:
        text = f"{text[:TEXT_MAX]}…"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _tamed(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """All of it harmless, the keys that say where first; what is None says nothing."""
    tame = {key: harmless(event[key]) for key in _FIRST if event.get(key) is not None}
    for key, value in event.items():
        if value is None:
            continue
        if key in _TRACES:
            tame[key] = "\n".join(map(_printable, str(value).split("\n")))
        elif key not in tame:
            tame[_printable(key)] = harmless(value)
    return tame


def _as_text(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Lists as words, no component but others', the lines of a traceback set in."""
    if str(event.get("logger", "")).startswith("vionet"):
        del event["logger"]
    for key, value in event.items():
        if key in _TRACES:
            event[key] = "    " + value.replace("\n", "\n    ")
        elif isinstance(value, list):
            event[key] = " ".join(map(str, value)) or "none"
        elif isinstance(value, dict):
            event[key] = json.dumps(value)
    return event


def _as_untimed_text(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    del event["timestamp"], event["level"]
    return _as_text(logger, name, event)


class _Journal(structlog.stdlib.ProcessorFormatter):
    """Each line with its priority in front."""

    def format(self, record: logging.LogRecord) -> str:
        priority = next((number for level, number in _PRIORITIES if record.levelno >= level), 7)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).split("\n"))


def _is_journal(out: TextIO, stream: str) -> bool:
    """Whether it is what JOURNAL_STREAM names: a device and an inode."""
    if stream:
        with suppress(OSError):
            found = os.fstat(out.fileno())
            return stream == f"{found.st_dev}:{found.st_ino}"
    return False
