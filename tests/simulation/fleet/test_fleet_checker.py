"""The checker of a fleet: a true story passes, and one in which anything is bent does not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import msgspec
import pytest

from onwhen.engine.shared import Acquired
from onwhen.engine.store import Answer, CommitResult
from tests.simulation.fleet.checker import FleetChecker
from tests.simulation.fleet.history import Delivery, Note, SetBack, Step, Taken
from tests.simulation.fleet.plan import FleetPlan, fleet_plan_of
from tests.simulation.fleet.world import FleetWorld
from tests.simulation.history import Appended, Committed, Promotion, Returned
from tests.simulation.judges import Violation

_SEEDS = range(40)  # among them, worlds in which all of what is bent below happens


@cache
def _lived(seed: int) -> tuple[FleetPlan, FleetWorld]:
    plan = fleet_plan_of(seed)
    world = FleetWorld(plan)
    world.run()
    return plan, world


def _check(seed: int, notes: Sequence[Note]) -> None:
    plan, world = _lived(seed)
    checker = FleetChecker(plan.partitions, plan.skew)
    checker.go_through(notes)
    emitted = [action.tag for action in plan.actions if action.event is not None]
    checker.conclude([part.state for part in world.server.partitions], emitted)


def _bend(fits: Callable[[Any], bool], bend: Callable[[Any], Sequence[Note]], *, peaceful: bool = True) -> None:
    """Check a story in which the first note that fits was bent; of a world in which nothing is lost, if peaceful."""
    for seed in _SEEDS:
        notes = _lived(seed)[1].story.notes
        if peaceful and any(isinstance(note, Step) and isinstance(note.what, SetBack) for note in notes):
            continue
        number = next((number for number, note in enumerate(notes) if fits(note)), None)
        if number is not None:
            _check(seed, [*notes[:number], *bend(notes[number]), *notes[number + 1 :]])
            return
    raise AssertionError("in none of these worlds it has happened")


def _does(kind: type, is_it: Callable[[Any], object] = lambda what: True) -> Callable[[Any], bool]:
    def fits(note: Any) -> bool:
        return isinstance(note, Step) and isinstance(note.what, kind) and bool(is_it(note.what))

    return fits


def _is_turn(what: Committed) -> bool:
    return what.result.answer is Answer.OK and what.commit.handled is not None


def _with_commit(step: Step, **changes: object) -> Step:
    assert isinstance(step.what, Committed)
    return replace(step, what=replace(step.what, commit=msgspec.structs.replace(step.what.commit, **changes)))


@pytest.mark.parametrize("seed", range(6))
def test_a_story_as_it_was_passes(seed: int) -> None:
    """What workers really did is accepted."""
    _check(seed, _lived(seed)[1].story.notes)


def test_an_event_that_is_never_handled_is_missed() -> None:
    """A turn that is taken out of a story leaves its event pending."""
    with pytest.raises(Violation):
        _bend(_does(Committed, _is_turn), lambda step: [])


def test_an_event_that_is_handled_twice_is_seen() -> None:
    """A turn that is stored a second time is no answer that a server may give."""
    with pytest.raises(Violation, match="not done"):
        _bend(_does(Committed, _is_turn), lambda step: [step, step])


def test_a_turn_of_somebody_who_owns_nothing_is_seen() -> None:
    """Neither without a token, nor with one that is not the partition's."""
    with pytest.raises(Violation, match="owns nothing"):
        _bend(_does(Committed, _is_turn), lambda step: [_with_commit(step, token=None)])
    with pytest.raises(Violation, match="not fenced"):
        _bend(_does(Committed, _is_turn), lambda step: [_with_commit(step, token="another")])


def test_a_partition_that_is_given_to_two_is_seen() -> None:
    """Not before a lease has run out, or the partition was handed over."""

    def bend(step: Step) -> Sequence[Note]:
        assert isinstance(step.what, Taken)
        return [step, replace(step, what=replace(step.what, token="another"))]

    with pytest.raises(Violation, match="though"):
        _bend(_does(Taken, lambda what: what.acquired is not None), bend)


def test_a_partition_that_is_not_given_away_though_it_is_free_is_seen() -> None:
    """Nobody is told that somebody else has what nobody has."""

    def bend(step: Step) -> Sequence[Note]:
        assert isinstance(step.what, Taken)
        refused = replace(step.what, acquired=None, time=step.what.time + 1000)
        return [replace(step, what=refused, has_changed=False), step]

    with pytest.raises(Violation, match="though it was free"):
        _bend(_does(Taken, lambda what: isinstance(what.acquired, Acquired)), bend)


def test_a_message_that_is_lost_between_partitions_is_missed() -> None:
    """What is sent has to arrive."""
    with pytest.raises(Violation):
        _bend(_does(Delivery, lambda what: what.messages), lambda step: [])


