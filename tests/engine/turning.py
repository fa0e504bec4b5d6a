"""Turns for tests: begun on a thing that is stored, run without an event loop, and asked what came of them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from types import MappingProxyType, SimpleNamespace
from typing import Any, cast

from onwhen.engine.bus import EventBus
from onwhen.engine.chain import Middleware
from onwhen.engine.clock import Clock, VirtualClock
from onwhen.engine.events import Event
from onwhen.engine.limits import Limits
from onwhen.engine.rulebook import Rulebook
from onwhen.engine.rules import RuleSet
from onwhen.engine.store import Commit, DeadLetter, Retry, SubjectRecord
from onwhen.engine.subjects import Subject
from onwhen.engine.turns import Turn

NOW = datetime(2024, 2, 29, 12, tzinfo=UTC)


class Thing(Subject, prefix="thing:"):
    n: int = 0
    m: int = 0
    price: Decimal = Decimal(0)
    when: datetime | None = None
    tags: list[str] = []


async def read(name: str) -> Subject:
    """Read another subject, as a bus would."""
    return Subject._of(Subject._state_of(SubjectRecord(name=name, properties={"known": b"true"}, ext={})))


def begin(
    rules: RuleSet,
    *around_rules: Middleware,
    around: Middleware | None = None,
    event: Event | None = None,
    stored: Mapping[str, bytes] = MappingProxyType({}),
    clock: Clock | None = None,
    limits: Limits | None = None,
    source: str = "onwhen",
    **facts: Any,
) -> Turn:
    """Begin a turn on a thing, with middleware around its rules and around the whole event."""
    book = Rulebook()
    book.include(rules)
    for middleware in around_rules:
        book.use(middleware)
    if around is not None:
        book.use(around, "event")
    event = event or Event("go", "thing:1", id="e1")
    ext, version = ({"x": b"1"}, 1) if stored else ({}, None)
    bus = SimpleNamespace(
        rulebook=book, limits=limits or Limits(), clock=clock or VirtualClock(NOW), read=read, source=source
    )
    state = Thing._state_of(SubjectRecord(name=event.subject, properties=dict(stored), ext=ext, version=version))
    explains = facts.pop("explains", False)
    turn = Turn.of(event, Thing, state, cast(EventBus, bus), **facts)
    turn.explains = explains
    return turn


def run(turn: Turn) -> Turn:
    """Run a turn that does not suspend: no event loop is needed for that."""
    try:
        turn.run().send(None)
    except StopIteration:
        return turn
    raise AssertionError("the turn has suspended")


def committed(turn: Turn) -> Commit:
    """Return what the turn asks a store to keep."""
    return turn.commit(0, token=None, handled=1)


def kept(turn: Turn) -> tuple[dict[str, bytes], list[str]]:
    """Return what of the subject will be stored, and the types of the messages."""
    commit = committed(turn)
    return dict(commit.write.set) if commit.write is not None else {}, [event.type for event in commit.messages]


def runs(turn: Turn) -> list[tuple[str, str]]:
    """Return what became of each rule."""
    return [(run.rule, run.status) for run in turn.outcome().runs]


def only_retry(turn: Turn) -> Retry:
    """Return the one retry that the turn has planned."""
    (retry,) = committed(turn).retries
    return retry


def only_dead(turn: Turn) -> DeadLetter:
    """Return the one dead letter that the turn has left."""
    (letter,) = committed(turn).dead
    return letter
