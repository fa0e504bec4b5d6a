"""`receipt.explain()`: what happened and why, as a tree and as JSON, for every end that a rule may come to."""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import msgspec

from onwhen import Context, EventBus, Limits, RetryPolicy, RuleSet, VirtualClock, changed, create_memory_storage, when
from onwhen.engine.explaining import Account
from onwhen.engine.explaining._accounts import EventAccount
from onwhen.engine.outcomes import Receipt
from onwhen.errors import Postponed
from tests.engine.buses import NOON, new_bus

LATER = RetryPolicy(attempts=2, delay=timedelta(minutes=1), jitter=0)


def tree(receipt: Receipt) -> list[str]:
    """The lines of an explanation, without where conditions stand."""
    return [line.partition("  (")[0] for line in str(receipt.explain()).splitlines()]


def lines(receipt: Receipt) -> list[str]:
    """The lines without the tree."""
    return [line.lstrip("│├└─ ") for line in tree(receipt)]


async def explained(rules: RuleSet, *event: Any, middleware: Sequence[Any] = (), **options: Any) -> Receipt:
    bus = new_bus(rules, clock=VirtualClock(NOON), **options)
    for one in middleware:
        bus.use(one)
    async with bus:
        return await bus.emit(*event, explain=True)


# -- the tree --------------------------------------------------------------------------------------------------------


async def test_a_cascade_is_told_as_one_tree() -> None:
    """Reactions under the change that led to them, messages with their own turns under the rule that has sent them."""
    rules = RuleSet("rules")

    @rules.on("go")
    @when(lambda ctx: ctx.payload["x"] > 1)
    def start(ctx: Context) -> None:
        ctx.subject.set("a", 1)
        ctx.emit("told", {"x": 1}, "other")
        ctx.emit("late", delay=timedelta(hours=1), key="alarm")

    @rules.on(changed("a"))
    def follow(ctx: Context) -> None:
        ctx.subject.set("b", 2)
        ctx.cancel("old")

    @rules.on(changed("b", to=3))
    def never(ctx: Context) -> None:
        pass

    @rules.on("told")
    def note(ctx: Context) -> None:
        ctx.subject.set("n", ctx.payload["x"], muted=True)

    receipt = await explained(rules, "go", "s", {"x": 2})
    assert tree(receipt) == [
        "2026-11-05T12:00:00Z  go to s {'x': 2}",
        "└─ fired rules.start",
        "   ├─ held: ctx.payload[\"x\"] > 1  [ctx.payload['x'] = 2]",
        "   ├─ a: None -> 1",
        "   │  └─ fired rules.follow",
        "   │     ├─ b: None -> 2",
        "   │     │  └─ skipped rules.never",
        "   │     │     └─ did not hold: changed('b', to=3)  [old value = None, new value = 2]",
        "   │     └─ cancelled timer 'old'",
        "   ├─ sent told to other {'x': 1}",
        "   │  └─ fired rules.note",
        "   │     └─ n: None -> 1 (muted)",
        "   └─ set timer 'alarm': late to s, due 2026-11-05T13:00:00Z",
    ]


async def test_every_end_of_a_rule_is_told() -> None:
    """Fired, skipped, stopped, put off, failed: for good, to be tried again, parked, or caught by a middleware."""
    rules = RuleSet("rules")

    async def stop(ctx: Any, next: Any) -> None:
        pass

    async def catch(ctx: Any, next: Any) -> None:
        with suppress(ValueError):
            await next()

    @rules.on("go")
    def fire(ctx: Context) -> None:
        pass

    @rules.on("go")
    @when(lambda ctx: False)
    def skip(ctx: Context) -> None:
        pass

    @rules.on("go", middleware=[stop])
    def stopped(ctx: Context) -> None:
        pass

    @rules.on("go")
    def postpone(ctx: Context) -> None:
        raise Postponed("not now", delay=timedelta(minutes=5))

    @rules.on("go")
    def fail(ctx: Context) -> None:
        raise ValueError("no")

    @rules.on("go", retry=LATER)
    def fail_for_now(ctx: Context) -> None:
        raise ValueError("no")

    @rules.on("go", retry=RetryPolicy(on_exhausted="park"))
    def park(ctx: Context) -> None:
        raise ValueError("no")

    @rules.on("go", middleware=[catch])
    def caught(ctx: Context) -> None:
        raise ValueError("no")

    told = lines(await explained(rules, "go", "s"))[1:]
    assert told.pop(4).startswith("postponed rules.postpone: Postponed: not now; again at 2026-11-05T12:05:")
    assert told == [
        "fired rules.fire",
        "skipped rules.skip",
        "did not hold: False",
        f"stopped rules.stopped: middleware {stop.__name__} did not go on",
        "failed rules.fail: ValueError: no; dead letter",
        "failed rules.fail_for_now: ValueError: no; attempt 2 at 2026-11-05T12:01:00Z",
        "failed rules.park: ValueError: no; its subject waits until it is resumed",
        "failed rules.caught: ValueError: no; middleware catch dealt with it",
    ]


