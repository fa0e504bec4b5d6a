"""What came of an event: of each rule, of the turn, and of everything that followed from it.

Belongs here: plain records that a turn fills in, and the receipt that an emitter is given. They must not know
how turns run or where anything is stored.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

import msgspec

from onwhen.engine.events import Event
from onwhen.engine.explaining import Account, Asked, account_of
from onwhen.engine.rules import Condition
from onwhen.engine.state import Change
from onwhen.engine.store import DeadLetter, Failure, Timer
from onwhen.errors import CascadeLimit, RuleFailed

__all__ = ["Outcome", "Receipt", "ReceiptStatus", "RuleRun", "RunStatus", "failure_of"]

RunStatus: TypeAlias = Literal["fired", "skipped", "failed", "stopped", "postponed"]
ReceiptStatus: TypeAlias = Literal["accepted", "handled", "duplicate", "waiting", "recorded"]

_FRAMES: Final = 12  # kept of a traceback, the innermost ones
_MAX_TEXT: Final = 10_000  # characters kept of an error's text


class RuleRun(msgspec.Struct):
    """One rule, considered once.

    Attributes:
        rule: id of the rule; "" for the middleware around the whole event, listed if it did or stopped something.
        event_type: type of what it was considered for: the event, or a property event of the same turn.
        property: for property events, the property.
        cause: id of the rule whose change led to the property event, "middleware" for one around the whole event
            (with `@` and the rule, in a turn that repeats one); "" for the event itself.
        status: "fired", it ran; "skipped", a condition did not hold; "stopped", a middleware did not go on;
            "failed", it raised and what it did was undone; "postponed", it, or a middleware, put it off (see
            `Postponed`), and what it did was undone.
        condition: what did not hold, for a rule that was skipped, or raised, for one that failed; None if no trigger
            fitted the values, or the rule itself failed.
        tests: all its triggers that ask for values, and all its conditions, in order, with what came of each and
            the values that it looked at; empty unless that was asked for (see `Receipt.explain`).
        change: what the property event is about.
        stopped_by: name of the middleware that did not go on.
        error: what was raised.
        handled: a middleware caught the error and went on; nothing is retried.
        handled_by: name of that middleware.
        changes: what it changed of its subject, in order.
        messages: what it sent.
        timers: what it set to be sent later.
        refused: why messages of its were not sent, but left as dead letters: their chain is too long.
        cancelled: keys of the timers it cancelled.
        attempt: 1 for the first run on this event.
        retry_at: when it will be run again, for one that failed or was put off and will be.
        parked: it failed for good, and its subject waits until somebody resumes it.
    """

    rule: str
    event_type: str
    property: str = ""
    cause: str = ""
    status: RunStatus = "fired"
    condition: Condition | None = None
    tests: tuple[Asked, ...] = ()
    change: Change | None = None
    stopped_by: str = ""
    error: BaseException | None = None
    handled: bool = False
    handled_by: str = ""
    changes: tuple[Change, ...] = ()
    messages: tuple[Event, ...] = ()
    timers: tuple[Timer, ...] = ()
    refused: tuple[CascadeLimit, ...] = ()
    cancelled: tuple[str, ...] = ()
    attempt: int = 1
    retry_at: datetime | None = None
    parked: bool = False

    def forget(self) -> None:
        """Note that nothing of what it did was kept, because the event as a whole failed."""
        self.changes = self.messages = self.timers = self.refused = self.cancelled = ()
        self.retry_at, self.parked = None, False


class Outcome(msgspec.Struct, kw_only=True):
    """One turn, committed.

    Attributes:
        event: what was handled.
        runs: the rules, in the order in which they were considered.
        error: why the event as a whole failed; then nothing of what its rules did was kept.
        retry_at: when it will be run again, for an event that failed as a whole and will be.
        parked: the event failed as a whole, and its subject waits until somebody resumes it.
        dead: dead letters that the turn left.
        time: when the turn began, by the bus's clock.
        rule: id of the rule that it has run again, if it was a retry of one.
        is_explained: each run says what the rule was asked.
    """

    event: Event
    runs: tuple[RuleRun, ...] = ()
    error: BaseException | None = None
    retry_at: datetime | None = None
    parked: bool = False
    dead: tuple[DeadLetter, ...] = ()
    time: datetime | None = None
    rule: str = ""
    is_explained: bool = False


class Receipt(msgspec.Struct, eq=False):
    """What `emit` returns: what every rule did with the event, and with all that followed from it.

    Attributes:
        event: the event.
        status: "handled", its turn is committed; "duplicate", it had been accepted before, nothing was done;
            "waiting", it is accepted but waits behind a retry of its subject; "recorded", it was emitted inside
            a turn and is sent when that commits; "accepted", it is safe but not handled yet.
        cascade: receipts of the messages that its rules sent, in order.
    """

    event: Event
    status: ReceiptStatus = "accepted"
    cascade: list[Receipt] = []
    _outcome: Outcome | None = None
    _settled: Callable[[], Awaitable[None]] | None = None

    @property
    def runs(self) -> tuple[RuleRun, ...]:
        """The rules that were considered for this event, in order."""
        return self._outcome.runs if self._outcome else ()

    @property
    def error(self) -> BaseException | None:
        """Why the event as a whole failed, if it did."""
        return self._outcome.error if self._outcome else None

    @property
    def dead(self) -> tuple[DeadLetter, ...]:
        """Dead letters that this event left."""
        return self._outcome.dead if self._outcome else ()

    @property
    def changes(self) -> tuple[Change, ...]:
        """What was changed of the subject, in order."""
        return tuple(change for run in self.runs for change in run.changes)

    @property
    def sent(self) -> tuple[Event, ...]:
        """The messages that were sent, in order."""
        return tuple(event for run in self.runs for event in run.messages)

    @property
    def timers(self) -> tuple[Timer, ...]:
        """The timers that were set, in order."""
        return tuple(timer for run in self.runs for timer in run.timers)

    @property
    def fired(self) -> tuple[str, ...]:
        """Ids of the rules that ran for this event, in order."""
        return tuple(run.rule for run in self.runs if run.status == "fired" and run.rule)

    def walk(self) -> Iterator[Receipt]:
        """Go through this receipt and all that followed from it, depth first."""
        waiting = [self]
        while waiting:
            receipt = waiting.pop()
            yield receipt
            waiting.extend(reversed(receipt.cascade))

    @property
    def failures(self) -> tuple[tuple[str, BaseException], ...]:
        """Rule id ("" for an event as a whole) and error of all that failed, in the whole cascade."""
        found: list[tuple[str, BaseException]] = []
        for receipt in self.walk():
            if receipt.error is not None:
                found.append(("", receipt.error))
            for run in receipt.runs:
                found.extend((run.rule, error) for error in (run.error, *run.refused) if error is not None)
        return tuple(found)

    @property
    def ok(self) -> bool:
        """Whether nothing in the whole cascade failed."""
        return not self.failures

    def explain(self) -> Account:
        """Return what happened and why, for the whole cascade; `str()` of it is a tree for people.

        The values that conditions looked at are in it if the event was emitted with `explain=True`.
        """
        return account_of(self)

    def raise_for_failure(self) -> Receipt:
        """Return this receipt if nothing failed in the whole cascade.

        Raises:
            RuleFailed: something did; the first error is its cause.
        """
        failures = self.failures
        if failures:
            told = "; ".join(f"{rule or 'the event'}: {error!r}" for rule, error in failures)
            raise RuleFailed(f"{self.event.type} to {self.event.subject}: {told}", failures) from failures[0][1]
        return self

    async def handled(self, timeout: float | None = None) -> Receipt:
        """Wait until the event, and all that follows from it, is handled, or waits for a retry; return this receipt.

        Args:
            timeout: how long to wait at most (seconds); None for no limit. The event is handled all the same.

        Raises:
            TimeoutError: it took longer.
        """
        if self._settled is not None:
            async with asyncio.timeout(timeout):
                await self._settled()
        return self

    def __repr__(self) -> str:
        told = f"<Receipt {self.event.type} to {self.event.subject}: {self.status}"
        if self._outcome is None and self.status != "duplicate":
            return told + ">"  # not handled yet, or by a worker
        counts = dict.fromkeys(("fired", "skipped", "stopped", "postponed", "failed"), 0)
        for run in self.runs:
            counts[run.status] += 1
        shown = ", ".join(f"{number} {status}" for status, number in counts.items() if number) or "no rule matched"
        return f"{told}, {shown}>"


def failure_of(error: BaseException) -> Failure:
    """Return an error as it is kept in a store."""
    lines = traceback.format_exception(type(error), error, error.__traceback__, limit=-_FRAMES)
    story = "".join(line[:_MAX_TEXT] for line in lines)
    return Failure(type=_type_name(type(error)), message=_text_of(error), traceback=_storable(story))


def _type_name(kind: type[Any]) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _text_of(error: BaseException) -> str:
    try:
        return _storable(str(error)[:_MAX_TEXT])
    except Exception as broken:
        return f"(its text cannot be had: {type(broken).__qualname__})"


def _storable(text: str) -> str:
    """Escape what UTF-8 cannot hold: an error may quote the half of a surrogate pair that it complains about."""
    return text.encode(errors="backslashreplace").decode()
