"""What one partition has to hold, and what may happen to it next.

Belongs here: the promise of a partition, step by step: who may commit, which answers are right, order per subject, one
chain of versions, timers, retries, what is sent and what arrives. It keeps its own books and believes no server. It
must not know of other partitions, but for what these have ever sent.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias

from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.shared import Outgoing, Token
from onwhen.engine.store import Answer, Commit, DeadLetter, Position, Retry, Timer, Version
from tests.simulation.fleet.history import Delivery, Released, Renewal, Step, Taken, Trim
from tests.simulation.history import Appended, Committed, Discarded, Promotion, Started
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

__all__ = ["Known", "Ledger", "Pending"]

Key: TypeAlias = "tuple[str, str]"

_ROUNDING = 1e-5  # seconds; what clocks and floats differ by


@dataclass(slots=True)
class Known:
    """What is known of the whole fleet, and never taken back.

    Attributes:
        skew: how far the clock of a machine may be wrong (seconds).
        asked: ids of the events that rules have asked to be sent.
        killers: ids of the events whose rules have killed a machine; "" if there was something else that may have.
        stood_still: whether a machine has ever stood still.
        blamed: partitions whose owner has died of something in another one: what was handled meanwhile may be blamed.
        out: source, position in its outbox, target and event of all that was ever sent from partition to partition.
        handled: source and id of all events that were ever handled.
        versions: partition, subject and version of all that were ever given out.
        places: partition and position of all that were ever given out.
    """

    skew: float
    asked: set[str] = field(default_factory=set)
    killers: set[str] = field(default_factory=set)
    stood_still: bool = False
    blamed: set[int] = field(default_factory=set)
    out: set[tuple[int, Position, int, Key]] = field(default_factory=set)
    handled: set[Key] = field(default_factory=set)
    versions: set[tuple[int, str, Version]] = field(default_factory=set)
    places: set[tuple[int, Position]] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Pending:
    """An accepted event that is not handled yet."""

    event: Event
    time: float
    starts: int = 0


@dataclass(frozen=True, slots=True)
class _Stored:
    values: Values = field(default_factory=dict)
    version: Version | None = None


_NOT_STORED = _Stored()


class Ledger:
    """The books of one partition.

    Args:
        number: which one.
        of: how many there are (a count).
        known: what is known of the whole fleet.
    """

    def __init__(self, number: int, of: int, known: Known) -> None:
        self.number = number
        self.log: dict[Position, Pending] = {}
        self.accepted: dict[Key, Position] = {}  # by append
        self.posted: dict[Key, None] = {}  # messages and timers' events that have come to the log
        self.sent: dict[tuple[int, Key], None] = {}  # what has gone to other partitions
        self.outbox: dict[Position, Outgoing] = {}
        self.arrived: dict[int, Position] = {}  # of each source, up to where its messages have come
        self.watermarks: dict[int, Position] = {}
        self.subjects: dict[str, _Stored] = {}
        self.timers: dict[Key, Timer] = {}
        self.retries: dict[str, Retry] = {}
        self.were_parked: set[str] = set()
        self.starts: dict[str, int] = {}  # of retries
        self.dead: dict[str, DeadLetter] = {}
        self.ids: dict[str, None] = {}
        self.sessions: dict[str, int] = {}
        self.token: Token | None = None
        self.taken = self.expires = 0.0
        self.machine = 0  # of the owner
        self._latest: Position = 0
        self._of = of
        self._known = known

    def copied(self) -> Ledger:
        """Return the same books apart."""
        made = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, dict):
                setattr(made, name, value.copy())
        return made

    def see(self, step: Step) -> None:
        """Take in what happened next.

        Raises:
            Violation: it must not have.
        """
        what = step.what
        if isinstance(what, Appended):
            self._see_append(what)
        elif isinstance(what, Committed):
            self._see_commit(what, step)
        elif isinstance(what, Promotion):
            self._see_promotion(what, step)
        elif isinstance(what, Started):
            self._see_starts(what)
        elif isinstance(what, Discarded):
            if self.dead.pop(what.id, None) is None:
                raise Violation(f"the dead letter {what.id} was not there to be discarded")
        elif isinstance(what, Delivery):
            self._see_delivery(what, step)
        elif isinstance(what, Trim):
            self._see_trim(what)
        elif isinstance(what, Taken | Renewal | Released):
            self._see_owner(what)
            if isinstance(what, Taken) and what.acquired is not None:
                self.machine = step.machine

    def holds(self, event: str) -> bool:
        """Tell whether an event is pending, or a retry on it waits."""
        pending = (pending.event.id for pending in self.log.values())
        return event in pending or event in (retry.event.id for retry in self.retries.values())

    # -- who owns it

    def _see_owner(self, what: Taken | Renewal | Released) -> None:
        is_ours = self.token == what.token
        if isinstance(what, Renewal):
            self._same(what.is_renewed, is_ours, "a lease was renewed")
            if is_ours:
                self.expires = what.time + what.lease
        elif isinstance(what, Released):
            self._same(what.is_released, is_ours, "a partition was handed over")
            if is_ours:
                self.token = None
        else:
            is_free = self.token is None or is_ours or self.expires <= what.time + _ROUNDING
            if what.acquired is not None and not is_free:
                raise Violation(f"p{self.number} was taken by {what.token} though {self.token} owned it")
            if what.acquired is None and is_free and self.expires < what.time - _ROUNDING:
                raise Violation(f"p{self.number} was not given to {what.token} though it was free")
            if what.acquired is not None:
                self.token, self.taken, self.expires = what.token, what.time, what.time + what.lease

    def _same(self, found: bool, wanted: bool, what: str) -> None:
        if found is not wanted:
            raise Violation(f"p{self.number}: {what}: {found}, not {wanted}")

    # -- the log

    def _see_append(self, record: Appended) -> None:
        for event, answer in zip(record.events, record.answers, strict=True):
            key = (event.source, event.id)
            known = self.accepted.get(key)
            if known is None:
                if not answer.is_new or answer.position is None:
                    raise Violation(f"{event!r} was never accepted, but the store says it was")
                self.accepted[key] = answer.position
                self._post(answer.position, event, record.time)
            elif answer.is_new:
                raise Violation(f"{event!r} was accepted twice")
            elif answer.position != (known if known in self.log else None):
                raise Violation(f"{event!r} is said to be at {answer.position}, but was accepted at {known}")

    def _post(self, position: Position, event: Event, time: float) -> None:
        if partition_of(event.subject, self._of) != self.number:
            raise Violation(f"{event!r} was put into the log of partition {self.number}")
        self._take_place(position, event)
        self.log[position] = Pending(event, time)

    def _take_place(self, position: Position, event: Event) -> None:
        if position <= self._latest:
            raise Violation(f"{event!r} stands at {position}, after {self._latest} was given away")
        if (self.number, position) in self._known.places:
            raise Violation(f"{event!r} stands at {position}, where something else has stood that was lost")
        self._known.places.add((self.number, position))
        self._latest = position

    def _post_once(self, position: Position, event: Event, time: float) -> None:
        """Take in a message or a timer's event; two with one id are one that comes twice."""
        key = (event.source, event.id)
        if key in self.posted:
            raise Violation(f"{event!r} has come twice")
        self.posted[key] = None
        self._post(position, event, time)

    def _see_starts(self, record: Started) -> None:
        for which, number in record.starts.items():
            if isinstance(which, int):
                if (pending := self.log.get(which)) is not None:
                    self.log[which] = Pending(pending.event, pending.time, number)
            elif which in self.retries:
                self.starts[which] = number

    # -- timers

    def _see_promotion(self, record: Promotion, step: Step) -> None:
        now = moment(record.time + record.ahead)
        for event in self._sent_by(step):
            key = self._timer_of(event)
            timer = self.timers.pop(key)
            if timer.due > now:
                raise Violation(f"the timer {key} fired at {now}, it was due at {timer.due}")
        self._put(step)
        for key, timer in self.timers.items():
            if timer.due <= now:
                raise Violation(f"the timer {key} was due at {timer.due}, and did not fire at {now}")

    def _timer_of(self, event: Event) -> Key:
        for key, timer in self.timers.items():
            if timer.event.id == event.id:
                if timer.event != event:
                    raise Violation(f"the timer {key} sends {event!r}, not {timer.event!r}")
                return key
        raise Violation(f"{event!r} came from a timer that was fired before, replaced or cancelled")

    def _sent_by(self, step: Step) -> list[Event]:
        found = [(entry.position, entry.event) for entry in step.posted]
        found += [(out.position, out.event) for out in step.out]
        return [event for _, event in sorted(found, key=lambda one: one[0])]

    def _put(self, step: Step) -> None:
        """Take in what has come to the log and the outbox."""
        for position, out in sorted(
            [*((entry.position, entry) for entry in step.posted), *((one.position, one) for one in step.out)],
            key=lambda one: one[0],
        ):
            if not isinstance(out, Outgoing):
                self._post_once(position, out.event, step.time)
                continue
            if partition_of(out.event.subject, self._of) != out.target or out.target == self.number:
                raise Violation(f"{out.event!r} is to go from {self.number} to {out.target}")
            self._take_place(position, out.event)
            key = (out.event.source, out.event.id)
            if (out.target, key) in self.sent:
                raise Violation(f"{out.event!r} was sent twice")
            self.sent[out.target, key] = None
            self.outbox[position] = out
            self._known.out.add((self.number, position, out.target, key))

    # -- between partitions

    def _see_delivery(self, record: Delivery, step: Step) -> None:
        watermark = self.watermarks.get(record.source)
        self._same(record.delivered.is_accepted, record.expected == watermark, "a delivery was accepted")
        if not record.delivered.is_accepted or not record.messages:
            return
        wanted = []
        for out in record.messages:
            key = (out.event.source, out.event.id)
            if (record.source, out.position, self.number, key) not in self._known.out:
                raise Violation(f"{out.event!r} at {out.position} was never sent by {record.source}")
            if key in self.posted or key in [(event.source, event.id) for event in wanted]:
                continue
            if out.position <= self.arrived.get(record.source, 0):
                raise Violation(f"{out.event!r} of {record.source} has come after what was sent later")
            self.arrived[record.source] = out.position
            wanted.append(out.event)
        if [entry.event for entry in step.posted] != wanted:
            raise Violation(f"delivered: {[entry.event for entry in step.posted]}, not {wanted}")
        for entry in step.posted:
            self._post_once(entry.position, entry.event, step.time)
        self.watermarks[record.source] = record.messages[-1].position

    def _see_trim(self, record: Trim) -> None:
        self._same(record.is_done, record.token == self.token, "an outbox was trimmed")
        if record.is_done:
            self.outbox = {position: out for position, out in self.outbox.items() if position > record.upto}

    # -- commits

    def _see_commit(self, record: Committed, step: Step) -> None:
        commit, answer = record.commit, record.result.answer
        stored = self.subjects.get(commit.subject, _NOT_STORED)
        right = self._right_answer(commit, stored)
        if answer is not right:
            raise Violation(
                f"a commit of {commit.subject} on version {commit.version}, token {commit.token}, was answered "
                f"{answer.value}, not {right.value}: the subject has version {stored.version}, the owner {self.token}"
            )
        if answer is not Answer.OK:
            return
        if record.by == "engine":
            self._judge(commit, stored, record.time)
        self._apply(commit, record, step, stored)

    def _right_answer(self, commit: Commit, stored: _Stored) -> Answer:
        if commit.token is not None and commit.token != self.token:
            return Answer.FENCED
        if (
            (commit.handled is not None and commit.handled not in self.log)
            or (commit.retried is not None and commit.retried not in self.retries)
            or any(id not in self.dead for id in commit.revived)
            or commit.id in self.ids
        ):
            return Answer.DONE
        return Answer.OK if commit.version == stored.version else Answer.CONFLICT

    def _judge(self, commit: Commit, stored: _Stored, time: float) -> None:
        """Compare what a commit says with what it should say."""
        skew = timedelta(seconds=self._known.skew)
        if commit.handled is not None:
            self._must_own(commit)
            pending = self.log[commit.handled]
            self._judge_order(commit, pending)
            about = self._about(pending.event, None, moment(pending.time) - skew, time, pending.starts)
            judge_turn(commit, stored.values, about)
        elif commit.retried is not None:
            retry = self.retries[commit.retried]
            if retry.parked or (commit.token is None and retry.key in self.were_parked):
                # Whoever resumes or skips may have looked before another one did: nobody has promised him to be alone.
                judge_end_of_parking(commit, retry)
                return
            self._must_own(commit)
            if moment(time) + skew < retry.due:
                raise Violation(f"{retry.rule} on {retry.event!r} was run again before {retry.due}")
            about = self._about(retry.event, retry, retry.due, time, self.starts.get(retry.key, 0))
            judge_turn(commit, stored.values, about)
        elif commit.revived:
            judge_revival(commit, self.dead[commit.revived[0]])
        else:
            tag = judge_session(commit, stored.values)
            self.sessions[tag] = self.sessions.get(tag, 0) + 1

    def _must_own(self, commit: Commit) -> None:
        if commit.token is None:
            raise Violation(f"a turn of {commit.subject} was committed by somebody who owns nothing")

    def _about(self, event: Event, retry: Retry | None, since: Any, time: float, starts: int) -> Handling:
        known = self._known
        return Handling(
            event=event,
            retry=retry,
            since=since,
            now=moment(time + known.skew),
            starts=starts,
            asked=known.asked,
            killers=known.killers | {""} if self.number in known.blamed else known.killers,
            stood_still=known.stood_still,
        )

    def _judge_order(self, commit: Commit, pending: Pending) -> None:
        name, position = commit.subject, commit.handled
        assert position is not None
        if pending.event.subject != name:
            raise Violation(f"{name} has handled {pending.event!r}")
        for earlier, other in self.log.items():
            if earlier >= position:
                break
            if other.event.subject == name:
                raise Violation(
                    f"{name} has handled {pending.event!r} at {position} before {other.event!r} at {earlier}"
                )
        held = (retry for retry in self.retries.values() if retry.subject == name)
        if (retry := next((retry for retry in held if retry.in_order or retry.parked), None)) is not None:
            raise Violation(f"{name} has handled {pending.event!r} while {retry.rule} waits to be run again in order")

    def _apply(self, commit: Commit, record: Committed, step: Step, stored: _Stored) -> None:
        name, version = commit.subject, record.result.version
        if commit.handled is not None:
            event = self.log.pop(commit.handled).event
            self._known.handled.add((event.source, event.id))
        if commit.retried is not None:
            del self.retries[commit.retried]
            self.starts.pop(commit.retried, None)
        for id in commit.revived:
            del self.dead[id]
        if commit.id is not None:
            self.ids[commit.id] = None
        if commit.write is not None:
            self._apply_write(commit, stored, version)
        elif version != stored.version:
            raise Violation(f"{name} has version {version}, but nothing was written")
        self._apply_timers(commit)
        for retry in commit.retries:
            self.retries[retry.key] = retry
            if retry.parked:
                self.were_parked.add(retry.key)
            self.starts.pop(retry.key, None)
        for letter in commit.dead:
            self.dead[letter.id] = letter
        if self._sent_by(step) != list(commit.messages):
            raise Violation(f"{name} was to send {commit.messages}, and has sent {self._sent_by(step)}")
        self._put(step)

    def _apply_write(self, commit: Commit, stored: _Stored, version: Version | None) -> None:
        name = commit.subject
        self.subjects[name] = _Stored(values_after(stored.values, commit), version)
        if version is not None:
            if (self.number, name, version) in self._known.versions:
                raise Violation(f"{name} has version {version} for the second time")
            self._known.versions.add((self.number, name, version))

    def _apply_timers(self, commit: Commit) -> None:
        for key in [key for key in self.timers if key[0] == commit.subject]:
            if commit.cancel_all or key[1] in commit.cancelled:
                del self.timers[key]
        for timer in commit.timers:
            self.timers.pop((timer.subject, timer.key), None)
            self.timers[timer.subject, timer.key] = timer

    # -- the end

    def at_rest(self, ending: float) -> None:
        """Check that nothing is left to be done.

        Args:
            ending: what was taken since then (seconds) may be owned still: its owner may not have been told in time.

        Raises:
            Violation: something is.
        """
        if self.log:
            raise Violation(f"at rest, but pending: {[one.event for one in self.log.values()]}")
        if self.timers:
            raise Violation(f"at rest, but timers are set: {list(self.timers)}")
        if self.retries:
            raise Violation(f"at rest, but retries wait: {[(r.rule, r.event) for r in self.retries.values()]}")
        if self.token is not None and self.taken < ending:
            raise Violation(f"at rest, but p{self.number} is owned")

    def lacks(self, sent: Iterable[Key]) -> Collection[Key]:
        """Return what was sent to it and has not come."""
        return [key for key in sent if key not in self.posted]
