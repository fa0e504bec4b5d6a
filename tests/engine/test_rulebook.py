"""The index of rules: which rules an event concerns, in which order, and how rule sets come and go."""

import fnmatch
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen.engine.chain import Next
from onwhen.engine.events import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED
from onwhen.engine.rulebook import Rulebook
from onwhen.engine.rules import RuleSet, Trigger, changed, deleted
from onwhen.engine.subjects import Subject
from onwhen.errors import RuleDefinitionError


class Device(Subject, prefix="device:"):
    a: int = 0
    b: int = 0


class Sensor(Device, prefix="device:sensor:"):
    c: int = 0


class Customer(Subject, prefix="customer:"):
    a: int = 0
    b: int = 0


def book_of(*rule_sets: RuleSet) -> Rulebook:
    book = Rulebook()
    book.include(*rule_sets)
    return book


def declare(rules: RuleSet, name: str, *triggers: str | Trigger, priority: int = 0) -> None:
    rules.on(*triggers, name=name, priority=priority)(lambda ctx: None)


def found(book: Rulebook, event_type: str, subject: type[Subject] = Subject, property: str = "") -> list[str]:
    return [match.rule.id for match in book.match(event_type, subject, property)]


# -- matching --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("ticket.taken", "ticket.taken", "ticket.taken.twice"),
        ("ticket.*", "ticket.taken.twice", "ticket"),
        ("*", SUBJECT_PROPERTY_CHANGED, None),
        ("ticket.?", "ticket.a", "ticket.ab"),
        ("ticket.[ab]", "ticket.b", "ticket.c"),
        ("Ticket.*", "Ticket.a", "ticket.a"),
        ("a.b+", "a.b+", "a.bb"),
        ("ticket.[a", "ticket.[a", "ticket.a"),
    ],
)
def test_types_and_globs(pattern: str, matching: str, other: str | None) -> None:
    """Case counts, and a glob's `*` spans dots."""
    rules = RuleSet("r")
    declare(rules, "rule", pattern)
    book = book_of(rules)
    assert found(book, matching) == ["r.rule"]
    if other is not None:
        assert found(book, other) == []


def test_property_rules_are_found_by_their_property() -> None:
    """Those that name none, by every property."""
    rules = RuleSet("r")
    declare(rules, "one", changed("a"))
    declare(rules, "two", changed("a", "b"))
    declare(rules, "any", changed())
    declare(rules, "typed", SUBJECT_PROPERTY_CHANGED)
    declare(rules, "gone", deleted("a"))
    book = book_of(rules)
    assert found(book, SUBJECT_PROPERTY_CHANGED, property="a") == ["r.one", "r.two", "r.any", "r.typed"]
    assert found(book, SUBJECT_PROPERTY_CHANGED, property="b") == ["r.two", "r.any", "r.typed"]
    assert found(book, SUBJECT_PROPERTY_CHANGED, property="c") == ["r.any", "r.typed"]
    assert found(book, SUBJECT_PROPERTY_DELETED, property="a") == ["r.gone"]


def test_rules_of_higher_priority_come_first() -> None:
    """Equal ones in order of registration, over all rule sets."""
    first, second = RuleSet("first"), RuleSet("second")
    declare(second, "late", "x")
    declare(first, "late", "x", priority=-1)
    declare(first, "normal", "x")
    declare(second, "early", "*", priority=9)
    declare(first, "early", "x", priority=9)
    assert found(book_of(first, second), "x") == [
        "first.early", "second.early", "first.normal", "second.late", "first.late",
    ]  # fmt: skip


def test_a_rule_that_matches_in_two_ways_is_found_once() -> None:
    """Several triggers mean "one of these"."""
    rules = RuleSet("r")
    declare(rules, "rule", "ticket.taken", "ticket.*", "*")
    assert found(book_of(rules), "ticket.taken") == ["r.rule"]


def test_values_are_left_to_be_asked_unless_another_trigger_fits_anyway() -> None:
    """One of the guards has to agree; none is left where a trigger asks for no value."""
    rules = RuleSet("r")
    declare(rules, "values", changed("a", to=1), changed("a", to=2))
    declare(rules, "anyway", changed("a", to=1), changed("a"))
    values, anyway = book_of(rules).match(SUBJECT_PROPERTY_CHANGED, Subject, "a")
    assert (len(values.guards), len(anyway.guards)) == (2, 0)


def test_rules_for_a_class_are_run_for_its_subclasses_too() -> None:
    """And rules without a class for all."""
    devices, sensors, everything = RuleSet("devices", Device), RuleSet("sensors", Sensor), RuleSet("all")
    for rules in (devices, sensors, everything):
        declare(rules, "rule", "x")
    book = book_of(devices, sensors, everything)
    assert found(book, "x", Sensor) == ["devices.rule", "sensors.rule", "all.rule"]
    assert found(book, "x", Device) == ["devices.rule", "all.rule"]
    assert found(book, "x", Customer) == ["all.rule"]


