"""Declaring rules: triggers, conditions, options, ids, duplicates, and modules that are imported twice."""

import functools
import importlib
import importlib.util
import sys
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from onwhen.engine.chain import Next
from onwhen.engine.retries import RetryPolicy
from onwhen.engine.rules import ANY, RuleSet, Trigger, changed, deleted, when
from onwhen.engine.subjects import Subject
from onwhen.errors import DuplicateRule, RuleDefinitionError


class Ticket(Subject, prefix="ticket:"):
    status: str = "new"
    owner: str | None = None


async def outer(ctx: Any, next: Next) -> None:
    await next()


async def inner(ctx: Any, next: Next) -> None:
    await next()


def conditions_of(rules: RuleSet) -> list[str]:
    """The conditions of the one rule of a set, in the order in which they are tested."""
    (rule,) = rules
    return [str(condition) for condition in rule.conditions]


# -- ids and options -------------------------------------------------------------------------------------------


def test_a_rule_is_known_by_its_set_and_its_function() -> None:
    """The decorated name is still the plain function."""
    rules = RuleSet("tickets", subject=Ticket)

    @rules.on("ticket.taken")
    def take(ctx: Any) -> str:
        return "called"

    (rule,) = rules
    assert rule.id == str(rule) == "tickets.take"
    assert take(None) == "called"
    assert repr(rules) == "RuleSet('tickets', 1 rules for Ticket)"


def test_a_name_takes_the_place_of_the_functions() -> None:
    """So an id can outlive the function's name, and a lambda can be a rule."""
    rules = RuleSet("tickets")
    rules.on("ticket.taken", name="take-it")(lambda ctx: None)
    assert [rule.id for rule in rules] == ["tickets.take-it"]


@pytest.mark.parametrize("name", [None, "", "two words", "-x", "a/b"])
def test_a_name_that_cannot_be_part_of_an_id_is_refused(name: str | None) -> None:
    """Ids end up in stores, logs and addresses."""
    with pytest.raises(RuleDefinitionError, match=r"no name that a rule could be known by.*test_rules.py|name="):
        RuleSet("tickets").on("ticket.taken", name=name)(lambda ctx: None)


@pytest.mark.parametrize("name", ["", "two words", ".x", "a/b"])
def test_the_name_of_a_rule_set_is_checked_too(name: str) -> None:
    """For the same reason."""
    with pytest.raises(RuleDefinitionError, match="rule set name"):
        RuleSet(name)


def test_a_rule_set_gives_its_rules_defaults() -> None:
    """A rule's own options win; its middleware is inside that of the set."""
    often, once = RetryPolicy(attempts=9), RetryPolicy()
    rules = RuleSet("tickets", middleware=[outer], retry=often, timeout=timedelta(minutes=1))

    @rules.on("a")
    def first(ctx: Any) -> None: ...

    @rules.on("a", middleware=[inner], retry=once, timeout=2.5, priority=7)
    def second(ctx: Any) -> None: ...

    one, two = rules
    assert (one.middleware, one.retry, one.timeout, one.priority) == ((outer,), often, 60, 0)
    assert (two.middleware, two.retry, two.timeout, two.priority) == ((outer, inner), once, 2.5, 7)


def sync_middleware(ctx: Any, next: Next) -> None: ...


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"timeout": 0}, "timeout=0 must be more than 0"),
        ({"timeout": timedelta(seconds=-1)}, "must be more than 0"),
        ({"priority": "high"}, "priority='high' must be a whole number"),
        ({"middleware": [sync_middleware]}, "async def mw"),
    ],
)
def test_options_are_checked_where_they_are_given(options: dict[str, Any], problem: str) -> None:
    """A mistake is an error at import, not at the first event."""
    with pytest.raises(RuleDefinitionError, match=problem):
        RuleSet("tickets").on("a", **options)


def test_a_rule_set_is_for_a_class_of_subjects() -> None:
    """One that has a prefix, or all subjects."""

    class Unprefixed(Subject):
        pass

    with pytest.raises(RuleDefinitionError, match="Unprefixed has no prefix"):
        RuleSet("a", subject=Unprefixed)
    with pytest.raises(RuleDefinitionError, match="not a class that extends Subject"):
        RuleSet("a", subject=dict)  # type: ignore[arg-type]
    assert RuleSet("a").subject is Subject


# -- triggers --------------------------------------------------------------------------------------------------


