"""From the accounts of single turns to one tree.

Belongs here: finding what follows from what. It must not know how a turn is told, nor where accounts were kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

import msgspec

from onwhen.engine.explaining._accounts import VERSION, Account, EventAccount, RunAccount
from onwhen.engine.store import Explanation

__all__ = ["Body", "joined", "told_by"]

_DEEPEST: Final = 24  # events, and reactions, that stand within each other (a count)

_Key: TypeAlias = tuple[str, str]


class Body(msgspec.Struct, kw_only=True):
    """The body of an explanation: one event, with one turn."""

    version: int
    event: EventAccount


def told_by(explanations: Iterable[Explanation]) -> Account:
    """Put together what a store has kept of turns, by whichever worker, into one account.

    Args:
        explanations: in any order.

    Raises:
        ValueError: one of them is no explanation, or of another version.
    """
    in_order = sorted(explanations, key=lambda one: one.time)
    return Account(events=joined((_read(one) for one in in_order), otherwise="not kept"))


def _read(explanation: Explanation) -> EventAccount:
    try:
        body = msgspec.json.decode(explanation.body, type=Body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"the explanation of event {explanation.event} cannot be read: {error}") from None
    if body.version != VERSION:
        raise ValueError(
            f"the explanation of event {explanation.event} is of version {body.version}, and this reads {VERSION}; "
            f"read it with the onwhen that has written it"
        )
    return msgspec.structs.replace(body.event, status="handled")


def joined(events: Iterable[EventAccount], otherwise: str = "sent") -> tuple[EventAccount, ...]:
    """Put each event with the rule that has sent it; if that is not known, with the event that it follows from.

    Args:
        events: each with what is known of its turns, in order; of one event there may be several.
        otherwise: the status of an event that was sent, but is not among them.

    Returns:
        The events that nothing is known to have led to, and then those that would stand too deep in the tree.
    """
    return _Joining(events, otherwise).roots()


class _Joining:
    def __init__(self, events: Iterable[EventAccount], otherwise: str) -> None:
        self._otherwise = otherwise
        self._events: dict[_Key, EventAccount] = {}
        self._ids: dict[str, _Key] = {}
        for event in events:
            key = _key(event)
            known = self._events.get(key)
            if known is not None:
                event = msgspec.structs.replace(known, turns=(*known.turns, *event.turns))
            self._events[key] = event
            self._ids.setdefault(event.id, key)
        self._sent = {_key(sent) for one in self._events.values() for turn in one.turns for sent in _sent(turn.runs)}
        self._others: dict[_Key, list[EventAccount]] = {}  # by the event that they follow from
        for key, event in self._events.items():
            if key not in self._sent and event.causation in self._ids:
                self._others.setdefault(self._ids[event.causation], []).append(event)
        self._told: set[_Key] = set()
        self._waiting: deque[EventAccount] = deque()

    def roots(self) -> tuple[EventAccount, ...]:
        for key, event in self._events.items():
            if key not in self._sent and event.causation not in self._ids:
                self._waiting.append(event)
        return tuple(self._within(event, 0) for event in self._in_turn() if _key(event) not in self._told)

    def _in_turn(self) -> Iterator[EventAccount]:
        """Go through what waits, and then through what nothing has led to but itself."""
        for event in (None, *self._events.values()):
            if event is not None:
                yield event
            while self._waiting:
                yield self._waiting.popleft()

    def _within(self, event: EventAccount, depth: int) -> EventAccount:
        key = _key(event)
        known = self._events.get(key)
        if known is None:
            return msgspec.structs.replace(event, status=self._otherwise)
        if key in self._told:
            return msgspec.structs.replace(event, status="told elsewhere", turns=())
        if depth > _DEEPEST:
            self._waiting.append(known)
            return msgspec.structs.replace(event, status="told below", turns=())
        self._told.add(key)
        return msgspec.structs.replace(
            known,
            turns=tuple(msgspec.structs.replace(turn, runs=self._runs(turn.runs, depth + 1)) for turn in known.turns),
            followed=tuple(self._within(other, depth + 1) for other in self._others.get(_key(event), ())),
        )

    def _runs(self, runs: Iterable[RunAccount], depth: int) -> tuple[RunAccount, ...]:
        replace = msgspec.structs.replace
        return tuple(
            replace(
                run,
                messages=tuple(self._within(event, depth) for event in run.messages),
                timers=tuple(replace(timer, event=self._within(timer.event, depth)) for timer in run.timers),
                changes=tuple(replace(one, reactions=self._runs(one.reactions, depth + 1)) for one in run.changes),
            )
            for run in runs
        )


def _key(event: EventAccount) -> _Key:
    return event.source, event.id


def _sent(runs: Iterable[RunAccount]) -> Iterator[EventAccount]:
    """Go through the events that runs have sent, or will by timers, those of reactions too."""
    for run in runs:
        yield from run.messages
        yield from (timer.event for timer in run.timers)
        for change in run.changes:
            yield from _sent(change.reactions)
