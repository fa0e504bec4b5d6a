"""The history checker: a true history passes, and one in which anything is bent does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import msgspec
import pytest

from onwhen.engine.store import Answer, CommitResult
from onwhen.storage import create_memory_storage
from tests.simulation.checker import Content, check
from tests.simulation.history import Appended, Committed, Promotion, Record, Returned
from tests.simulation.judges import Violation
from tests.simulation.plan import Plan, plan_of
from tests.simulation.run import content_of
from tests.simulation.world import World

_SEED = 1  # any world in which all of what is bent below happens


@cache
def _lived() -> tuple[Plan, Sequence[Record], Content]:
    plan = plan_of(_SEED)
    store = create_memory_storage(partitions=plan.partitions)
    world = World(plan, store)
    world.run()
    return plan, tuple(world.history.records), content_of(store)


def _check(records: Sequence[Record], content: Content | None = None) -> None:
    plan, _, left = _lived()
    emitted = [action.tag for action in plan.actions if action.event is not None]
    check(records, content or left, emitted, plan.partitions)


def _is_turn(record: Record) -> bool:
    return isinstance(record, Committed) and record.result.answer is Answer.OK and record.commit.handled is not None


def _first(records: Sequence[Record], fits: Callable[[Record], bool]) -> int:
    return next(number for number, record in enumerate(records) if fits(record))


def _bent(fits: Callable[[Record], bool], bend: Callable[[Record], Sequence[Record]]) -> list[Record]:
    records = list(_lived()[1])
    number = _first(records, fits)
    return [*records[:number], *bend(records[number]), *records[number + 1 :]]


def _with_commit(record: Record, **changes: object) -> Committed:
    assert isinstance(record, Committed)
    return replace(record, commit=msgspec.structs.replace(record.commit, **changes))


def test_a_history_as_it_was_passes() -> None:
    """What the engine really did is accepted."""
    _check(_lived()[1])


def test_an_event_that_is_never_handled_is_missed() -> None:
    """A turn that is taken out of a history leaves its event pending."""
    with pytest.raises(Violation):
        _check(_bent(_is_turn, lambda record: []))


def test_an_event_that_is_handled_twice_is_seen() -> None:
    """A turn that is stored a second time is no answer that a store may give."""
    with pytest.raises(Violation, match="not done"):
        _check(_bent(_is_turn, lambda record: [record, record]))


def test_an_event_that_is_accepted_twice_is_seen() -> None:
    """The same event cannot be new a second time."""
    with pytest.raises(Violation, match="accepted twice"):
        _check(_bent(lambda record: isinstance(record, Appended), lambda record: [record, record]))


def test_a_message_that_is_lost_is_missed() -> None:
    """A turn that sends less than its rules did is not that turn."""

    def sends(record: Record) -> bool:
        return _is_turn(record) and bool(record.commit.messages)  # type: ignore[union-attr]

    with pytest.raises(Violation, match="messages"):
        _check(_bent(sends, lambda record: [_with_commit(record, messages=())]))


def test_a_failure_that_is_forgotten_is_missed() -> None:
    """A turn whose rule failed leaves a retry or a dead letter."""

    def fails(record: Record) -> bool:
        return _is_turn(record) and bool(record.commit.retries)  # type: ignore[union-attr]

    with pytest.raises(Violation, match="failures"):
        _check(_bent(fails, lambda record: [_with_commit(record, retries=())]))


def test_a_change_that_is_lost_is_missed() -> None:
    """A turn that writes less than its rules did is not that turn."""

    def writes(record: Record) -> bool:
        return _is_turn(record) and record.commit.write is not None  # type: ignore[union-attr]

    with pytest.raises(Violation, match=r"values|version"):
        _check(_bent(writes, lambda record: [_with_commit(record, write=None)]))


def test_a_version_that_comes_again_is_seen() -> None:
    """Versions of a subject form one chain: a commit on another version than the stored one is a conflict."""

    def bend(record: Record) -> Sequence[Record]:
        assert isinstance(record, Committed)
        return [replace(record, result=CommitResult(Answer.OK, 10**9, record.result.appended))]

    def writes(record: Record) -> bool:
        return _is_turn(record) and record.commit.write is not None  # type: ignore[union-attr]

    with pytest.raises(Violation, match="not conflict"):
        _check(_bent(writes, bend))


def test_events_that_overtake_each_other_are_seen() -> None:
    """Of one subject, the event that was accepted first is handled first."""
    records = list(_lived()[1])
    turns = [number for number, record in enumerate(records) if _is_turn(record)]
    subject = records[turns[0]].commit.subject  # type: ignore[union-attr]
    second = next(n for n in turns[1:] if records[n].commit.subject == subject)  # type: ignore[union-attr]
    earlier = records[turns[0]].commit.handled  # type: ignore[union-attr]
    later = records[second].commit.handled  # type: ignore[union-attr]
    assert _first(records, lambda record: isinstance(record, Appended)) < turns[0]
    records[turns[0]] = _with_commit(records[turns[0]], handled=later)
    records[second] = _with_commit(records[second], handled=earlier)
    with pytest.raises(Violation):
        _check(records)


def test_a_timer_that_fires_early_is_seen() -> None:
    """No timer fires before it is due."""

    def fires(record: Record) -> bool:
        return isinstance(record, Promotion) and bool(record.entries)

    with pytest.raises(Violation, match="it was due at"):
        _check(_bent(fires, lambda record: [replace(record, ahead=-100.0)]))  # type: ignore[type-var]


def test_an_emitter_who_is_told_too_early_is_seen() -> None:
    """Nobody is told that an event is handled before it is."""
    _, records, _ = _lived()
    told = records[_first(records, lambda record: isinstance(record, Returned) and record.status == "handled")]
    assert isinstance(told, Returned)
    accepted = _first(
        records,
        lambda record: isinstance(record, Appended) and any(event.id == told.tag for event in record.events),
    )
    with pytest.raises(Violation, match="said to be handled"):
        _check([*records[: accepted + 1], told, *records[accepted + 1 :]])


@pytest.mark.parametrize("what", ["subjects", "dead"])
def test_a_store_that_holds_something_else_is_seen(what: str) -> None:
    """In the end the store holds what its history says."""
    _, records, content = _lived()
    assert getattr(content, what)
    with pytest.raises(Violation, match="the store's"):
        _check(records, replace(content, **{what: {} if what == "subjects" else []}))
