"""Cycles, named: what is said about a cascade that does not end."""

from onwhen.engine.cascades import TRAIL, cycle_of_messages, cycle_of_reactions, trail
from onwhen.engine.events import Event
from onwhen.engine.occurrences import Occurrence
from onwhen.engine.state import Change

LIMIT = 64


def reaction(parent: Occurrence | None, rule: str, property: str) -> Occurrence:
    """A property change that a rule made."""
    return Occurrence("subject-property-changed", Change(property, 0, 1), parent=parent, cause=(rule, 1, -1))


def chain(*steps: tuple[str, str], first: str = "start") -> Event:
    """The last message of a chain of (rule, event type), deep enough to have a trail."""
    event = Event(first, "thing:1", depth=LIMIT - len(steps))
    for rule, event_type in steps:
        extension = trail(event, LIMIT, rule, event_type)
        event = Event(event_type, "thing:1", depth=event.depth + 1, extensions=(extension and {TRAIL: extension}) or {})
    return event


def test_a_rule_that_reacts_to_itself() -> None:
    """The shortest cycle: one rule, one property."""
    occurrence = Occurrence("start", None, Event("start", "thing:1"))
    for _ in range(5):
        occurrence = reaction(occurrence, "things.count", "n")
    assert cycle_of_reactions(occurrence) == "things.count -> n -> things.count"


def test_a_cycle_over_several_rules_and_properties() -> None:
    """It is told once, from the rule after the last repetition; what led into it is left out."""
    occurrence = reaction(Occurrence("start", None, Event("start", "thing:1")), "things.begin", "x")
    for _ in range(3):
        for rule, property in (("things.a", "x"), ("things.b", "y"), ("things.c", "z")):
            occurrence = reaction(occurrence, rule, property)
    assert cycle_of_reactions(occurrence) == "things.a -> x -> things.b -> y -> things.c -> z -> things.a"


def test_a_way_without_repetition_is_told_as_it_is() -> None:
    """A long chain need not be a cycle."""
    occurrence = Occurrence("start", None, Event("start", "thing:1"))
    for number in range(3):
        occurrence = reaction(occurrence, f"things.r{number}", f"p{number}")
    assert cycle_of_reactions(occurrence) == "things.r0 -> p0 -> things.r1 -> p1 -> things.r2 -> p2"


def test_a_rule_that_sends_itself_messages() -> None:
    """A message's trail says which rules and types led to it."""
    event = chain(*[("things.loop", "again")] * 4)
    assert cycle_of_messages(event) == "things.loop -> again -> things.loop"


def test_two_rules_that_send_each_other_messages() -> None:
    """The subjects are left out: a chain over ever new subjects is a cycle of rules all the same."""
    event = chain(*[("a.ping", "pong"), ("b.pong", "ping")] * 4)
    assert cycle_of_messages(event) == "a.ping -> pong -> b.pong -> ping -> a.ping"


def test_a_branch_off_a_cycle_is_named_with_the_cycle() -> None:
    """The message that is one too many need not be of the cycle itself: an error handler in it, say."""
    event = chain(*[("a.ping", "pong"), ("b.pong", "ping")] * 4, ("a.audit", "audited"))
    assert cycle_of_messages(event) == "a.ping -> pong -> b.pong -> ping -> a.ping, then a.audit, then audited"


def test_event_types_may_hold_anything() -> None:
    """A type with spaces or arrows is one step."""
    event = chain(*[("a.r", "two words"), ("a.s", 'x -> "y"')] * 3)
    assert cycle_of_messages(event) == 'a.r -> two words -> a.s -> x -> "y" -> a.r'


def test_messages_far_from_the_limit_carry_no_trail() -> None:
    """Ordinary messages pay nothing."""
    assert trail(Event("start", "thing:1", depth=LIMIT // 2), LIMIT, "a.r", "next") is None
    assert trail(Event("start", "thing:1", depth=LIMIT - 16), LIMIT, "a.r", "next") is not None


def test_a_trail_stays_short() -> None:
    """However long the chain, its last steps are enough."""
    event = chain(*[("things.loop", "again")] * 60)
    assert len(str(event.extensions[TRAIL])) < 1000


def test_a_trail_from_outside_may_say_anything() -> None:
    """It is only ever shown; nonsense is taken for no trail."""
    for nonsense in ("", "[1, 2", "{}", "7"):
        event = Event("start", "thing:1", extensions={TRAIL: nonsense} if nonsense else None)
        assert cycle_of_messages(event) == "start"
    assert cycle_of_messages(Event("start", "thing:1", extensions={TRAIL: "[1, null]"})) == "1 -> None"
