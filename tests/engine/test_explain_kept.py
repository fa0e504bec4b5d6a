"""Explanations that a store keeps: of which turns, once each, and put together into one tree."""

import asyncio
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen import (
    Context,
    Event,
    EventBus,
    Limits,
    RetryPolicy,
    RuleSet,
    VirtualClock,
    changed,
    create_memory_storage,
    create_sqlite_storage,
    when,
)
from onwhen.engine.explaining import Account, is_sampled, told_by
from onwhen.engine.explaining._accounts import EventAccount, RunAccount, TurnAccount
from onwhen.engine.explaining._trees import joined
from onwhen.engine.explaining.telling import drawn
from onwhen.engine.store import Commit, Explanation, SubjectWrite
from onwhen.errors import Postponed, SettingError
from tests.engine.buses import NOON, new_bus
from tests.engine.stores import Flaky

LATER = RetryPolicy(attempts=2, delay=timedelta(minutes=1), jitter=0)


def shop() -> RuleSet:
    rules = RuleSet("shop")

    @rules.on("bought")
    @when(lambda ctx: ctx.payload["n"] > 0)
    def buy(ctx: Context) -> None:
        ctx.subject.set("n", ctx.payload["n"])
        ctx.emit("packed", {"n": ctx.payload["n"]}, "packer")
        ctx.emit("reminded", delay=timedelta(hours=1), key="reminder")

    @rules.on("packed", retry=LATER)
    def pack(ctx: Context) -> None:
        if ctx.payload["n"] > 5:
            raise ValueError("too many")

    @rules.on(changed("n", to=7), retry=LATER)
    def wonder(ctx: Context) -> None:
        if ctx.attempt == 1:
            raise ValueError("seven")

    @rules.on("reminded")
    def remind(ctx: Context) -> None:
        pass

    return rules


async def kept(bus: EventBus, **which: str) -> list[Explanation]:
    return [one async for one in bus.store.explanations(**which)]


def lines(found: list[Explanation]) -> list[str]:
    return [line.partition("  (")[0] for line in str(told_by(found)).splitlines()]


# -- of which turns --------------------------------------------------------------------------------------------------


async def test_nothing_is_kept_of_turns_in_which_all_went_well() -> None:
    """Unless it is asked for: a condition that did not hold is no failure."""
    async with new_bus(shop(), clock=VirtualClock(NOON)) as bus:
        await bus.emit("bought", "s", {"n": 1})
        await bus.emit("bought", "s", {"n": 0})
        assert await kept(bus) == []
        await bus.emit("bought", "s", {"n": 1}, explain=True)
        assert [(one.subject, one.failed) for one in await kept(bus)] == [("s", False), ("packer", False)]


async def test_failures_are_kept_with_what_the_failed_rule_was_asked() -> None:
    """Of the other rules of that turn only what they came to; of the cascade around it nothing, which is said."""
    async with new_bus(shop(), clock=VirtualClock(NOON)) as bus:
        receipt = await bus.emit("bought", "s", {"n": 6})
        (found,) = await kept(bus)
        assert (found.subject, found.failed, found.rule, found.time) == ("packer", True, "", NOON)
        assert found.correlation == receipt.event.id
        assert lines([found]) == [
            "2026-11-05T12:00:00Z  packed to packer {'n': 6}",
            f"├─ follows from something that is not told here, event {receipt.event.id}",
            "└─ failed shop.pack: ValueError: too many; attempt 2 at 2026-11-05T12:01:00Z",
        ]


async def test_postponed_rules_are_no_failures() -> None:
    """An open circuit would fill the store."""
    rules = RuleSet("rules")

    @rules.on("go")
    def wait(ctx: Context) -> None:
        raise Postponed("later", delay=timedelta(hours=1))

    async def refuse(ctx: Any, next: Any) -> None:
        raise Postponed("later", delay=timedelta(hours=1))

    async with new_bus(rules, clock=VirtualClock(NOON)) as bus:
        await bus.emit("go", "s")
        bus.use(refuse, scope="event")
        await bus.emit("go", "t")
        assert await kept(bus) == []


