"""Dead letters: what is set aside, listed, replayed and discarded."""

from datetime import timedelta
from typing import Any

import pytest

from onwhen import (
    SUBJECT_PROPERTY_CHANGED,
    Context,
    Event,
    EventBus,
    Limits,
    RetryPolicy,
    RuleSet,
    VirtualClock,
    changed,
    create_memory_storage,
)
from onwhen.engine.store import DeadLetter
from onwhen.errors import SubjectStateError, UnknownDeadLetter


class Desk:
    """A bus with one rule that fails while it is told to, and one that never does."""

    def __init__(self, **options: Any) -> None:
        self.fails = True
        self.rules = RuleSet("desk")
        self.bus = EventBus(self.rules, store=create_memory_storage(), clock=VirtualClock(), **options)

        @self.rules.on("go")
        def fails(ctx: Context) -> None:
            ctx.subject.set("tried", ctx.subject.get("tried", 0) + 1)
            if self.fails:
                raise LookupError("not there")
            ctx.emit("went", {"payload": ctx.payload})

        @self.rules.on("go")
        def counts(ctx: Context) -> None:
            ctx.subject.set("n", ctx.subject.get("n", 0) + 1)

    async def letters(self) -> list[DeadLetter]:
        return [letter async for letter in self.bus.dead_letters()]


async def test_a_rule_that_fails_for_good_leaves_a_dead_letter() -> None:
    """It names the rule, the error and the event; the other rules' work is kept."""
    desk = Desk()
    receipt = await desk.bus.emit("go", "a", {"by": "me"}, id="1")
    assert list(receipt.dead) == await desk.letters()
    (letter,) = receipt.dead
    assert (letter.subject, letter.rule, letter.attempts) == ("a", "desk.fails", 1)
    assert (letter.failure.type, letter.failure.message) == ("LookupError", "not there")
    assert "in fails" in letter.failure.traceback
    assert letter.event == receipt.event
    assert (await desk.bus.read("a")).dict() == {"n": 1}


async def test_they_are_listed_oldest_first() -> None:
    """Whatever their subjects are."""
    desk = Desk()
    for name in "cab":
        await desk.bus.emit("go", name)
    assert [letter.subject for letter in await desk.letters()] == ["c", "a", "b"]


async def test_replaying_runs_the_rule_that_failed_and_no_other() -> None:
    """On the same event, with what follows from it; then the letter is gone."""
    desk = Desk()
    (letter,) = (await desk.bus.emit("go", "a", {"by": "me"})).dead
    desk.fails = False
    receipt = await desk.bus.replay(letter.id)
    assert receipt.fired == ("desk.fails",)
    assert receipt.event.id == letter.event.id
    assert [one.event.type for one in receipt.cascade] == ["went"]
    assert (await desk.bus.read("a")).dict() == {"n": 1, "tried": 1}
    assert await desk.letters() == []
    with pytest.raises(UnknownDeadLetter, match="replayed or discarded"):
        await desk.bus.replay(letter.id)


async def test_a_replay_that_fails_leaves_a_letter_again() -> None:
    """Of the same id, with the first failure's time."""
    desk = Desk()
    (letter,) = (await desk.bus.emit("go", "a")).dead
    await desk.bus.advance(timedelta(hours=1))
    receipt = await desk.bus.replay(letter.id)
    assert not receipt.ok
    (again,) = await desk.letters()
    assert (again.id, again.first_failed) == (letter.id, letter.first_failed)
    assert again.time == letter.time + timedelta(hours=1)


async def test_a_reaction_is_replayed_on_its_property_event() -> None:
    """The rule sees the same property and values as it did in the turn in which it failed."""
    fails, seen, rules = [True], [], RuleSet("rules")

    @rules.on("set")
    def set_it(ctx: Context) -> None:
        ctx.subject.set("t", ctx.payload)

    @rules.on(changed("t"))
    def react(ctx: Context) -> None:
        seen.append((ctx.event_type, ctx.property_name, ctx.old_value, ctx.new_value))
        if fails:
            raise LookupError

    bus = EventBus(rules, store=create_memory_storage())
    await bus.emit("set", "a", 1)
    fails.clear()
    await bus.emit("set", "a", 2)
    (letter,) = [letter async for letter in bus.dead_letters()]
    (await bus.replay(letter.id)).raise_for_failure()
    assert seen[0] == seen[2] == (SUBJECT_PROPERTY_CHANGED, "t", None, 1)


async def test_an_event_that_was_refused_as_a_whole_is_replayed_as_a_whole() -> None:
    """A cascade that did not end, for example, once the rules are better."""
    endless, rules = [True], RuleSet("rules")

    @rules.on("go", changed("n"))
    def go(ctx: Context) -> None:
        if endless or ctx.event_type == "go":
            ctx.subject.set("n", lambda n: (n or 0) + 1)

    bus = EventBus(rules, store=create_memory_storage(), limits=Limits(max_reactions=10))
    (letter,) = (await bus.emit("go", "a")).dead
    assert letter.rule == ""
    assert "rules.go -> n -> rules.go" in letter.failure.message
    endless.clear()
    (await bus.replay(letter.id)).raise_for_failure()
    assert (await bus.read("a")).get("n") == 1


async def test_a_replay_goes_through_a_subject_that_waits() -> None:
    """Later events that wait for a retry do not keep an operator waiting."""
    desk = Desk()
    (letter,) = (await desk.bus.emit("go", "a")).dead

    @desk.rules.on("hold", retry=RetryPolicy(attempts=2, delay=timedelta(hours=1)))
    def hold(ctx: Context) -> None:
        raise LookupError

    await desk.bus.emit("hold", "a")
    assert (await desk.bus.emit("go", "a")).status == "waiting"
    desk.fails = False
    assert (await desk.bus.replay(letter.id)).fired == ("desk.fails",)


async def test_discarding_removes_it_for_good() -> None:
    """And says so if there is none."""
    desk = Desk()
    (letter,) = (await desk.bus.emit("go", "a")).dead
    await desk.bus.discard(letter.id)
    assert await desk.letters() == []
    with pytest.raises(UnknownDeadLetter):
        await desk.bus.discard(letter.id)


async def test_events_of_two_sources_with_one_id_leave_two_letters() -> None:
    """Only source and id together name an event."""
    desk = Desk()
    for source in ("/one", "/two"):
        await desk.bus.emit(Event("go", "a", id="1", source=source))
    assert [letter.event.source for letter in await desk.letters()] == ["/one", "/two"]


async def test_replaying_inside_a_turn_is_refused() -> None:
    """It would wait for the turn of a subject, perhaps its own."""
    desk = Desk()
    (letter,) = (await desk.bus.emit("go", "a")).dead

    @desk.rules.on("replay")
    async def replay(ctx: Context) -> None:
        await desk.bus.replay(letter.id)

    receipt = await desk.bus.emit("replay", "b")
    assert isinstance(receipt.runs[0].error, SubjectStateError)
    assert len(await desk.letters()) == 2
