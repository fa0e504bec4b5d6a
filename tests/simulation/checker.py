"""The history checker: whether what a store was made to do, and what it holds in the end, keeps the promise.

Belongs here: the promise, as pure functions over a history and the content of a store. It goes through the history in
the order in which it took effect, and keeps what the store has to hold by then. It must not know how a history came
about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Answer, Commit, CommitResult, DeadLetter, LogEntry, Position, Retry, Timer, Version
from tests.simulation.emitters import Emitters
from tests.simulation.history import (
    Appended,
    Called,
    Committed,
    Discarded,
    Life,
    Promotion,
    Record,
    Returned,
    Sent,
    Started,
)
from tests.simulation.judges import (
    Handling,
    Violation,
    judge_end_of_parking,
    judge_revival,
    judge_session,
    judge_turn,
    values_after,
)
from tests.simulation.loop import moment
from tests.simulation.model import Values

__all__ = ["Checker", "Content", "Violation", "check"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a store holds.

    Attributes:
        subjects: name -> properties as JSON values, and version.
        pending: what is in the log.
        timers: what is set.
        retries: what waits or is parked.
        dead: what is dead.
    """

    subjects: Mapping[str, tuple[Values, Version | None]]
    pending: Sequence[LogEntry]
    timers: Sequence[Timer]
    retries: Sequence[Retry]
    dead: Sequence[DeadLetter]


def check(records: Iterable[Record], content: Content, emitted: Iterable[str], partitions: int) -> None:
    """Check a whole history, and what was left at its end, when everything has come to rest.

    Args:
        records: what happened.
        content: what the store holds in the end.
        emitted: ids of the events that somebody outside has emitted until he was told that they were accepted.
        partitions: how many partitions the store has (a count).

    Raises:
        Violation: the promise is broken.
    """
    checker = Checker(partitions)
    for record in records:
        checker.see(record)
    checker.compare(content)
    checker.at_rest(emitted)


@dataclass(slots=True)
class _Pending:
    """An accepted event that is not handled yet."""

    event: Event
    time: float
    starts: int = 0


@dataclass(slots=True)
class _Stored:
    """A subject."""

    values: Values = field(default_factory=dict)
    version: Version | None = None