async def test_what_became_of_the_event_as_a_whole_is_told() -> None:
    """That it failed, that no rule is for it, that it came before, that it waits."""
    rules = RuleSet("rules")

    @rules.on("go")
    def fire(ctx: Context) -> None:
        ctx.subject.set("a", 1)

    @rules.on(changed("a"))
    def react(ctx: Context) -> None:
        pass

    @rules.on("wait", retry=LATER)
    def fail(ctx: Context) -> None:
        raise ValueError("no")

    async def refuse(ctx: Any, next: Any) -> None:
        await next()
        raise PermissionError("not today")

    async with new_bus(rules, clock=VirtualClock(NOON)) as bus:
        assert lines(await bus.emit("nothing", "s", explain=True))[1:] == ["no rule is for this event and subject"]
        await bus.emit("go", "s", id="1")
        assert lines(await bus.emit("go", "s", id="1")) == ["go to s", "accepted before, so nothing was done"]
        await bus.emit("wait", "s")
        waiting = await bus.emit("go", "s", explain=True)
        assert lines(waiting) == ["go to s", "waits for what its subject waits for: a retry, or to be resumed"]
        await bus.advance(timedelta(minutes=2))
        bus.use(refuse, scope="event")
        assert lines(await bus.emit("go", "t", explain=True))[1:] == [
            "fired rules.fire",
            "fired rules.react (a was changed by rules.fire)",
            "the event failed as a whole, nothing of it was kept: PermissionError: not today; dead letter",
        ]


async def test_what_middleware_around_the_event_did_is_told() -> None:
    """With the reactions to it."""
    rules = RuleSet("rules")

    @rules.on(changed("seen"))
    def react(ctx: Context) -> None:
        pass

    async def see(ctx: Any, next: Any) -> None:
        ctx.subject.set("seen", True)
        await next()

    bus = new_bus(rules, clock=VirtualClock(NOON))
    bus.use(see, scope="event")
    assert tree(await bus.emit("go", "s", explain=True))[1:] == [
        "└─ fired the middleware around the event",
        "   └─ seen: None -> True",
        "      └─ fired rules.react",
    ]


async def test_a_message_that_is_not_sent_is_told() -> None:
    """Because its chain is too long."""
    rules = RuleSet("rules")

    @rules.on("go")
    def again(ctx: Context) -> None:
        ctx.emit("go")

    told = lines(await explained(rules, "go", "s", limits=Limits(max_depth=2)))
    assert told[-1].startswith("not sent, but left as a dead letter: CascadeLimit: s: go would be message 3")


async def test_long_cascades_end_their_tree_and_go_on_below() -> None:
    """Neither chains of messages nor of reactions are nested without end; each part says where it belongs."""
    rules = RuleSet("rules")

    @rules.on("go")
    def again(ctx: Context) -> None:
        if ctx.payload < 60:
            ctx.emit("go", ctx.payload + 1)
        ctx.subject.set("n", lambda n: (n or 0) + 1)

    @rules.on(changed("n", to=lambda n: n < 250))
    def count(ctx: Context) -> None:
        ctx.subject.set("n", ctx.new_value + 1)

    receipt = await explained(rules, "go", "s", 0)
    told = lines(receipt)
    assert told.count("told below") == len(receipt.explain().events) - 1 == 2
    assert max(len(line) - len(line.lstrip("│├└─ ")) for line in tree(receipt)) < 400
    assert "fired rules.count (n was changed by rules.count)" in told
    assert sum(line.startswith("fired rules.again") for line in told) == 61
    assert sum(line.startswith("goes on from") for line in told) == 2
    json.loads(receipt.explain().to_json())


async def test_a_failure_is_told_with_the_line_that_it_comes_from() -> None:
    """The innermost one of the application's own, not of the library that it has called."""
    rules = RuleSet("rules")

    @rules.on("go")
    def fail(ctx: Context) -> None:
        json.loads(ctx.payload)

    async def refuse(ctx: Any, next: Any) -> None:
        await next()
        raise PermissionError("not today")

    bus = new_bus(rules)
    line = fail.__code__.co_firstlineno + 2
    receipt = await bus.emit("go", "s", "{")
    told = str(receipt.explain()).splitlines()[1]
    assert told.startswith("└─ failed rules.fail: JSONDecodeError: ")
    assert told.endswith(f"; dead letter  (tests/engine/test_explain.py:{line})")
    assert receipt.explain().events[0].turns[0].runs[0].place == f"tests/engine/test_explain.py:{line}"
    bus.use(refuse, scope="event")
    told = str((await bus.emit("go", "s", "{")).explain()).splitlines()[2]
    assert told.endswith(f"dead letter  (tests/engine/test_explain.py:{refuse.__code__.co_firstlineno + 2})")


