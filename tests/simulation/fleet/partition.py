"""One partition as a server keeps it: what each script does to it, with the answers of the shared-store contract.

Belongs here: plain dicts of frozen records, and operations on them that take effect at once and as a whole. Everything
that a partition holds is in one `State`, its owner's token and its watermarks too, so that it can be set back to an
earlier one by itself, as a fail-over does that loses the latest writes. It must not know of connections, nor of other
partitions.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, TypeAlias

import msgspec

from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.shared import Acquired, Delivered, Fired, Outgoing, PartitionState, Renewed, Token
from onwhen.engine.store import (
    Accepted,
    Answer,
    Commit,
    CommitResult,
    DeadLetter,
    Explanation,
    LogEntry,
    Position,
    Promoted,
    Retry,
    RetryKey,
    SubjectRecord,
    SubjectWrite,
    Timer,
    Version,
)
from onwhen.errors import StoreBusy

__all__ = ["Partition", "State"]

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ROOM: Final = 1 << 20  # positions in a millisecond (a count)
_JUMP: Final = 1 << 8  # what chance puts between two positions, so that a server that was set back gives out others
_REMEMBERED: Final = timedelta(hours=1)  # for how long what was delivered is known
_AT_ONCE: Final = 1000  # timers that are moved at once (a count)

_TimerKey: TypeAlias = "tuple[str, str]"


@dataclass(slots=True)
class State:
    """All that is kept of a partition. The values in its dicts are frozen, so a copy is as deep as it has to be."""

    log: dict[Position, LogEntry] = field(default_factory=dict)
    fired: dict[Position, None] = field(default_factory=dict)  # which of these were timers
    subjects: dict[str, SubjectRecord] = field(default_factory=dict)
    timers: dict[_TimerKey, tuple[datetime, int, Timer]] = field(default_factory=dict)
    retries: dict[RetryKey, tuple[datetime, int, Retry]] = field(default_factory=dict)
    dead: dict[str, tuple[int, DeadLetter]] = field(default_factory=dict)
    outbox: dict[Position, Outgoing] = field(default_factory=dict)
    watermarks: dict[int, Position] = field(default_factory=dict)
    delivered: dict[tuple[str, str], datetime] = field(default_factory=dict)
    window: dict[Hashable, Position] = field(default_factory=dict)
    bookmarks: dict[str, str] = field(default_factory=dict)
    explanations: dict[int, Explanation] = field(default_factory=dict)
    fences: dict[int, int] = field(default_factory=dict)
    token: Token | None = None
    owner: str = ""
    expires: datetime = _EPOCH
    was_released: bool = True  # before the token was set
    touched: int = 0
    appended: int = 0
    latest: Position = 0
    changes: int = 0

    def copied(self) -> State:
        """Return the same state apart."""
        made = copy.copy(self)
        for name in _DICTS:
            setattr(made, name, getattr(self, name).copy())
        return made


_DICTS: Final = [name for name in State.__slots__ if isinstance(getattr(State(), name), dict)]


class Partition:
    """One partition.

    Args:
        number: which one it is.
        of: how many there are (a count).
        now: the clock of the server that it is on.
        chance: what makes versions and positions differ from those that were given out and lost.
        numbers: gives out numbers that grow, for what is kept in the order set.
        window: how many accepted events and commits are remembered (a count).
        most: how many pending events there may be before no more are accepted (a count).
        explanations: how many are kept (a count).
        keep: how many earlier states are kept to be set back to (a count).
    """

    def __init__(
        self,
        number: int,
        of: int,
        *,
        now: Callable[[], datetime],
        chance: random.Random,
        numbers: Iterator[int],
        window: int,
        most: int,
        explanations: int,
        keep: int,
    ) -> None:
        self.state = State()
        self.earlier: list[State] = []
        self._number = number
        self._of = of
        self._now = now
        self._chance = chance
        self._numbers = numbers
        self._window = window
        self._most = most
        self._explanations = explanations
        self._keep = keep

    def now(self) -> datetime:
        """Return the time by the clock of the server."""
        return self._now()

    def _change(self) -> State:
        """Return the state, which is about to change."""
        if self._keep:
            self.earlier.append(self.state.copied())
            del self.earlier[: -self._keep]
        self.state.changes += 1
        return self.state

    def set_back(self, changes: int) -> int:
        """Lose the latest changes; return how many are lost, which is less if so many are not kept."""
        lost = min(changes, len(self.earlier))
        if lost:
            self.state = self.earlier[-lost]
            del self.earlier[-lost:]
        return lost

    # -- the log

    def append(self, events: Sequence[Event], bookmarks: Mapping[str, str] | None) -> Sequence[Accepted]:
        """Accept events; see `Store.append`."""
        if events and len(self.state.log) >= self._most:
            backlog = len(self.state.log)
            raise StoreBusy(
                f"partition {self._number} has a backlog of {backlog}; wait, and send it again",
                partition=self._number,
                backlog=backlog,
                limit=self._most,
            )
        state, now = self._change(), self._now()
        state.bookmarks.update(bookmarks or {})
        answers = []
        for event in events:
            key = (event.source, event.id)
            seen = state.window.get(key)
            if seen is not None:
                answers.append(Accepted(seen if seen in state.log else None, is_new=False))
            else:
                position = self._post(state, event, now)
                self._remember(state, key, position)
                answers.append(Accepted(position))
        return answers

    def _remember(self, state: State, key: Hashable, position: Position) -> None:
        state.window[key] = position
        if len(state.window) > self._window:
            del state.window[next(iter(state.window))]

    def _post(self, state: State, event: Event, now: datetime) -> Position:
        position = self._position(state, now)
        state.log[position] = LogEntry(position, event, now)
        state.appended += 1
        return position

    def _position(self, state: State, now: datetime) -> Position:
        passed = (now - _EPOCH) // timedelta(milliseconds=1)
        state.latest = max(state.latest, passed * _ROOM) + 1 + self._chance.randrange(_JUMP)
        return state.latest

    def read(self, after: Position | None, limit: int) -> Sequence[LogEntry]:
        """Return pending events; see `Store.read`."""
        found = [entry for position, entry in self.state.log.items() if position > (after or 0)]
        return found[:limit]

    def starting(self, starts: Mapping[Position | RetryKey, int]) -> None:
        """Note how often handling has begun; see `Store.starting`."""
        state = self._change()
        for which, number in starts.items():
            if isinstance(which, int):
                if which in state.log:
                    state.log[which] = msgspec.structs.replace(state.log[which], starts=number)
            elif which in state.retries:
                due, order, retry = state.retries[which]
                state.retries[which] = due, order, msgspec.structs.replace(retry, starts=number)

    # -- commits

    def enter(self, client: int, epoch: int) -> bool:
        """Tell whether a call of a client is let in: one that it has given up is not, once a later one has come.

        Args:
            client: who calls.
            epoch: grows each time that it has given up a call (a count).
        """
        fences = self.state.fences
        if epoch < fences.get(client, 0):
            return False
        fences[client] = epoch
        return True

    def commit(self, commit: Commit) -> CommitResult:
        """Store one turn's effects; see `Store.commit`."""
        state = self.state
        if commit.token is not None and commit.token != state.token:
            return CommitResult(Answer.FENCED)
        if self._is_done(state, commit):
            return CommitResult(Answer.DONE)
        stored = state.subjects.get(commit.subject)
        if commit.version != (None if stored is None else stored.version):
            return CommitResult(Answer.CONFLICT)
        state = self._change()
        version = commit.version
        if commit.write is not None:
            version = self._write(state, commit.subject, stored, commit.write)
        self._take_away(state, commit)
        self._set_aside(state, commit)
        appended = self._send(state, commit.messages)
        if commit.token is None and (commit.retried is not None or commit.retries or None in appended):
            state.touched += 1
        return CommitResult(Answer.OK, version, appended)

    def _is_done(self, state: State, commit: Commit) -> bool:
        return (
            (commit.handled is not None and commit.handled not in state.log)
            or (commit.retried is not None and commit.retried not in state.retries)
            or any(id not in state.dead for id in commit.revived)
            or (commit.id is not None and commit.id in state.window)
        )

    def _write(self, state: State, name: str, stored: SubjectRecord | None, write: SubjectWrite) -> Version | None:
        if write.remove:
            state.subjects.pop(name, None)
            return None
        properties = dict(stored.properties) | dict(write.set) if stored is not None else dict(write.set)
        ext = dict(stored.ext) | dict(write.set_ext) if stored is not None else dict(write.set_ext)
        for gone in write.delete:
            properties.pop(gone, None)
        for gone in write.delete_ext:
            ext.pop(gone, None)
        # Not a count alone: a server that was set back would give the same ones out again.
        version = f"{state.changes}.{self._chance.getrandbits(32):08x}"
        state.subjects[name] = SubjectRecord(
            name=name, properties=properties, ext=ext, version=version, schema=write.schema
        )
        return version

    def _take_away(self, state: State, commit: Commit) -> None:
        if commit.handled is not None:
            del state.log[commit.handled]
            state.fired.pop(commit.handled, None)
        if commit.retried is not None:
            del state.retries[commit.retried]
        for id in commit.revived:
            del state.dead[id]
        if commit.id is not None:
            self._remember(state, commit.id, 0)
        for key in [key for key in state.timers if key[0] == commit.subject]:
            if commit.cancel_all or key[1] in commit.cancelled:
                del state.timers[key]

    def _set_aside(self, state: State, commit: Commit) -> None:
        for timer in commit.timers:
            state.timers[timer.subject, timer.key] = timer.due, next(self._numbers), timer
        for retry in commit.retries:
            state.retries[retry.key] = retry.due, next(self._numbers), retry
        for letter in commit.dead:
            state.dead[letter.id] = next(self._numbers), letter
        if commit.explanation is not None:
            state.explanations[next(self._numbers)] = commit.explanation
            while len(state.explanations) > self._explanations:
                del state.explanations[next(iter(state.explanations))]

    def _send(self, state: State, messages: Iterable[Event]) -> Sequence[Position | None]:
        now, appended = self._now(), list[Position | None]()
        for event in messages:
            target = partition_of(event.subject, self._of)
            if target == self._number:
                appended.append(self._post(state, event, now))
            else:
                self._put_out(state, target, event, now)
                appended.append(None)
        return tuple(appended)

    def _put_out(self, state: State, target: int, event: Event, now: datetime) -> None:
        position = self._position(state, now)
        state.outbox[position] = Outgoing(position, target, event)

    def discard(self, letter: str) -> bool:
        """Remove a dead letter; see `Store.discard`."""
        if letter not in self.state.dead:
            return False
        del self._change().dead[letter]
        return True

    # -- timers

    def fire(self) -> Fired:
        """Move what is due; see `SharedStore.fire`."""
        now = self._now()
        due = sorted((entry for entry in self.state.timers.values() if entry[0] <= now), key=_by_due)[:_AT_ONCE]
        elsewhere = False
        if due:
            state = self._change()
            for _, _, timer in due:
                del state.timers[timer.subject, timer.key]
                target = partition_of(timer.event.subject, self._of)
                if target == self._number:
                    state.fired[self._post(state, timer.event, now)] = None
                else:
                    self._put_out(state, target, timer.event, now)
                    elsewhere = True
            state.touched += elsewhere
        next_due = min((entry[0] for entry in self.state.timers.values()), default=None)
        return Fired(moved=len(due), next_due=next_due, elsewhere=elsewhere)

    def promote(self, after: Position | None) -> Promoted:
        """Move what is due, and return it; see `Store.promote`."""
        fired, state = self.fire(), self.state
        entries = [state.log[position] for position in state.fired if position > (after or 0)]
        return Promoted(entries, fired.next_due, fired.elsewhere)

    # -- owners

    def acquire(self, token: Token, worker: str, lease: float) -> Acquired | None:
        """Take the partition; see `SharedStore.acquire`."""
        now, old = self._now(), self.state
        if old.token not in (None, token) and old.expires > now:
            return None
        state = self._change()
        if token != state.token:
            state.was_released = state.token is None
            state.token, state.owner = token, worker
        state.expires = now + timedelta(seconds=lease)
        return Acquired(was_released=state.was_released, touched=state.touched)

    def renew(self, token: Token, lease: float) -> Renewed | None:
        """Make a lease run from now on; None if it is lost."""
        if self.state.token != token:
            return None
        state = self._change()
        state.expires = self._now() + timedelta(seconds=lease)
        return Renewed(state.touched)

    def release(self, token: Token) -> bool:
        """Hand the partition over; see `SharedStore.release`."""
        if self.state.token != token:
            return False
        state = self._change()
        state.token, state.expires = None, _EPOCH
        return True

    # -- between partitions

    def outgoing(self, after: Position | None, limit: int) -> Sequence[Outgoing]:
        """Return messages of the outbox; see `SharedStore.outgoing`."""
        found = [outgoing for position, outgoing in self.state.outbox.items() if position > (after or 0)]
        return found[:limit]

    def deliver(self, source: int, expected: Position | None, messages: Sequence[Outgoing]) -> Delivered:
        """Append what another partition has sent; see `SharedStore.deliver`."""
        watermark = self.state.watermarks.get(source)
        if expected != watermark:
            return Delivered(False, watermark)
        if not messages:
            return Delivered(True, watermark)
        state, now = self._change(), self._now()
        for key in [key for key, time in state.delivered.items() if time < now - _REMEMBERED]:
            del state.delivered[key]
        for outgoing in messages:
            key = (outgoing.event.source, outgoing.event.id)
            if key not in state.delivered:
                state.delivered[key] = now
                self._post(state, outgoing.event, now)
        watermark = state.watermarks[source] = messages[-1].position
        return Delivered(True, watermark)

    def trim(self, token: Token, upto: Position) -> bool:
        """Let go of messages; see `SharedStore.trim`."""
        if self.state.token != token:
            return False
        state = self._change()
        for position in [position for position in state.outbox if position <= upto]:
            del state.outbox[position]
        return True

    # -- looked at

    def pending(self, positions: Collection[Position]) -> Collection[Position]:
        """Return those that are pending."""
        return [position for position in positions if position in self.state.log]

    def waiting(self, keys: Collection[RetryKey]) -> Collection[RetryKey]:
        """Return those that wait."""
        return [key for key in keys if key in self.state.retries]

    def retries(self) -> list[Retry]:
        """Return the retries, in order."""
        return [retry for _, _, retry in sorted(self.state.retries.values(), key=_by_due)]

    def look(self) -> PartitionState:
        """Return what it looks like from outside."""
        state = self.state
        left = (state.expires - self._now()) / timedelta(seconds=1) if state.token is not None else 0.0
        return PartitionState(
            partition=self._number,
            owner=state.owner if left > 0 else None,
            expires=max(left, 0.0),
            backlog=len(state.log),
            oldest=min((entry.accepted for entry in state.log.values()), default=None),
            appended=state.appended,
            outgoing=len(state.outbox),
        )


def _by_due(entry: tuple[datetime, int, object]) -> tuple[datetime, int]:
    return entry[:2]