def test_a_rule_may_have_several_triggers() -> None:
    """In one `@on`, or in several; it stays one rule."""
    rules = RuleSet("tickets", subject=Ticket)

    @rules.on("a", "b.*")
    @rules.on(changed("status"))
    def rule(ctx: Any) -> None: ...

    (only,) = rules
    assert [str(trigger) for trigger in only.triggers] == ["changed('status')", "a", "b.*"]


def test_stacked_options_add_up() -> None:
    """Each may be given in any of the decorators."""
    rules = RuleSet("tickets")

    @rules.on("a", priority=5)
    @rules.on("b", timeout=3)
    @rules.on("c", priority=5)
    def rule(ctx: Any) -> None: ...

    (only,) = rules
    assert (only.priority, only.timeout) == (5, 3)


def test_stacked_options_that_differ_are_refused() -> None:
    """Rather than one of them being ignored."""
    rules = RuleSet("tickets")
    with pytest.raises(RuleDefinitionError, match=r"rule tickets.rule: two @on give it priority=2 and priority=1"):

        @rules.on("a", priority=1)
        @rules.on("b", priority=2)
        def rule(ctx: Any) -> None: ...


@pytest.mark.parametrize("trigger", [3, "", None, print])
def test_what_is_no_trigger_is_refused(trigger: Any) -> None:
    """With what would be one."""
    with pytest.raises(RuleDefinitionError, match="event types, changed"):
        RuleSet("tickets").on(trigger)


def test_on_without_a_trigger_is_refused() -> None:
    """Such a rule could never run."""
    with pytest.raises(RuleDefinitionError, match="needs an event type"):
        RuleSet("tickets").on()


def test_a_bare_on_is_refused() -> None:
    """`@rules.on` without parentheses would take the function for a trigger."""
    rules = RuleSet("tickets")
    with pytest.raises(RuleDefinitionError, match="event types, changed"):

        @rules.on
        def rule(ctx: Any) -> None: ...


def test_property_names_are_checked_for_typed_subjects() -> None:
    """A typing mistake is an error, with a suggestion; dynamic subjects may have any property."""
    with pytest.raises(RuleDefinitionError, match=r"no property 'staus'.*did you mean 'status'"):
        RuleSet("tickets", subject=Ticket).on(changed("staus"))
    RuleSet("all").on(changed("staus"))


@pytest.mark.parametrize("name", ["", 3, None])
def test_property_names_are_strings(name: Any) -> None:
    """Others are refused at once."""
    with pytest.raises(RuleDefinitionError, match="names of properties"):
        changed(name)


class Changed:
    """Stands in for a context."""

    def __init__(self, old: Any, new: Any) -> None:
        self.old_value, self.new_value = old, new


@pytest.mark.parametrize(
    ("trigger", "old", "new", "fits"),
    [
        (changed("n", to=3), 1, 3, True),
        (changed("n", to=3), 3, 1, False),
        (changed("n", from_=None), None, 1, True),
        (changed("n", from_=None), 0, 1, False),
        (changed("n", to=None), 1, None, True),
        (changed("n", from_=ANY, to=3), 1, 3, True),
        (changed("n", from_=lambda old: old > 2, to=lambda new: new < 2), 3, 1, True),
        (changed("n", from_=lambda old: old > 2, to=lambda new: new < 2), 3, 2, False),
        (changed("n", to=lambda new: "yes"), 1, 2, True),
        (deleted("n", from_=3), 3, None, True),
        (deleted("n", from_=3), 4, None, False),
    ],
)
def test_values_and_predicates(trigger: Trigger, old: Any, new: Any, fits: bool) -> None:
    """`from_` and `to` are compared, or called with the value; None is a value, ANY is none."""
    assert trigger.guard is not None
    assert trigger.guard(Changed(old, new)) is fits


def test_without_values_nothing_is_left_to_ask() -> None:
    """Then the property alone decides."""
    assert changed("n").guard is None
    assert changed("n", from_=ANY, to=ANY).guard is None


def test_async_predicates_are_refused() -> None:
    """What they return would always count as true; `@when` can wait for them."""

    async def busy(value: Any) -> bool:
        return True

    with pytest.raises(RuleDefinitionError, match="plain functions"):
        changed("n", to=busy)


def is_late(value: Any) -> bool:
    return True


def test_a_trigger_says_what_it_is() -> None:
    """As it was written."""
    assert str(changed("a", "b", from_=None, to=is_late)) == "changed('a', 'b', from_=None, to=is_late)"
    assert str(deleted()) == "subject-property-deleted"
    assert repr(ANY) == "ANY"