def test_the_longest_prefix_says_what_a_subject_is() -> None:
    """One that fits no prefix is dynamic."""
    book = book_of(RuleSet("devices", Device), RuleSet("sensors", Sensor), RuleSet("all"))
    assert book.subject_type("device:sensor:7") is Sensor
    assert book.subject_type("device:7") is Device
    assert book.subject_type("customer:7") is Subject
    assert book.subject_types == (Sensor, Device)


def test_many_types_from_outside_do_not_fill_the_memory() -> None:
    """What was worked out is kept for a bounded number of them."""
    book = book_of(RuleSet("r"))
    for number in range(50_000):
        book.match(f"type {number}", Subject)
    assert len(book._cache) <= 20_000


# -- against a naive reference ---------------------------------------------------------------------------------

TYPES = ("a", "a.b", "a.b.c", "b", SUBJECT_PROPERTY_CHANGED, SUBJECT_PROPERTY_DELETED, SUBJECT_DELETED)
PATTERNS = (*TYPES, "*", "a.*", "?", "a.[bc]", "*.b*", "subject-*", "[")
PROPERTIES = ("a", "b")
CLASSES: tuple[type[Subject], ...] = (Subject, Device, Sensor, Customer)

triggers = st.one_of(
    st.sampled_from(PATTERNS).map(Trigger),
    st.lists(st.sampled_from(PROPERTIES), max_size=2).map(lambda names: changed(*names)),
    st.lists(st.sampled_from(PROPERTIES), max_size=2).map(lambda names: deleted(*names)),
    st.sampled_from(PROPERTIES).map(lambda name: changed(name, to=1)),
)
declared = st.tuples(st.integers(0, 3), st.lists(triggers, min_size=1, max_size=3), st.integers(-1, 1))


def naive(rules: list[Any], event_type: str, subject: type[Subject], property: str) -> list[tuple[str, int]]:
    """Look at every rule and every trigger, as the documentation says; return ids and how many guards are left."""

    def fits(trigger: Trigger) -> bool:
        if trigger.properties and property not in trigger.properties:
            return False
        return fnmatch.fnmatchcase(event_type, trigger.pattern)

    result = []
    for rule in sorted(rules, key=lambda rule: -rule.priority):  # sorted() keeps the order of equal ones
        fitting = [trigger for trigger in rule.triggers if fits(trigger)]
        if issubclass(subject, rule.subject) and fitting:
            unguarded = any(trigger.guard is None for trigger in fitting)
            result.append((rule.id, 0 if unguarded else len(fitting)))
    return result


@given(st.lists(declared, max_size=12), st.lists(st.integers(0, 3), max_size=4))
def test_the_index_finds_what_a_naive_search_finds(declarations: list[Any], taken_out: list[int]) -> None:
    """For all rules, event types, classes and properties: the same rules, in the same order, with the same guards;
    also after rule sets were taken out and rules were added.
    """
    sets = [RuleSet(f"s{number}", cls) for number, cls in enumerate(CLASSES)]
    book = book_of(*sets)
    included = list(sets)

    def agrees() -> None:
        rules = [rule for rule_set in included for rule in rule_set]
        for event_type in TYPES:
            for cls in CLASSES:
                for property in PROPERTIES if event_type.startswith("subject-property") else ("",):
                    matches = book.match(event_type, cls, property)
                    assert [(match.rule.id, len(match.guards)) for match in matches] == naive(
                        rules, event_type, cls, property
                    )

    half = len(declarations) // 2
    for number, (which, rule_triggers, priority) in enumerate(declarations[:half]):
        declare(sets[which], f"r{number}", *rule_triggers, priority=priority)
    agrees()
    for which in taken_out:
        book.exclude(sets[which])
        included = [rule_set for rule_set in included if rule_set is not sets[which]]
    for number, (which, rule_triggers, priority) in enumerate(declarations[half:], half):
        declare(sets[which], f"r{number}", *rule_triggers, priority=priority)
    agrees()


# -- rule sets come and go -------------------------------------------------------------------------------------


def test_rules_may_be_added_after_their_set_was_included() -> None:
    """Also when an event was matched already."""
    rules = RuleSet("r")
    book = book_of(rules)
    assert found(book, "x") == []
    declare(rules, "rule", "x")
    assert found(book, "x") == ["r.rule"]


def test_a_rule_set_can_be_taken_out_and_in_again() -> None:
    """Taking out what is not in is no error, nor is including twice."""
    rules, other = RuleSet("r"), RuleSet("other")
    declare(rules, "rule", "x")
    book = book_of(rules, rules)
    book.include(rules)
    assert found(book, "x") == ["r.rule"]
    book.exclude(rules, other)
    assert found(book, "x") == []
    assert book.rule_sets == ()
    book.include(rules)
    assert found(book, "x") == ["r.rule"]