async def test_events_that_fail_as_a_whole_are_kept() -> None:
    """So are messages that were not sent, and errors that a middleware caught."""
    rules = RuleSet("rules")

    @rules.on("again")
    def again(ctx: Context) -> None:
        ctx.emit("again")

    @rules.on("fail")
    def fail(ctx: Context) -> None:
        raise ValueError("no")

    async def refuse(ctx: Any, next: Any) -> None:
        if ctx.event_type == "refused":
            raise PermissionError("no")
        with suppress(ValueError):
            await next()

    async with new_bus(rules, clock=VirtualClock(NOON), limits=Limits(max_depth=1)) as bus:
        bus.use(refuse, scope="event")
        bus.use(refuse)
        await bus.emit("refused", "a")
        await bus.emit("again", "b")
        await bus.emit("fail", "c")
        assert [(one.subject, one.failed) for one in await kept(bus)] == [("a", True), ("b", True), ("c", True)]


async def test_failures_are_not_kept_if_that_is_not_wanted() -> None:
    """And then nobody takes notes of them."""
    limits = Limits(explain_failures=False)
    async with new_bus(shop(), clock=VirtualClock(NOON), limits=limits) as bus:
        await bus.emit("bought", "s", {"n": 6})
        assert await kept(bus) == []


def test_the_limits_refuse_what_is_no_share() -> None:
    """And what is neither true nor false."""
    for wrong in (-0.1, 1.1, True, "1", float("nan")):
        with pytest.raises(SettingError, match="explain_sample"):
            Limits(explain_sample=wrong)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="explain_failures"):
        Limits(explain_failures=1)  # type: ignore[arg-type]


def test_the_sample_is_of_whole_cascades_and_as_large_as_was_asked() -> None:
    """It goes by the correlation id alone, so all workers agree; a larger sample holds a smaller one."""
    ids = [f"id-{number}" for number in range(20_000)]
    tenth = {id for id in ids if is_sampled(id, 0.1)}
    assert 1_800 < len(tenth) < 2_200
    assert tenth < {id for id in ids if is_sampled(id, 0.2)}
    assert not any(is_sampled(id, 0.0) for id in ids)
    assert all(is_sampled(id, 1) for id in ids)
    assert is_sampled("id-23", 0.1) is ("id-23" in tenth)


async def test_a_sampled_cascade_is_kept_whole() -> None:
    """Messages, timers and retries, however much later: they have its correlation id."""
    limits = Limits(explain_sample=1.0)
    async with new_bus(shop(), clock=VirtualClock(NOON), limits=limits) as bus:
        receipt = await bus.emit("bought", "s", {"n": 7})
        await bus.advance(timedelta(hours=2))
        found = await kept(bus, correlation=receipt.event.id)
        assert len(found) == 5
        assert lines(found) == [
            "2026-11-05T12:00:00Z  bought to s {'n': 7}",
            "├─ fired shop.buy",
            "│  ├─ held: ctx.payload[\"n\"] > 0  [ctx.payload['n'] = 7]",
            "│  ├─ n: None -> 7",
            "│  │  └─ failed shop.wonder: ValueError: seven; attempt 2 at 2026-11-05T12:01:00Z",
            "│  │     └─ held: changed('n', to=7)  [old value = None, new value = 7]",
            "│  ├─ sent packed to packer {'n': 7}",
            "│  │  ├─ failed shop.pack: ValueError: too many; attempt 2 at 2026-11-05T12:01:00Z",
            "│  │  └─ again: only shop.pack  2026-11-05T12:01:00Z",
            "│  │     └─ failed shop.pack, attempt 2: ValueError: too many; dead letter",
            "│  └─ set timer 'reminder': reminded to s, due 2026-11-05T13:00:00Z",
            "│     └─ fired shop.remind",
            "└─ from this followed subject-property-changed to s {'property_name': 'n', 'old_value': None, 'value': 7}"
            "  2026-11-05T12:01:00Z",
            "   └─ again: only shop.wonder  2026-11-05T12:01:00Z",
            "      └─ fired shop.wonder, attempt 2",
            "         └─ held: changed('n', to=7)  [old value = None, new value = 7]",
        ]