# -- conditions ------------------------------------------------------------------------------------------------


def first(ctx: Any) -> bool:
    return True


def second(ctx: Any) -> bool:
    return True


async def third(ctx: Any) -> bool:
    return True


def test_conditions_are_tested_from_the_top_down() -> None:
    """Below `@on`, above it, and on both sides."""
    below, above, around = RuleSet("below"), RuleSet("above"), RuleSet("around")

    @below.on("a")
    @when(first)
    @when(second, third)
    def rule_1(ctx: Any) -> None: ...

    @when(first)
    @when(second, third)
    @above.on("a")
    def rule_2(ctx: Any) -> None: ...

    @when(first)
    @around.on("a")
    @when(second)
    @around.on("b")
    @when(third)
    def rule_3(ctx: Any) -> None: ...

    assert conditions_of(below) == conditions_of(above) == conditions_of(around) == ["first", "second", "third"]


def test_conditions_survive_another_decorator() -> None:
    """One that uses functools.wraps, as decorators should."""
    rules = RuleSet("a")

    def traced(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(ctx: Any) -> Any:
            return function(ctx)

        return wrapper

    @when(first)
    @rules.on("a")
    @traced
    @when(second)
    def rule(ctx: Any) -> None: ...

    assert conditions_of(rules) == ["first", "second"]


def test_a_condition_says_where_it_is() -> None:
    """A lambda has no name but a line."""
    rules = RuleSet("a")

    @rules.on("a")
    @when(lambda ctx: True)
    def rule(ctx: Any) -> None: ...

    assert conditions_of(rules)[0].startswith("lambda at test_rules.py:")


def generator(ctx: Any) -> Any:
    yield True


@pytest.mark.parametrize("test", [True, "x", generator])
def test_what_is_no_condition_is_refused(test: Any) -> None:
    """A generator function would always count as true."""
    with pytest.raises(RuleDefinitionError, match="@when takes functions"):
        when(test)


async def async_generator(ctx: Any) -> Any:
    yield True


@pytest.mark.parametrize("function", [generator, async_generator])
def test_a_function_with_a_yield_is_no_rule(function: Any) -> None:
    """Calling it would run nothing."""
    with pytest.raises(RuleDefinitionError, match=r"generator \(.*test_rules.py:\d+\) has a yield"):
        RuleSet("a").on("a")(function)


def test_what_is_no_function_is_no_rule() -> None:
    """A class, or a name."""
    for thing in (Ticket, "take"):
        with pytest.raises(RuleDefinitionError, match="must be a function"):
            RuleSet("a").on("a")(thing)  # type: ignore[type-var]


# -- duplicates ------------------------------------------------------------------------------------------------


def test_two_functions_cannot_have_one_id() -> None:
    """The error names both places and says what to do."""
    rules = RuleSet("tickets")

    @rules.on("a")
    def take(ctx: Any) -> None: ...

    known = take
    with pytest.raises(DuplicateRule, match=r"rule id 'tickets.take' is taken by .*test_rules.py:\d+.*name=") as caught:

        @rules.on("b")
        def take(ctx: Any) -> None: ...

    assert caught.value.rule == "tickets.take"
    assert caught.value.first.endswith(f":{known.__code__.co_firstlineno})")
    assert caught.value.second != caught.value.first
    assert [rule.function for rule in rules] == [known]


def test_a_function_made_in_a_loop_is_many_functions() -> None:
    """Registering each under one id is refused: only one of them would run. With names of their own they are fine."""
    rules = RuleSet("tickets")

    def declare(event_type: str, **options: Any) -> None:
        @rules.on(event_type, **options)
        def take(ctx: Any) -> str:
            return event_type

    declare("a")
    with pytest.raises(DuplicateRule):
        declare("b")
    declare("b", name="take_b")
    assert [rule.id for rule in rules] == ["tickets.take", "tickets.take_b"]


def test_one_function_may_be_registered_in_a_loop() -> None:
    """It is one rule, with more triggers each time."""
    rules = RuleSet("tickets")
    for event_type in ("a", "b"):
        rules.on(event_type)(first)
    (rule,) = rules
    assert [str(trigger) for trigger in rule.triggers] == ["a", "b"]


def test_one_function_may_be_in_several_sets() -> None:
    """With another id in each."""
    one, two = RuleSet("one"), RuleSet("two")
    one.on("a")(first)
    two.on("a")(first)
    assert [rule.id for rules in (one, two) for rule in rules] == ["one.first", "two.first"]


# -- modules that are imported twice ---------------------------------------------------------------------------

MODULE = """
from onwhen.engine.rules import when
from {shared} import rules

@rules.on("a")
@when(lambda ctx: True)
@rules.on("b")
def rule(ctx):
    return 1
"""
ANOTHER = """

@rules.on("a")
def rule(ctx):
    return 2
"""


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> RuleSet:
    """A rule set in a module that is imported once."""
    module = ModuleType("shared_rules")
    module.rules = RuleSet("shared")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shared_rules", module)
    return module.rules  # type: ignore[no-any-return]


def imported(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module at a path, imported afresh under a name."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("names", [("rules_a", "rules_a"), ("rules_a", "package.rules_a")], ids=["same", "other"])
def test_a_module_that_is_imported_twice_registers_once(
    shared: RuleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: tuple[str, str]
) -> None:
    """Under one name or under two: the newer function takes the older one's place, triggers and conditions once."""
    path = tmp_path / "rules_a.py"
    path.write_text(MODULE.format(shared="shared_rules"))
    imported(path, names[0], monkeypatch)
    again = imported(path, names[1], monkeypatch)
    (rule,) = shared
    assert rule.function is again.rule
    assert (len(rule.triggers), len(rule.conditions)) == (2, 1)


def test_a_module_that_is_reloaded_registers_once(
    shared: RuleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it was edited, so that the rule stands on another line now and does something else."""
    path = tmp_path / "rules_b.py"
    path.write_text(MODULE.format(shared="shared_rules"))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # a file that is edited within a second may look unchanged
    module = importlib.import_module("rules_b")
    monkeypatch.setitem(sys.modules, "rules_b", module)
    path.write_text("# more\n# lines\n" + MODULE.format(shared="shared_rules").replace("return 1", "return 10"))
    importlib.invalidate_caches()
    importlib.reload(module)
    (rule,) = shared
    assert rule.function(None) == 10


def test_two_rules_of_one_name_in_a_module_are_refused_whenever_it_is_imported(
    shared: RuleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that was not renamed is not taken for a second import."""
    path = tmp_path / "rules_c.py"
    path.write_text(MODULE.format(shared="shared_rules") + ANOTHER)
    for name in ("rules_c", "again.rules_c"):
        with pytest.raises(DuplicateRule):
            imported(path, name, monkeypatch)


def test_two_modules_cannot_have_rules_of_one_id(
    shared: RuleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are two files, so these are two rules."""
    for name in ("rules_d", "rules_e"):
        (tmp_path / f"{name}.py").write_text(MODULE.format(shared="shared_rules"))
    imported(tmp_path / "rules_d.py", "rules_d", monkeypatch)
    with pytest.raises(DuplicateRule, match=r"rules_d.py:.*rules_e.py:"):
        imported(tmp_path / "rules_e.py", "rules_e", monkeypatch)


def test_a_cell_of_a_notebook_may_be_run_again(shared: RuleSet) -> None:
    """Each run is compiled under another file name, but in the same namespace."""
    namespace: dict[str, Any] = {}
    for number in (1, 2):
        source = MODULE.format(shared="shared_rules").replace("return 1", f"return {number}")
        exec(compile(source, f"<cell {number}>", "exec"), namespace)
    (rule,) = shared
    assert rule.function(None) == 2


def test_a_rule_set_knows_itself_after_a_second_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not mistaken for another set of the same name."""
    path = tmp_path / "rules_f.py"
    path.write_text("from onwhen.engine.rules import RuleSet\nrules = RuleSet('f')\nother = RuleSet('f')\n")
    once = imported(path, "rules_f", monkeypatch)
    again = imported(path, "again.rules_f", monkeypatch)
    assert again.rules.is_reimport_of(once.rules)
    assert not once.other.is_reimport_of(once.rules)
    assert not RuleSet("f").is_reimport_of(once.rules)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"retry": 3}, r"retry=3 must be a RetryPolicy\(\.\.\.\)"),
        ({"timeout": "5"}, "timeout='5' must be more than 0, as a number of seconds or a timedelta"),
        ({"timeout": True}, "timeout=True must be more than 0"),
    ],
)
def test_options_of_a_wrong_type_are_refused_where_they_are_given(options: dict[str, Any], problem: str) -> None:
    """For a set as for a rule; not when the rule first fails."""
    with pytest.raises(RuleDefinitionError, match=problem):
        RuleSet("r", **options)
    with pytest.raises(RuleDefinitionError, match=problem):
        RuleSet("r").on("go", **options)(lambda ctx: None)