class Checker:
    """Goes through a history.

    Args:
        partitions: how many partitions the store has (a count).
    """

    def __init__(self, partitions: int) -> None:
        self._partitions = partitions
        self._time = 0.0
        self._logs: list[dict[Position, _Pending]] = [{} for _ in range(partitions)]
        self._latest: list[Position] = [0] * partitions
        self._accepted: dict[tuple[str, str], Position] = {}  # by append
        self._sent: dict[tuple[Any, ...], str] = {}  # what a rule asked for -> id of the event
        self._asked: set[str] = set()  # those ids
        self._posted: set[tuple[str, str]] = set()  # messages and timers' events that have come to the log
        self._subjects: dict[str, _Stored] = {}
        self._versions: dict[str, set[Version]] = {}
        self._timers: dict[tuple[str, str], Timer] = {}
        self._retries: dict[str, Retry] = {}
        self._starts: dict[str, int] = {}  # of retries
        self._dead: dict[str, DeadLetter] = {}
        self._ids: set[str] = set()
        self._handled: set[Position] = set()
        self._held: set[str] = set()  # subjects that wait for a retry, or whose engine may not know better yet
        self._emitters = Emitters(self._handled, self._held)
        self._is_closing = False
        self._killers: set[str] = set()  # ids of events; "" for chance

    def see(self, record: Record) -> None:
        """Take in what happened next.

        Raises:
            Violation: it must not have.
        """
        self._time = record.time
        if isinstance(record, Appended):
            self._see_append(record)
        elif isinstance(record, Committed):
            self._see_commit(record)
        elif isinstance(record, Promotion):
            self._see_promotion(record)
        elif isinstance(record, Started):
            self._see_starts(record)
        elif isinstance(record, Sent):
            self._see_sent(record)
        elif isinstance(record, Discarded):
            if self._dead.pop(record.id, None) is None:
                raise Violation(f"the dead letter {record.id} was not there to be discarded")
        elif isinstance(record, Called):
            self._emitters.called(record)
        elif isinstance(record, Returned):
            self._emitters.returned(record, is_closing=self._is_closing)
        elif isinstance(record, Life):
            self._is_closing = record.what == "closing"
            if record.what == "killed":
                self._killers.add(record.by)

    # -- the log

    def _see_append(self, record: Appended) -> None:
        for event, answer in zip(record.events, record.answers, strict=True):
            known = self._accepted.get((event.source, event.id))
            if known is None:
                if not answer.is_new or answer.position is None:
                    raise Violation(f"{event!r} was never accepted, but the store says it was")
                self._accepted[event.source, event.id] = answer.position
                self._emitters.accepted(event.id, answer.position, event.subject)
                self._post(record.partition, answer.position, event)
            elif answer.is_new:
                raise Violation(f"{event!r} was accepted twice")
            elif answer.position != (known if known in self._logs[record.partition] else None):
                raise Violation(f"{event!r} is said to be at {answer.position}, but was accepted at {known}")

    def _post(self, partition: int, position: Position, event: Event) -> None:
        if partition_of(event.subject, self._partitions) != partition:
            raise Violation(f"{event!r} was put into the log of partition {partition}")
        if position <= self._latest[partition]:
            raise Violation(f"{event!r} stands at {position}, after {self._latest[partition]} was given away")
        self._latest[partition] = position
        self._logs[partition][position] = _Pending(event, self._time)

    def _post_once(self, partition: int, position: Position, event: Event) -> None:
        """Take in a message or a timer's event; two with one id are one that comes twice."""
        key = (event.source, event.id)
        if key in self._posted:
            raise Violation(f"{event!r} was sent twice")
        self._posted.add(key)
        self._post(partition, position, event)

    def _see_sent(self, record: Sent) -> None:
        key = (record.parent, record.rule, record.attempt, record.index)
        self._asked.add(record.id)
        if self._sent.setdefault(key, record.id) != record.id:
            raise Violation(
                f"{record.rule}, run again on {record.parent}, sends {record.id}, before it was {self._sent[key]}"
            )

    def _see_starts(self, record: Started) -> None:
        for which, number in record.starts.items():
            if isinstance(which, int):
                if (pending := self._logs[record.partition].get(which)) is not None:
                    pending.starts = number
            elif which in self._retries:
                self._starts[which] = number

    def _see_promotion(self, record: Promotion) -> None:
        now = moment(record.time + record.ahead)
        for entry in record.entries:
            key = self._timer_of(entry.event)
            timer = self._timers.pop(key)
            if timer.due > now:
                raise Violation(f"the timer {key} fired at {now}, it was due at {timer.due}")
            partition = partition_of(entry.event.subject, self._partitions)
            self._post_once(partition, entry.position, entry.event)
        for (subject, name), timer in self._timers.items():
            if timer.due <= now and partition_of(subject, self._partitions) == record.partition:
                raise Violation(f"the timer {name} of {subject} was due at {timer.due}, and did not fire at {now}")

    def _timer_of(self, event: Event) -> tuple[str, str]:
        for key, timer in self._timers.items():
            if timer.event.id == event.id:
                if timer.event != event:
                    raise Violation(f"the timer {key} sends {event!r}, not {timer.event!r}")
                return key
        raise Violation(f"{event!r} came from a timer that was fired before, replaced or cancelled")

    # -- commits

    def _see_commit(self, record: Committed) -> None:
        commit, answer = record.commit, record.result.answer
        is_done = self._is_done(commit)
        stored = self._subjects.get(commit.subject) or _Stored()
        right = Answer.DONE if is_done else Answer.OK if commit.version == stored.version else Answer.CONFLICT
        if answer is not right:
            raise Violation(
                f"a commit of {commit.subject} on version {commit.version} was answered {answer.value}, not "
                f"{right.value}: the subject has version {stored.version}"
            )
        if answer is not Answer.OK:
            return
        if record.by == "engine":
            self._judge(commit, stored)
        self._apply(commit, record.result, stored)

    def _is_done(self, commit: Commit) -> bool:
        return (
            (commit.handled is not None and commit.handled not in self._logs[commit.partition])
            or (commit.retried is not None and commit.retried not in self._retries)
            or any(id not in self._dead for id in commit.revived)
            or commit.id in self._ids
        )

    def _judge(self, commit: Commit, stored: _Stored) -> None:
        """Compare what a commit says with what it should say."""
        if commit.handled is not None:
            pending = self._logs[commit.partition][commit.handled]
            self._judge_order(commit, pending)
            about = self._about(pending.event, None, moment(pending.time), pending.starts)
            judge_turn(commit, stored.values, about)
        elif commit.retried is not None:
            retry = self._retries[commit.retried]
            if retry.parked:
                judge_end_of_parking(commit, retry)
                return
            if commit.retries == [retry] and not (commit.write or commit.messages or commit.dead):
                return  # it was resumed, nobody was told, and it is resumed again: that changes nothing
            if moment(self._time) < retry.due:
                raise Violation(f"{retry.rule} on {retry.event!r} was run again before {retry.due}")
            about = self._about(retry.event, retry, retry.due, self._starts.get(retry.key, 0))
            judge_turn(commit, stored.values, about)
        elif commit.revived:
            judge_revival(commit, self._dead[commit.revived[0]])
        else:
            self._emitters.stored(judge_session(commit, stored.values))

    def _about(self, event: Event, retry: Retry | None, since: datetime, starts: int) -> Handling:
        return Handling(
            event=event,
            retry=retry,
            since=since,
            now=moment(self._time),
            starts=starts,
            asked=self._asked,
            killers=self._killers,
        )

    def _judge_order(self, commit: Commit, pending: _Pending) -> None:
        name, position = commit.subject, commit.handled
        assert position is not None
        if pending.event.subject != name:
            raise Violation(f"{name} has handled {pending.event!r}")
        for earlier, other in self._logs[commit.partition].items():
            if earlier >= position:
                break
            if other.event.subject == name:
                raise Violation(
                    f"{name} has handled {pending.event!r} at {position} before {other.event!r} at {earlier}"
                )
        if (retry := self._holding(name)) is not None:
            raise Violation(f"{name} has handled {pending.event!r} while {retry.rule} waits to be run again in order")

    def _holding(self, subject: str) -> Retry | None:
        held = (retry for retry in self._retries.values() if retry.subject == subject)
        return next((retry for retry in held if retry.in_order or retry.parked), None)

    def _apply(self, commit: Commit, result: CommitResult, stored: _Stored) -> None:
        name = commit.subject
        if commit.handled is not None:
            self._held.discard(name)
            del self._logs[commit.partition][commit.handled]
            self._handled.add(commit.handled)
        if commit.retried is not None:
            if self._retries.pop(commit.retried).in_order:
                self._emitters.released(name, self._time)
            self._starts.pop(commit.retried, None)
        for id in commit.revived:
            del self._dead[id]
        if commit.id is not None:
            self._ids.add(commit.id)
        if commit.write is not None:
            self._subjects[name] = _Stored(values_after(stored.values, commit), result.version)
            if result.version is not None:
                if result.version in self._versions.setdefault(name, set()):
                    raise Violation(f"{name} has version {result.version} for the second time")
                self._versions[name].add(result.version)
        elif result.version != stored.version:
            raise Violation(f"{name} has version {result.version}, but nothing was written")
        self._apply_timers(commit)
        for retry in commit.retries:
            self._retries[retry.key] = retry
            self._starts.pop(retry.key, None)
            if retry.in_order:
                self._held.add(name)  # until an event is handled that has waited for it
        for letter in commit.dead:
            self._dead[letter.id] = letter
        for event, position in zip(commit.messages, result.appended, strict=True):
            assert position is not None
            self._post_once(partition_of(event.subject, self._partitions), position, event)
            if commit.handled is not None:
                self._emitters.followed(commit.handled, position, event.subject, self._time)

    def _apply_timers(self, commit: Commit) -> None:
        for key in [key for key in self._timers if key[0] == commit.subject]:
            if commit.cancel_all or key[1] in commit.cancelled:
                del self._timers[key]
        for timer in commit.timers:
            self._timers.pop((timer.subject, timer.key), None)
            self._timers[timer.subject, timer.key] = timer

    # -- the end

    def compare(self, content: Content) -> None:
        """Compare what a store holds with what it should hold.

        Raises:
            Violation: they differ.
        """
        wanted: Content = Content(
            subjects={name: (s.values, s.version) for name, s in self._subjects.items() if s.version is not None},
            pending=[
                LogEntry(position, pending.event, moment(0)) for log in self._logs for position, pending in log.items()
            ],
            timers=list(self._timers.values()),
            retries=list(self._retries.values()),
            dead=list(self._dead.values()),
        )
        _match("subjects", content.subjects, wanted.subjects)
        _match(
            "log",
            [(e.position, e.event.id) for e in content.pending],
            [(e.position, e.event.id) for e in wanted.pending],
        )
        _match("timers", _keyed(content.timers), _keyed(wanted.timers))
        _match("retries", _tried(content.retries), _tried(wanted.retries))
        _match("dead letters", {x.id: x.attempts for x in content.dead}, {x.id: x.attempts for x in wanted.dead})

    def at_rest(self, emitted: Iterable[str]) -> None:
        """Check that nothing is left to be done.

        Raises:
            Violation: something is.
        """
        if any(self._logs):
            raise Violation(f"at rest, but pending: {[p.event for log in self._logs for p in log.values()]}")
        if self._timers:
            raise Violation(f"at rest, but timers are set: {list(self._timers)}")
        if self._retries:
            raise Violation(f"at rest, but retries wait: {[(r.rule, r.event) for r in self._retries.values()]}")
        self._emitters.at_rest(emitted)


def _keyed(timers: Iterable[Timer]) -> dict[tuple[str, str], tuple[Any, str]]:
    return {(timer.subject, timer.key): (timer.due, timer.event.id) for timer in timers}


def _tried(retries: Iterable[Retry]) -> dict[str, tuple[Any, ...]]:
    return {r.key: (r.rule, r.subject, r.attempt, r.due, r.in_order, r.parked) for r in retries}


def _match(what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise Violation(f"the store's {what}:\n  found  {found}\n  wanted {wanted}")
