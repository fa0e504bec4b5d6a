"""The figures of a replay, and how they are taken from what a bus tells of its turns.

Belongs here: counting, in memory that does not grow with the number of events. It must not know how events are
read, nor how figures are shown.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from onwhen.engine.events import Event
from onwhen.engine.outcomes import Outcome, RuleRun
from onwhen.engine.store import DeadLetter

__all__ = ["DeadFigures", "ReplayReport", "RuleFigures", "Tally", "TypeFigures"]

_MAX_TYPES: Final = 10_000
_OTHERS: Final = "(other types)"


@dataclass(slots=True, kw_only=True)
class TypeFigures:
    """What was seen of one event type.

    Attributes:
        read: events that were read and accepted (a count, like all of these).
        messages: messages that rules sent.
        timers: timers that fired.
    """

    read: int = 0
    messages: int = 0
    timers: int = 0


@dataclass(slots=True, kw_only=True)
class RuleFigures:
    """What one rule did.

    Attributes:
        fired: runs that did their work (a count, like all of these).
        skipped: a condition did not hold.
        stopped: a middleware did not go on.
        failed: runs that raised.
        postponed: runs that were put off.
        retries: how many of all these runs were repeats, after a failure or when they had been put off.
    """

    fired: int = 0
    skipped: int = 0
    stopped: int = 0
    failed: int = 0
    postponed: int = 0
    retries: int = 0


@dataclass(slots=True, kw_only=True)
class DeadFigures:
    """Dead letters of one rule with one class of error.

    Attributes:
        count: how many.
        first: the first of them, as an example.
    """

    count: int = 0
    first: DeadLetter


@dataclass(slots=True, kw_only=True)
class ReplayReport:
    """The figures of a replay, true at any moment while it runs.

    Attributes:
        lines: lines read, blank ones left out (a count).
        bytes: how much of the sources was taken (bytes; compressed, where the source is).
        events: events that were accepted (a count).
        done_before: events that an earlier run on the same store has done, so that they were passed over (a count).
        duplicates: events whose source and id were accepted before, so that nothing was done (a count).
        rejects: lines that could not be used (a count).
        late: events that are older than one before them, where the events' own time counts (a count).
        first: time of the earliest event that has one.
        last: time of the latest event that has one.
        types: figures by event type.
        rules: figures by rule id; "" is a middleware around whole events.
        messages: messages that rules sent (a count).
        timers_set: timers that were set (a count).
        timers_fired: timers that came due and were handled (a count).
        timers_pending: timers in the store at the end (a count).
        retries_waiting: retries in the store at the end (a count).
        dead_letters: dead letters that were left (a count).
        dead_before: dead letters that were in the store at the start (a count).
        dead: dead letters by rule and class of error.
        subjects: subjects in the store at the end (a count).
        seconds: how long it took (seconds).
        stopped: why the replay ended before all was read; "" if it did not.
        broken: which sources could not be read to their end, and why.
        others: sources that begin otherwise than what an earlier run has read under the same names.
        endless: why not all timers could be drained; "" if they could.
        is_for_workers: whether others run the rules, so that nothing is known of what each did.
    """

    lines: int = 0
    bytes: int = 0
    events: int = 0
    done_before: int = 0
    duplicates: int = 0
    rejects: int = 0
    late: int = 0
    first: datetime | None = None
    last: datetime | None = None
    types: dict[str, TypeFigures] = field(default_factory=dict)
    rules: dict[str, RuleFigures] = field(default_factory=dict)
    messages: int = 0
    timers_set: int = 0
    timers_fired: int = 0
    timers_pending: int = 0
    retries_waiting: int = 0
    dead_letters: int = 0
    dead_before: int = 0
    dead: dict[tuple[str, str], DeadFigures] = field(default_factory=dict)
    subjects: int = 0
    seconds: float = 0.0
    stopped: str = ""
    broken: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    endless: str = ""
    is_for_workers: bool = False

    @property
    def ok(self) -> bool:
        """Whether all went through, in earlier runs too: no dead letters, no rejects."""
        return not (self.dead_letters or self.dead_before or self.rejects)

    @property
    def complete(self) -> bool:
        """Whether all sources were read to their end."""
        return not (self.stopped or self.broken)

    @property
    def rate(self) -> float:
        """Accepted events per second."""
        return self.events / self.seconds if self.seconds else 0.0

    def type(self, name: str) -> TypeFigures:
        """Return the figures of an event type, to be added to."""
        figures = self.types.get(name)
        if figures is None:
            if len(self.types) >= _MAX_TYPES:
                name = _OTHERS
            figures = self.types.setdefault(name, TypeFigures())
        return figures

    def rule(self, id: str) -> RuleFigures:
        """Return the figures of a rule, to be added to."""
        figures = self.rules.get(id)
        if figures is None:
            figures = self.rules[id] = RuleFigures()
        return figures


class Tally:
    """Adds what a bus tells of its turns to a report; to be given to `EventBus.observe`.

    Args:
        report: where to add it.
    """

    def __init__(self, report: ReplayReport) -> None:
        self._report = report
        self._keys: dict[str, tuple[str, str]] = {}  # of the timers that wait: subject and key by event id
        self._ids: dict[tuple[str, str], str] = {}  # and the other way round, for those that never fire

    def read(self, event: Event) -> None:
        """Count an event that was accepted."""
        report, time = self._report, event.time
        report.events += 1
        report.type(event.type).read += 1
        if time is not None:
            if report.first is None or time < report.first:
                report.first = time
            if report.last is None or time > report.last:
                report.last = time

    def __call__(self, outcome: Outcome) -> None:
        """Count one turn."""
        event, report = outcome.event, self._report
        if event.has_id and (key := self._keys.pop(event.id, None)) is not None:
            del self._ids[key]
            report.timers_fired += 1
            report.type(event.type).timers += 1
        for run in outcome.runs:
            self._count(run)
            if outcome.error is None:  # else what they did was undone with the rest
                self._count_sent(run, event.subject)
        for letter in outcome.dead:
            report.dead_letters += 1
            figures = report.dead.setdefault((letter.rule, letter.failure.type), DeadFigures(first=letter))
            figures.count += 1

    def _count(self, run: RuleRun) -> None:
        figures = self._report.rule(run.rule)
        setattr(figures, run.status, getattr(figures, run.status) + 1)
        if run.attempt > 1:
            figures.retries += 1

    def _count_sent(self, run: RuleRun, subject: str) -> None:
        report = self._report
        for message in run.messages:
            report.messages += 1
            report.type(message.type).messages += 1
        for name in run.cancelled:
            self._forget((subject, name))
        for timer in run.timers:
            report.timers_set += 1
            key = (subject, timer.key)
            self._forget(key)
            self._ids[key] = timer.event.id
            self._keys[timer.event.id] = key

    def _forget(self, key: tuple[str, str]) -> None:
        id = self._ids.pop(key, None)
        if id is not None:
            del self._keys[id]