def test_two_rule_sets_cannot_have_one_name() -> None:
    """Their rules could have the same ids; and if one of several cannot be included, none is."""
    book = book_of(RuleSet("r"))
    with pytest.raises(RuleDefinitionError, match="'r' is included already"):
        book.include(RuleSet("new"), RuleSet("r"))
    assert [rule_set.name for rule_set in book.rule_sets] == ["r"]


def test_two_classes_cannot_have_one_prefix() -> None:
    """Nobody could say which one a subject is."""

    class Another(Subject, prefix="device:"):
        pass

    book = book_of(RuleSet("devices", Device), RuleSet("more", Device))
    with pytest.raises(RuleDefinitionError, match=r"'others' is for .*Another and 'devices' for Device"):
        book.include(RuleSet("others", Another))
    assert book.subject_type("device:1") is Device


@pytest.mark.parametrize("thing", ["r", None, print])
def test_only_rule_sets_can_be_included(thing: Any) -> None:
    """A module, for example, holds them but is none."""
    with pytest.raises(RuleDefinitionError, match="include takes rule sets"):
        book_of(thing)


MODULE = """
from onwhen.engine.rules import RuleSet
from onwhen.engine.subjects import Subject

class Pump(Subject, prefix="pump:"):
    n: int = 0

pumps = RuleSet("pumps", subject=Pump)
repairs = RuleSet("repairs", subject=Pump)

@pumps.on("x")
def rule(ctx): ...

@repairs.on("x")
def rule(ctx): ...
"""


@pytest.fixture
def imports(tmp_path: Path) -> Callable[[str], Any]:
    """Import one module again and again, under any name."""
    path = tmp_path / "pump_rules.py"
    path.write_text(MODULE)

    def imported(name: str) -> Any:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return imported


@pytest.mark.parametrize("name", ["pump_rules", "package.pump_rules"])
def test_a_module_that_is_imported_twice_has_its_rules_once(imports: Callable[[str], Any], name: str) -> None:
    """Its newer rule sets, and its newer subject class, take the place of the older ones."""
    old, new = imports("pump_rules"), imports(name)
    book = book_of(old.pumps, old.repairs)
    book.include(new.pumps, new.repairs)
    assert found(book, "x", new.Pump) == ["pumps.rule", "repairs.rule"]
    assert found(book, "x", old.Pump) == []
    assert book.subject_type("pump:1") is new.Pump


def test_a_rule_set_can_be_taken_out_by_what_a_second_import_gave(imports: Callable[[str], Any]) -> None:
    """It is the same rule set to whoever wrote it."""
    old, new = imports("pump_rules"), imports("again.pump_rules")
    book = book_of(old.pumps, old.repairs)
    book.exclude(new.pumps)
    assert found(book, "x", old.Pump) == ["repairs.rule"]


def test_a_module_that_is_imported_twice_is_included_as_a_whole(imports: Callable[[str], Any]) -> None:
    """Half of it would leave two classes for one prefix."""
    old, new = imports("pump_rules"), imports("again.pump_rules")
    book = book_of(old.pumps, old.repairs)
    with pytest.raises(RuleDefinitionError, match="include all rule sets of a module at once"):
        book.include(new.pumps)


# -- middleware ------------------------------------------------------------------------------------------------


async def first(ctx: Any, next: Next) -> None:
    await next()


async def second(ctx: Any, next: Next) -> None:
    await next()


async def own(ctx: Any, next: Next) -> None:
    await next()


def test_middleware_is_wrapped_around_every_rule() -> None:
    """What is used first is outermost, a rule's own innermost; using one twice does it once."""
    rules = RuleSet("r")
    rules.on("x", name="rule", middleware=[own])(lambda ctx: None)
    book = book_of(rules)
    for middleware in (first, second, first):
        book.use(middleware)
    (match,) = book.match("x", Subject)
    assert match.middleware == (first, second, own)
    book.drop(first)
    (match,) = book.match("x", Subject)
    assert match.middleware == (second, own)


def test_middleware_around_events_is_kept_apart() -> None:
    """The two scopes know nothing of each other."""
    book = book_of()
    book.use(first, "event")
    book.use(second)
    assert (book.around("event"), book.around("rule")) == ((first,), (second,))


def test_what_is_no_middleware_is_refused() -> None:
    """As is a scope that is none."""
    with pytest.raises(RuleDefinitionError, match="async def mw"):
        book_of().use(print)  # type: ignore[arg-type]
    with pytest.raises(RuleDefinitionError, match="scope='all' must be"):
        book_of().use(first, "all")  # type: ignore[arg-type]


def test_a_copy_goes_its_own_way() -> None:
    """It has the same rules and middleware, and belongs to the same family."""
    rules = RuleSet("r")
    declare(rules, "rule", "x")
    book = book_of(rules)
    book.use(first, "event")
    twin = book.copy()
    book.exclude(rules)
    assert found(twin, "x") == ["r.rule"]
    assert twin.around("event") == (first,)
    assert twin.family is book.family
    assert Rulebook().family is not book.family