async def test_what_was_not_kept_is_said() -> None:
    """Of messages, and of timers, which may also not be due yet."""
    limits = Limits(explain_sample=1.0)
    async with new_bus(shop(), clock=VirtualClock(NOON), limits=limits) as bus:
        await bus.emit("bought", "s", {"n": 1})
        told = lines(await kept(bus, subject="s"))
        assert told[-4:] == [
            "   ├─ sent packed to packer {'n': 1}",
            "   │  └─ what became of it was not kept",
            "   └─ set timer 'reminder': reminded to s, due 2026-11-05T13:00:00Z",
            "      └─ what became of it was not kept, or it is not due yet",
        ]


# -- once ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcomes", [["after"], ["before"], ["after", "before", "after"]])
async def test_a_turn_is_explained_once_however_often_its_commit_is_sent(outcomes: list[str], no_pauses: None) -> None:
    """The explanation is in the commit, and stored with it or not at all."""
    store = Flaky(create_memory_storage())
    async with asyncio.timeout(5), new_bus(shop(), store=store) as bus:
        store.fails["commit"] = outcomes
        await bus.emit("bought", "s", {"n": 0}, explain=True)
        assert len(await kept(bus)) == 1


async def test_a_turn_that_is_run_again_on_newer_state_is_explained_once() -> None:
    """With the values of the run that was committed."""
    store = create_memory_storage()
    rules = RuleSet("rules")
    tries: list[int] = []

    @rules.on("go")
    @when(lambda ctx: ctx.subject.get("n", 0) >= 0)
    async def look(ctx: Context) -> None:
        tries.append(ctx.subject.get("n", 0))
        if len(tries) == 1:
            await store.commit(Commit(partition=0, subject="s", write=SubjectWrite(set={"n": b"5"}), id="other"))
        ctx.subject.set("seen", True)

    bus = EventBus(rules, store=store)
    receipt = await bus.emit("go", "s", explain=True)
    assert tries == [0, 5]
    (found,) = await kept(bus)
    assert "ctx.subject.get('n', 0) = 5" in str(told_by([found]))
    assert "ctx.subject.get('n', 0) = 5" in str(receipt.explain())


async def test_a_duplicate_is_not_explained_again() -> None:
    """It is not handled again either."""
    async with new_bus(shop()) as bus:
        for _ in range(2):
            await bus.emit("bought", "s", {"n": 0}, id="1", explain=True)
        assert len(await kept(bus)) == 1


# -- where, and in which form ----------------------------------------------------------------------------------------


async def test_a_file_keeps_it_over_a_restart(tmp_path: Path) -> None:
    """As any other store does."""
    path = tmp_path / "shop.db"
    async with EventBus(shop(), store=create_sqlite_storage(path)) as bus:
        receipt = await bus.emit("bought", "s", {"n": 6}, explain=True)
        before = str(told_by(await kept(bus)))
    async with EventBus(shop(), store=create_sqlite_storage(path)) as bus:
        assert str(told_by(await kept(bus, correlation=receipt.event.id))) == before


async def test_the_body_is_one_event_with_one_turn_as_json() -> None:
    """With a version; what is of another version, or is no explanation, is refused with a word on what to do."""
    async with new_bus(shop()) as bus:
        await bus.emit("bought", "s", {"n": 0}, explain=True)
        (found,) = await kept(bus)
    body = msgspec.json.decode(found.body)
    assert sorted(body) == ["event", "version"]
    assert len(body["event"]["turns"]) == 1
    newer = msgspec.structs.replace(found, body=msgspec.json.encode({**body, "version": 2}))
    with pytest.raises(ValueError, match="is of version 2, and this reads 1; read it with the onwhen"):
        told_by([newer])
    with pytest.raises(ValueError, match="cannot be read"):
        told_by([msgspec.structs.replace(found, body=b"\xff")])


