"""Runs checks against a back-end and says what came of each rule.

How it works: one check after the other, each with a lab of its own and under an alarm; after each
the back-end is asked for its features on a new connection, so that the check which killed it is
the one that is named.  `revive`, if given, is called when the back-end is gone.

Invariants: `run` returns an outcome for every rule it was asked for, whatever the back-end does.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from types import FrameType
from typing import Any, Final

from vionet.check.case import Check, Lab, Offer
from vionet.check.driver import Broken, NotOffered
from vionet.check.scope import checks as all_checks
from vionet.spec.rules import Rule, rules
from vionet.vhost_user.frontend import Closed, Frontend, Refused
from vionet.vhost_user.message import ProtocolError

SPLIT_RINGS: Final = "2.4"  # the area whose checks are about them
GRACE: Final = 2.0  # seconds that a back-end has to accept a connection after a check
REPLY: Final = 3.0  # and to answer a message


class Status(StrEnum):
    """What came of a check."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_OFFERED = "not offered"
    SKIPPED = "skipped"


class Group(StrEnum):
    """How a rule is reported; only `BINDING` decides the exit status."""

    BINDING = "binding"
    ADVICE = "advice"
    DRIVER = "driver"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one rule."""

    rule: Rule
    group: Group
    status: Status
    does: str
    expects: str
    seen: str
    seconds: float

    @property
    def decides(self) -> bool:
        """The back-end is at fault."""
        return self.group is Group.BINDING and self.status is Status.FAILED


class Overdue(Exception):
    """A check took too long."""


def group_of(rule: Rule, check: Check) -> Group:
    """Where a rule is reported."""
    if check.survival or rule.who == "DRV":
        return Group.DRIVER
    return Group.BINDING if rule.is_binding else Group.ADVICE


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise `Overdue` in this thread after `seconds`; the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_: int, __: FrameType | None) -> None:
        raise Overdue(f"not finished after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _alive(paths: Sequence[str]) -> str:
    """Why the back-end does not answer; empty if it does."""
    for path in paths:
        try:
            with Frontend.connect(path, GRACE) as frontend:
                frontend.features()
        except (OSError, Closed, ProtocolError) as error:
            return f"{path}: {str(error) or type(error).__name__}"
    return ""


def _guarded(check: Check, lab: Lab, timeout: float) -> tuple[Status, str]:
    """Run one check to its end."""
    try:
        with alarm(timeout):
            return Status.PASSED, check.body(lab)
    except NotOffered as error:
        return Status.NOT_OFFERED, str(error)
    except Broken as error:
        return Status.FAILED, str(error)
    except Overdue as error:
        return Status.FAILED, str(error)
    except Refused as error:
        return Status.FAILED, f"refused: {error}"
    except Closed as error:
        return Status.FAILED, f"the back-end closed the connection ({error})"
    except TimeoutError:
        return Status.FAILED, "the back-end did not answer"
    except (ProtocolError, OSError) as error:
        return Status.FAILED, f"{type(error).__name__}: {error}"
    except Exception as error:  # a fault of the tester must not end the run
        return Status.FAILED, f"tester: {type(error).__name__}: {error}"


def run(
    paths: Sequence[str],
    ids: Sequence[str] = (),
    *,
    timeout: float = 20.0,
    revive: Callable[[], None] | None = None,
    progress: Callable[[Outcome], None] = lambda _: None,
    chosen: Sequence[tuple[Rule, Check]] = (),
    **bench: Any,
) -> list[Outcome]:
    """Check the rules `ids` (all, if none are named) of the back-end behind `paths`.

    `chosen` are checks to run instead; `bench` are fields of `Lab`.
    """
    chosen = chosen or [(rules()[i], c) for i, c in all_checks().items() if not ids or i in ids]
    offer = Offer.read(paths[0], timeout)
    outcomes: list[Outcome] = []
    done: dict[int, tuple[Status, str, float]] = {}
    gone = ""
    for rule, check in chosen:
        began = time.monotonic()
        if id(check) in done:
            status, seen, seconds = done[id(check)]
        else:
            if gone and (gone := _alive(paths)):
                status, seen = Status.FAILED, f"the back-end is gone ({gone})"
            elif bench.get("extra") and rule.area == SPLIT_RINGS:
                status, seen = Status.NOT_OFFERED, "about split rings"
            elif check.ports > len(paths):
                status, seen = Status.SKIPPED, "needs two sockets"
            else:
                status, seen, gone = attempt(check, paths, offer, timeout, **bench)
            if gone and revive is not None:
                revive()
                gone = ""
            seconds = time.monotonic() - began
            done[id(check)] = (status, seen, seconds)
        group = group_of(rule, check)
        outcome = Outcome(rule, group, status, check.does, check.expects, seen, seconds)
        outcomes.append(outcome)
        progress(outcome)
    return outcomes


def attempt(
    check: Check, paths: Sequence[str], offer: Offer, timeout: float, **bench: Any
) -> tuple[Status, str, str]:
    """Run one check on a bench of its own; the last item says why the back-end is gone."""
    lab = Lab(paths, offer, min(timeout, REPLY), **bench)
    try:
        status, seen = _guarded(check, lab, timeout)
    finally:
        with suppress(OSError):
            lab.close()
    gone = _alive(paths)
    if gone:
        return Status.FAILED, f"{seen}; after this the back-end is gone ({gone})", gone
    return status, seen, ""