def test_a_message_that_arrives_twice_is_seen() -> None:
    """Even if the watermark is right."""

    def bend(step: Step) -> Sequence[Note]:
        assert isinstance(step.what, Delivery)
        posted = [msgspec.structs.replace(entry, position=entry.position + 1) for entry in step.posted]
        again = replace(step.what, expected=step.what.messages[-1].position)
        return [step, replace(step, what=again, posted=posted)]

    with pytest.raises(Violation, match="delivered"):
        _bend(lambda note: _does(Delivery)(note) and bool(note.posted), bend)


def test_messages_of_one_sender_that_overtake_each_other_are_seen() -> None:
    """They arrive in the order in which they were sent."""

    def bend(step: Step) -> Sequence[Note]:
        assert isinstance(step.what, Delivery)
        swapped = replace(step.what, messages=step.what.messages[::-1])
        places = [entry.position for entry in step.posted]
        posted = [
            msgspec.structs.replace(entry, position=position)
            for entry, position in zip(step.posted[::-1], places, strict=True)
        ]
        return [replace(step, what=swapped, posted=posted)]

    with pytest.raises(Violation, match="after what was sent later"):
        _bend(lambda note: _does(Delivery)(note) and len(note.posted) > 1, bend)


def test_a_message_that_nobody_has_sent_is_seen() -> None:
    """What arrives has been in an outbox."""

    def bend(step: Step) -> Sequence[Note]:
        assert isinstance(step.what, Delivery)
        first = msgspec.structs.replace(step.what.messages[0], position=1)
        return [replace(step, what=replace(step.what, messages=[first, *step.what.messages[1:]]))]

    with pytest.raises(Violation, match="never sent"):
        _bend(_does(Delivery, lambda what: what.messages and what.delivered.is_accepted), bend)


def test_a_message_that_is_not_sent_is_missed() -> None:
    """A turn that sends less than its rules did is not that turn."""
    with pytest.raises(Violation, match="messages"):
        _bend(
            _does(Committed, lambda what: _is_turn(what) and what.commit.messages),
            lambda step: [_with_commit(step, messages=())],
        )


def test_a_failure_that_is_forgotten_is_missed() -> None:
    """A turn whose rule failed leaves a retry or a dead letter."""
    with pytest.raises(Violation, match="failures"):
        _bend(
            _does(Committed, lambda what: _is_turn(what) and what.commit.retries),
            lambda step: [_with_commit(step, retries=())],
        )


def test_a_version_that_comes_again_is_seen() -> None:
    """A commit on another version than the stored one is a conflict."""

    def bend(step: Step) -> Sequence[Note]:
        assert isinstance(step.what, Committed)
        appended = step.what.result.appended
        return [replace(step, what=replace(step.what, result=CommitResult(Answer.OK, "another", appended)))]

    with pytest.raises(Violation, match=r"not conflict|version"):
        _bend(_does(Committed, lambda what: _is_turn(what) and what.commit.write is not None), bend)


def test_a_timer_that_fires_early_is_seen() -> None:
    """No timer fires before it is due."""
    with pytest.raises(Violation, match="it was due at"):
        _bend(
            lambda note: _does(Promotion)(note) and bool(note.posted),
            lambda step: [replace(step, what=replace(step.what, ahead=-100.0))],
        )


def test_an_event_that_is_accepted_twice_is_seen() -> None:
    """The same event cannot be new a second time."""
    with pytest.raises(Violation, match="accepted twice"):
        _bend(_does(Appended), lambda step: [step, step])


def test_more_than_a_fail_over_has_lost_is_missed() -> None:
    """Books go back exactly as far as the partition does."""
    with pytest.raises(Violation):
        _bend(
            _does(SetBack, lambda what: what.lost > 1),
            lambda step: [replace(step, what=replace(step.what, lost=1))],
            peaceful=False,
        )


def test_an_emitter_who_is_told_what_is_not_so_is_seen() -> None:
    """Nobody is told that an event is accepted, or handled, that is not."""
    for status in ("accepted", "handled"):
        with pytest.raises(Violation, match="was said to be"):
            _bend(
                lambda note: isinstance(note, Returned) and note.status == "accepted",
                lambda note, status=status: [Returned(note.time, "emit", "e99999", status), note],  # type: ignore[misc]
            )


@pytest.mark.parametrize("what", ["subjects", "dead", "outbox"])
def test_a_server_that_holds_something_else_is_seen(what: str) -> None:
    """In the end a partition holds what its books say."""
    for seed in _SEEDS:
        plan, world = _lived(seed)
        states = [part.state.copied() for part in world.server.partitions]
        found = next((state for state in states if getattr(state, what)), None)
        if found is not None:
            getattr(found, what).clear()
            checker = FleetChecker(plan.partitions, plan.skew)
            checker.go_through(world.story.notes)
            with pytest.raises(Violation, match="found"):
                checker.conclude(states, ())
            return
    raise AssertionError("in none of these worlds there was anything")


@pytest.mark.parametrize("seed", [208661, 253616])
def test_two_operators_may_end_the_same_parking(seed: int) -> None:
    """One resumes, and another one, who has looked before, resumes again, or gives up what was resumed."""
    _check(seed, _lived(seed)[1].story.notes)