async def test_an_explanation_is_bounded() -> None:
    """However much a turn does: the rest is counted."""
    rules = RuleSet("rules")

    @rules.on("go")
    def start(ctx: Context) -> None:
        for number in range(200):
            ctx.subject.set(f"p{number}", "x" * 10_000)
            ctx.emit("told", "x" * 10_000, "other" * 100)

    for number in range(400):

        @rules.on("go", name=f"rule-{number}")
        def rule(ctx: Context) -> None:
            pass

    async with new_bus(rules) as bus:
        await bus.emit("go", "s", "y" * 10_000, explain=True)
        found = next(one for one in await kept(bus) if one.subject == "s")
        assert len(found.body) < 200_000
        told = lines([found])
        assert "├─ 101 more rules are not told" in told or "└─ 101 more rules are not told" in told
        assert any("200 more changes, messages and timers are not told" in line for line in told)


async def test_a_failure_is_kept_however_much_else_a_turn_does() -> None:
    """Of a turn that does very much less is told, but what failed in it: it is kept for that."""
    rules = RuleSet("rules")

    for number in range(400):

        @rules.on("go", name=f"rule-{number}")
        @when(lambda ctx: ctx.payload["x"] == ctx.subject.get("x", "x" * 1_000))
        def rule(ctx: Context) -> None:
            for each in range(100):
                ctx.subject.set(f"p{each}", ctx.rule.id * 100)  # type: ignore[union-attr]
                ctx.subject.delete(f"p{each}")

    @rules.on("go")
    def fail(ctx: Context) -> None:
        raise ValueError("no")

    async with new_bus(rules) as bus:
        await bus.emit("go", "s", {"x": "x" * 1_000})
        (found,) = await kept(bus)
        assert len(found.body) <= 1 << 18
        told = lines([found])
        assert "├─ failed rules.fail: ValueError: no; dead letter" in told
        assert sum("more rules are not told" in line for line in told) == 1


def event(id: str, *sent: str, causation: str = "") -> EventAccount:
    """An event whose only rule has sent some messages."""
    messages = tuple(EventAccount(id=one, type="t", subject="s", source="/", status="sent") for one in sent)
    turn = TurnAccount(time="2026-11-05T12:00:00Z", runs=(RunAccount(rule="r", status="fired", messages=messages),))
    return EventAccount(id=id, type="t", subject="s", source="/", causation=causation, status="handled", turns=(turn,))


def test_what_is_sent_twice_is_told_once() -> None:
    """Else a chain of events that each send the next one twice would be told 2 to the power of its length times."""
    told = list(drawn(Account(events=joined([event(f"d{n}", f"d{n + 1}", f"d{n + 1}") for n in range(20)]))))
    assert len(told) < 200
    assert sum("told there" in line for line in told) == 19


NODES = st.integers(0, 6).map(str)


@given(st.dictionaries(NODES, st.tuples(st.lists(NODES, max_size=4), NODES), max_size=7))
def test_every_event_is_told_once_whatever_follows_from_what(graph: dict[str, tuple[list[str], str]]) -> None:
    """Each event that was kept stands in the tree with its turn exactly once; in circles, too."""
    events = [event(id, *sent, causation=causation) for id, (sent, causation) in graph.items()]
    found: list[str] = []

    def walk(one: EventAccount) -> None:
        found.extend(one.id for _ in one.turns)
        for turn in one.turns:
            for ran in turn.runs:
                for sent in ran.messages:
                    walk(sent)
        for other in one.followed:
            walk(other)

    for root in joined(events):
        walk(root)
    assert sorted(found) == sorted(graph)


async def test_two_sources_may_use_the_same_ids() -> None:
    """They are events of their own."""
    async with new_bus(shop()) as bus:
        for source in ("/a", "/b"):
            await bus.emit(Event("bought", "s", {"n": 0}, id="1", source=source), explain=True)
        assert len(told_by(await kept(bus)).events) == 2