# -- without notes, and inside turns ---------------------------------------------------------------------------------


async def test_without_notes_what_is_known_is_told_and_how_to_know_more() -> None:
    """Which condition it was, but not the values; they are had with explain=True."""
    rules = RuleSet("rules")

    @rules.on("go")
    @when(lambda ctx: ctx.payload["x"] > 1)
    def start(ctx: Context) -> None:
        pass

    @rules.on("go")
    def fire(ctx: Context) -> None:
        ctx.subject.set("a", 1)

    @rules.on(changed("a", to=2))
    def never(ctx: Context) -> None:
        pass

    receipt = await new_bus(rules).emit("go", "s", {"x": 1})
    first, *others = lines(receipt)[1:]
    assert first.startswith('skipped rules.start: condition ctx.payload["x"] > 1 (tests/engine/test_explain.py:')
    assert others == [
        "fired rules.fire",
        "a: None -> 1",
        "skipped rules.never: the values do not fit its trigger",
        "Which values the conditions looked at was not noted; emit the event with explain=True, and it is.",
    ]
    assert not receipt.explain().is_complete


async def test_an_appended_event_is_explained_once_it_is_handled() -> None:
    """Before that there is nothing to tell."""
    rules = RuleSet("rules")

    @rules.on("go")
    @when(lambda ctx: ctx.event_type == "go")
    def fire(ctx: Context) -> None:
        pass

    bus = new_bus(rules, clock=VirtualClock(NOON))
    receipt = await bus.append("go", "s", explain=True)
    assert lines(receipt) in (["go to s", "accepted, and not handled yet"], lines(await receipt.handled()))
    assert "held: ctx.event_type == \"go\"  [ctx.event_type = 'go']" in lines(await receipt.handled())


async def test_what_is_emitted_inside_a_turn_says_when_it_is_sent() -> None:
    """Its own explanation is in that of the turn."""
    rules = RuleSet("rules")
    told: list[str] = []

    @rules.on("go")
    async def fire(ctx: Context) -> None:
        told.extend(lines(await bus.emit("more", "s")))

    bus = new_bus(rules)
    assert "sent more to s" in lines(await bus.emit("go", "s", explain=True))
    assert told == ["more to s", "sent once the turn around it is committed"]


# -- as JSON ---------------------------------------------------------------------------------------------------------


async def test_the_json_says_the_same() -> None:
    """With a version; what has its default is left out. It can be read back into what it was made of."""
    rules = RuleSet("rules")

    @rules.on("go")
    @when(lambda ctx: ctx.payload["x"] > 1 and ctx.payload["y"])
    def start(ctx: Context) -> None:
        pass

    account = (await explained(rules, "go", "s", {"x": 1})).explain()
    told = json.loads(account.to_json())
    assert told == account.to_dict()
    (event,) = told["events"]
    (turn,) = event.pop("turns")
    place = turn["runs"][0]["tests"][0].pop("place")
    assert place.startswith("tests/engine/test_explain.py:")
    assert turn == {
        "time": "2026-11-05T12:00:00Z",
        "runs": [
            {
                "rule": "rules.start",
                "status": "skipped",
                "tests": [
                    {
                        "kind": "condition",
                        "text": 'ctx.payload["x"] > 1 and ctx.payload["y"]',
                        "result": "did not hold",
                        "parts": [
                            {"text": 'ctx.payload["x"] > 1', "result": "did not hold"},
                            {"text": 'ctx.payload["y"]', "result": "not reached"},
                        ],
                        "values": [{"text": "ctx.payload['x']", "value": "1", "raised": False}],
                    }
                ],
            }
        ],
    }
    assert event["status"] == "handled"
    assert event["correlation"] == event["id"]
    assert told["version"] == 1
    again = Account(events=msgspec.convert(account.to_dict()["events"], tuple[EventAccount, ...]))
    assert str(again) == str(account)


async def test_an_explanation_is_harmless_text() -> None:
    """What could act on a terminal is escaped, in every line."""
    rules = RuleSet("rules")

    @rules.on("*")
    @when(lambda ctx: ctx.payload["x"] != "\x1b")
    def start(ctx: Context) -> None:
        ctx.subject.set("a\x1b\n", "b\x1b\n")
        ctx.emit("go on", delay=timedelta(1), key="k\x1b\n")
        raise ValueError("\x1b[31m\nred")

    bus = EventBus(rules, store=create_memory_storage())
    told = str((await bus.emit("go", "s", {"x": "\x1b\n"}, explain=True)).explain())
    assert all(line.isprintable() for line in told.splitlines())
    assert len(told.splitlines()) == 3
