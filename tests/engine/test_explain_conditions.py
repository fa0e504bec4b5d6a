"""What is told of conditions: their source, which operand it was, and the values that they looked at."""

import asyncio
import enum
import functools
import math
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onwhen import Event, EventBus, RuleSet, Subject, changed, create_memory_storage, when
from onwhen.engine.explaining import _views
from onwhen.engine.explaining._conditions import Asked, Part, Value, condition_asked, condition_text
from onwhen.engine.explaining._texts import short
from tests.engine.turning import Thing, begin, committed, run

LIMIT = 3
HERE = "test_explain_conditions.py"


class Level(enum.Enum):
    LOW = 1
    HIGH = 2


class Boxed:
    """Something with plain attributes, and one that is not plain."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.asked = 0

    @property
    def counted(self) -> int:
        self.asked += 1
        return self.asked

    def __call__(self, ctx: Any) -> bool:
        return bool(ctx.subject.n > self.limit)

    def is_over(self, ctx: Any) -> bool:
        return bool(ctx.subject.n > self.limit)


class Broken:
    def __repr__(self) -> str:
        raise ZeroDivisionError


def asked(*tests: Callable[[Any], Any], data: Any = None, **stored: bytes) -> tuple[Asked, ...]:
    """Run a rule with conditions, explained, and return what is told of them."""
    rules = RuleSet("rules", Thing)

    @rules.on("go")
    @when(*tests)
    def rule(ctx: Any) -> None:
        pass

    turn = run(begin(rules, event=Event("go", "thing:1", data), stored=stored, explains=True))
    (ran,) = turn.outcome().runs
    return ran.tests


def values(*tests: Callable[[Any], Any], data: Any = None, **stored: bytes) -> dict[str, str]:
    """Return what the first of some conditions looked at."""
    first, *_ = asked(*tests, data=data, **stored)
    return {value.text: value.value for value in first.values}


# -- the source ----------------------------------------------------------------------------------------------------


def test_a_lambda_is_told_as_it_was_written() -> None:
    """Its expression, spaces and quotes included, where it stands, and the values that it looked at."""
    (told,) = asked(lambda ctx: ctx.subject.n  > LIMIT, n=b"2")  # fmt: skip
    assert (told.text, told.result) == ("ctx.subject.n  > LIMIT", "did not hold")
    assert told.place.rpartition(":")[0].endswith(HERE)
    assert told.values == (Value("ctx.subject.n", "2"), Value("LIMIT", "3"))


def test_several_lambdas_on_one_line_are_told_apart() -> None:
    """By the columns that Python keeps for each of them."""
    low, high = asked(lambda ctx: ctx.subject.n > 1, lambda ctx: ctx.subject.n < 1, n=b"2")
    assert (low.text, high.text) == ("ctx.subject.n > 1", "ctx.subject.n < 1")
    k, j = 1, 1
    # fmt: off
    tests = [lambda ctx: True, lambda ctx: ctx.attempt if k else 1, lambda ctx: ctx.attempt if j else 1, lambda ctx: 1]
    # fmt: on
    texts = ["True", "ctx.attempt if k else 1", "ctx.attempt if j else 1", "1"]
    assert [told.text for told in asked(*tests)] == texts


def test_a_lambda_of_several_lines_is_told_on_one() -> None:
    """Comments are not part of it."""
    (told,) = asked(
        lambda ctx: (
            ctx.subject.n > 1  # not the first one
            and ctx.subject.m == 0
        ),
        n=b"2",
    )
    assert told.text == "ctx.subject.n > 1 and ctx.subject.m == 0"


def test_a_named_function_is_told_with_the_expression_that_it_returns() -> None:
    """If it does more than that, by its name and place only; its values are told either way."""

    def is_many(ctx: Any) -> bool:
        """Tell whether there are many."""
        return ctx.subject.n > LIMIT  # type: ignore[no-any-return]

    def is_few(ctx: Any) -> bool:
        thing = ctx.subject
        if thing.m:
            return False
        return not ctx.subject.n > LIMIT

    many, few = asked(is_many, is_few, n=b"5")
    assert (many.text, many.body) == ("is_many", "ctx.subject.n > LIMIT")
    assert (few.text, few.body, few.result) == ("is_few", "", "did not hold")
    assert few.values == (Value("thing.m", "0"), Value("ctx.subject.n", "5"), Value("LIMIT", "3"))


async def test_async_conditions_are_told_like_others() -> None:
    """After they were awaited."""
    rules = RuleSet("rules", Thing)

    async def is_many(ctx: Any) -> bool:
        await asyncio.sleep(0)
        return ctx.subject.n > 1  # type: ignore[no-any-return]

    @rules.on("go")
    @when(is_many, lambda ctx: is_many(ctx))
    def rule(ctx: Any) -> None:
        pass

    turn = begin(rules, event=Event("go", "thing:1"), stored={"n": b"2"}, explains=True)
    await turn.run()
    named, called = turn.outcome().runs[0].tests
    assert (named.text, named.result, named.values) == ("is_many", "held", (Value("ctx.subject.n", "2"),))
    assert (called.text, called.result) == ("is_many(ctx)", "held")


def test_partials_methods_and_objects_are_told_with_what_they_were_given() -> None:
    """The function behind them, and the values of what it is given beside the context."""

    def is_over(limit: int, ctx: Any, *, factor: int = 2) -> bool:
        return bool(ctx.subject.n > limit * factor)

    box = Boxed(1)
    partial, method, called = asked(functools.partial(is_over, 1, factor=1), box.is_over, box, n=b"2")
    assert partial.text == "is_over"
    assert partial.values == (Value("ctx.subject.n", "2"), Value("limit", "1"), Value("factor", "1"))
    assert (method.text, method.values[1]) == ("Boxed.is_over", Value("self.limit", "1"))
    assert (called.text, called.values[1]) == ("Boxed", Value("self.limit", "1"))


def test_a_decorated_function_is_told_as_itself() -> None:
    """As what `functools.wraps` says it is, but its result may be another one: no expression or operand is claimed."""

    def negated(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
        @functools.wraps(test)
        def negate(ctx: Any) -> bool:
            return not test(ctx)

        return negate

    @negated
    def is_many(ctx: Any) -> bool:
        return ctx.subject.n > 1 and bool(ctx.subject.n)

    (told,) = asked(is_many, n=b"2")
    assert (told.text, told.result, told.body, told.parts) == ("is_many, decorated", "did not hold", "", ())
    assert told.values == (Value("ctx.subject.n", "2"),)


def test_a_decorated_lambda_is_not_told_as_if_it_were_bare() -> None:
    """Its expression came to the other of the two."""

    def negated(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
        return functools.wraps(test)(lambda ctx: not test(ctx))

    test = negated(lambda ctx: ctx.subject.n > 1)
    (told,) = asked(test, n=b"2")
    assert (told.text, told.result) == ("ctx.subject.n > 1, decorated", "did not hold")
    assert condition_text(test).startswith("ctx.subject.n > 1, decorated (")


def test_without_source_the_place_is_told() -> None:
    """As for what was made by exec, or is not of Python code."""
    namespace: dict[str, Any] = {}
    exec("def made(ctx): return ctx.subject.n > 1\nalso = lambda ctx: True", namespace)
    named, nameless = asked(namespace["made"], namespace["also"], n=b"2")
    assert (named.text, named.place, named.values) == ("made", "<string>:1", ())
    assert (nameless.text, nameless.place) == ("lambda", "<string>:2")
    (builtin,) = asked(bool)
    assert (builtin.text, builtin.place) == ("bool", "")


def test_source_that_has_changed_since_is_not_told(tmp_path: Any) -> None:
    """What the file says now is not what runs."""
    file = tmp_path / "edited.py"
    file.write_text("test = lambda ctx: ctx.subject.n > 1\n")
    namespace: dict[str, Any] = {}
    exec(compile(file.read_text(), str(file), "exec"), namespace)
    for edited in ("ctx.subject.m > 1", "ctx.subject.n > 2", "ctx.subject. n > 1"):
        file.write_text(f"test = lambda ctx: {edited}\n")
        _views._VIEWS.clear()
        (told,) = asked(namespace["test"], n=b"2")
        assert (told.text, told.values) == ("lambda", ())


def test_the_same_code_in_two_files_is_told_with_its_own_file(tmp_path: Any) -> None:
    """Python takes such code to be equal."""
    places = []
    for name in ("one.py", "two.py"):
        (tmp_path / name).write_text("test = lambda ctx: ctx.subject.n > 1\n")
        namespace: dict[str, Any] = {}
        exec(compile((tmp_path / name).read_text(), str(tmp_path / name), "exec"), namespace)
        places += [told.place for told in asked(namespace["test"])]
    assert places == [f"{tmp_path}/one.py:1", f"{tmp_path}/two.py:1"]


def test_a_condition_has_a_text_where_nobody_took_notes() -> None:
    """It says which one did not hold."""
    assert condition_text(lambda ctx: ctx.payload["a"]).startswith('ctx.payload["a"] (')


# -- which operand it was --------------------------------------------------------------------------------------------


def parts(*tests: Callable[[Any], Any], data: Any = None, **stored: bytes) -> list[str]:
    first, *_ = asked(*tests, data=data, **stored)
    return [part.result for part in first.parts]


def test_the_operand_that_decided_is_told() -> None:
    """Of `and` the one that did not hold, of `or` the one that held; what comes after it was not reached."""
    (told,) = asked(lambda ctx: ctx.subject.n > 1 and ctx.subject.m > 1 and ctx.payload["x"], n=b"2")
    assert told.parts == (
        Part("ctx.subject.n > 1", "held"),
        Part("ctx.subject.m > 1", "did not hold"),
        Part('ctx.payload["x"]', "not reached"),
    )
    assert [value.text for value in told.values] == ["ctx.subject.n", "ctx.subject.m"]
    assert parts(lambda ctx: ctx.subject.m or ctx.subject.n or ctx.payload["x"], n=b"2") == [
        "did not hold",
        "held",
        "not reached",
    ]


def test_the_operand_that_raised_is_told() -> None:
    """With those before it."""
    (told,) = asked(lambda ctx: ctx.subject.m == 0 and ctx.payload["x"] > 1, data={"y": 1})
    assert (told.result, told.error) == ("raised", "KeyError: 'x'")
    assert [part.result for part in told.parts] == ["held", "raised"]
    assert Value("ctx.payload['x']", "KeyError: 'x'", raised=True) in told.values


def test_what_cannot_be_evaluated_again_is_told_if_it_follows() -> None:
    """A call is never repeated; that the whole did not hold, and all else did, says what it came to."""
    calls: list[Any] = []

    def odd(number: int) -> bool:
        calls.append(number)
        return number % 2 == 1

    assert parts(lambda ctx: ctx.subject.n > 1 and odd(ctx.subject.n), n=b"2") == ["held", "did not hold"]
    assert parts(lambda ctx: odd(ctx.subject.n) and ctx.subject.n > 1, n=b"3") == ["held", "held"]
    assert parts(lambda ctx: odd(ctx.subject.n) and ctx.subject.m > 1, n=b"3") == ["unknown", "did not hold"]
    assert parts(lambda ctx: odd(ctx.subject.n) or ctx.subject.m > 1, n=b"2") == ["did not hold", "did not hold"]
    assert parts(lambda ctx: odd(ctx.subject.n) or ctx.payload["x"], n=b"3") == ["unknown", "raised"]
    assert calls == [2, 3, 3, 2, 3]


def test_a_walrus_is_followed() -> None:
    """Its name stands for the value in the operands behind it."""
    (told,) = asked(lambda ctx: (n := ctx.subject.n) > 1 and n < 2, n=b"2")
    assert [part.result for part in told.parts] == ["held", "did not hold"]
    assert told.values == (Value("ctx.subject.n", "2"),)


@pytest.mark.parametrize(
    ("test", "results"),
    [
        (lambda ctx: ctx.event_type == "go" and ctx.subject.n in (1, 2), ["held", "held"]),
        (lambda ctx: ctx.payload.get("x") is None and "y" in ctx.payload, ["held", "held"]),
        (lambda ctx: len(ctx.subject.tags) == 0 and not ctx.subject.m, ["held", "held"]),
        (lambda ctx: "n" in ctx.subject and ctx.subject.get("m") + 1 > 1, ["held", "did not hold"]),
        (lambda ctx: ctx.payload["y"].startswith("a") and 1 < ctx.subject.n < 2, ["held", "did not hold"]),
        (lambda ctx: ctx.payload["z"][-1]["u"] == 5 or ctx.subject.m, ["held", "not reached"]),
        (lambda ctx: ctx.subject.price < 1 and math.pi > 3, ["held", "held"]),
        (lambda ctx: Level.LOW is not Level.HIGH and (1 if ctx.subject.n else 0), ["held", "held"]),
    ],
)
def test_operands_of_many_kinds_are_evaluated(test: Callable[[Any], Any], results: list[str]) -> None:
    """Comparisons, membership, lengths, arithmetic, methods of texts: what Python itself does."""
    assert parts(test, data={"y": "abc", "z": [{"u": 5}]}, n=b"2") == results


# -- the values --------------------------------------------------------------------------------------------------


def test_closures_defaults_and_globals_that_are_compared_with_are_told() -> None:
    """The way of writing a loop around conditions included."""
    bound = 4
    looped = [lambda ctx, least=least: ctx.subject.n > least for least in (1, 7)]  # type: ignore[misc]
    (told,) = asked(lambda ctx: bound < ctx.subject.n < LIMIT and Level.HIGH.value, n=b"9")
    assert told.values == (Value("bound", "4"), Value("ctx.subject.n", "9"), Value("LIMIT", "3"))
    assert values(looped[1], n=b"2") == {"ctx.subject.n": "2", "least": "7"}


def test_the_longest_expressions_are_told() -> None:
    """Not each step that leads there."""
    data = {"a": [{"b": {"c": 5}}], "key": "a"}
    assert values(lambda ctx: ctx.payload["a"][0]["b"].get("c", 1) > 3, data=data) == {
        "ctx.payload['a'][0]['b'].get('c', 1)": "5"
    }
    assert values(lambda ctx: ctx.payload[ctx.payload["key"]] and ctx.subject.ext.get("x") is None, data=data) == {
        "ctx.payload[ctx.payload['key']]": "[{'b': {'c': 5}}]",
        "ctx.payload['key']": "'a'",
        "ctx.subject.ext.get('x')": "None",
    }


def test_of_what_is_called_only_the_arguments_are_told() -> None:
    """Nobody's function is run again, nor a property of an object that is not a subject's."""
    box = Boxed(1)
    assert values(lambda ctx: math.floor(ctx.subject.n) > box.counted, n=b"2") == {"ctx.subject.n": "2"}
    assert box.asked == 1
    assert values(lambda ctx: any(tag == LIMIT for tag in ctx.subject.tags)) == {
        "LIMIT": "3",
        "ctx.subject.tags": "[]",
    }


def test_large_and_strange_values_are_cut() -> None:
    """Text, containers within containers, numbers, and what cannot be shown at all."""
    data = {"text": "ä\n" * 10_000, "list": [list(range(1000))] * 100, "number": 10**4000, "other": "\ud800"[:0] + "🙂"}
    found = values(
        lambda ctx: ctx.payload["text"] == ctx.payload["list"] == ctx.payload["number"] == ctx.payload["other"],
        data=data,
    )
    assert all(len(text) <= 120 for text in found.values())
    assert found["ctx.payload['text']"].startswith("'ä\\nä")
    assert found["ctx.payload['number']"] == "<an int of 13,288 bits>"
    assert found["ctx.payload['other']"] == "'🙂'"


def test_of_a_large_value_only_the_beginning_is_looked_at() -> None:
    """However many elements it has."""
    shown: list[int] = []

    class Noted:
        def __repr__(self) -> str:
            shown.append(1)
            return "noted"

    assert short([Noted()] * 100_000).startswith("[noted, noted, ")
    assert len(shown) < 30


def test_a_value_whose_repr_raises_is_told_to_do_so() -> None:
    """And nothing else comes of it."""
    broken = Broken()
    assert values(lambda ctx: broken is None) == {"broken": "<Broken, whose repr raised ZeroDivisionError>"}


def test_a_condition_that_changes_its_subject_is_told_after_that() -> None:
    """Looking keeps nothing and changes nothing: the rule sees the list that the condition has left."""
    rules = RuleSet("rules", Thing)

    @rules.on("go")
    @when(lambda ctx: ctx.subject.tags.append("x") or len(ctx.subject.tags) == 1)
    def rule(ctx: Any) -> None:
        ctx.subject.tags.append("y")

    turn = run(begin(rules, event=Event("go", "thing:1"), explains=True))
    (told,) = turn.outcome().runs[0].tests
    assert (told.result, told.values) == ("held", (Value("ctx.subject.tags", "['x']"),))
    assert committed(turn).write is not None
    assert committed(turn).write.set == {"tags": b'["x","y"]'}  # type: ignore[union-attr]


def test_what_cannot_be_told_at_all_is_no_failure() -> None:
    """A trigger whose repr raises, a condition that has no name: the rules run as they do where nobody takes notes."""

    class Odd:
        __call__ = bool

        def __getattr__(self, name: str) -> Any:
            raise ZeroDivisionError

    rules = RuleSet("rules", Thing)

    @rules.on("go")
    def go(ctx: Any) -> None:
        ctx.subject.n = 5

    @rules.on(changed("n", from_=Broken()))
    def react(ctx: Any) -> None:
        pass

    ran = run(begin(rules, event=Event("go", "thing:1"), explains=True)).outcome().runs
    assert [(one.rule, one.status) for one in ran] == [("rules.go", "fired"), ("rules.react", "skipped")]
    assert ran[1].tests[0].text == "(a trigger that cannot be told)"
    assert condition_text(Odd()) == "(a condition that cannot be told)"
    assert condition_asked(Odd(), cast(Any, None), "held").text == "(a condition that cannot be told)"


# -- all of a rule -------------------------------------------------------------------------------------------------


def test_all_conditions_are_told_in_order() -> None:
    """Those that were not reached as well, without values."""
    told = asked(lambda ctx: True, lambda ctx: ctx.subject.n, lambda ctx: ctx.subject.m)
    assert [(one.text, one.result) for one in told] == [
        ("True", "held"),
        ("ctx.subject.n", "did not hold"),
        ("ctx.subject.m", "not reached"),
    ]
    assert told[2].values == ()


def test_triggers_that_ask_for_values_are_told_like_conditions() -> None:
    """What they want, and what was there; if one is enough, the others were not reached."""
    rules = RuleSet("rules", Thing)

    @rules.on("go")
    def go(ctx: Any) -> None:
        ctx.subject.n = 5

    @rules.on(changed("n", to=lambda n: n > 7), changed("n", from_=0), changed("n", from_=1))
    @when(lambda ctx: ctx.new_value == ctx.subject.n)
    def react(ctx: Any) -> None:
        pass

    told = run(begin(rules, event=Event("go", "thing:1"), explains=True)).outcome().runs[1].tests
    seen = (Value("old value", "0"), Value("new value", "5"))
    assert [(one.kind, one.result, one.body, one.values) for one in told[:3]] == [
        ("trigger", "did not hold", "n > 7", seen),
        ("trigger", "held", "", seen),
        ("trigger", "not reached", "", ()),
    ]
    assert told[1].text == "changed('n', from_=0)"
    assert told[3].values == (Value("ctx.new_value", "5"), Value("ctx.subject.n", "5"))


def test_a_predicate_that_raises_is_told() -> None:
    """It is the trigger that has failed; the conditions were not reached."""
    rules = RuleSet("rules", Thing)

    @rules.on("go")
    def go(ctx: Any) -> None:
        ctx.subject.n = 5

    @rules.on(changed("n", to=lambda n: n / 0))
    @when(lambda ctx: True)
    def react(ctx: Any) -> None:
        pass

    for explains in (True, False):  # without notes, they are taken after the failure
        ran = run(begin(rules, event=Event("go", "thing:1"), explains=explains)).outcome().runs[1]
        assert [(one.kind, one.result) for one in ran.tests] == [("trigger", "raised"), ("condition", "not reached")]
        assert ran.tests[0].error == "ZeroDivisionError: division by zero"


def test_all_triggers_are_told_if_one_raises() -> None:
    """Those behind it were not reached."""
    rules = RuleSet("rules", Thing)

    @rules.on("go")
    def go(ctx: Any) -> None:
        ctx.subject.n = 5

    @rules.on(changed("n", from_=1), changed("n", to=lambda n: n / 0), changed("n", from_=0))
    @when(lambda ctx: True)
    def react(ctx: Any) -> None:
        pass

    ran = run(begin(rules, event=Event("go", "thing:1"), explains=True)).outcome().runs[1]
    assert [one.result for one in ran.tests] == ["did not hold", "raised", "not reached", "not reached"]
    assert [one.kind for one in ran.tests] == ["trigger", "trigger", "trigger", "condition"]


async def test_a_condition_that_took_too_long_is_told_so() -> None:
    """It raised nothing of its own: it was cut off. Notes or none, that is what is said."""
    rules = RuleSet("rules", Thing)

    @rules.on("go", timeout=0.01)
    @when(lambda ctx: asyncio.Event().wait())
    def rule(ctx: Any) -> None:
        pass

    for explains in (True, False):
        turn = begin(rules, event=Event("go", "thing:1"), explains=explains)
        await turn.run()
        (told,) = turn.outcome().runs[0].tests
        assert told.result == "raised"
        assert told.error.endswith("Error: cut off before it returned") or told.error.startswith("RuleTimeout: cut off")


def test_of_a_rule_that_fails_the_tests_are_told_without_notes() -> None:
    """Which held is known; the values are those after the failed rule was undone."""
    rules = RuleSet("rules", Thing)

    @rules.on("go")
    @when(lambda ctx: ctx.subject.n == 0)
    def fail(ctx: Any) -> None:
        ctx.subject.n = 7
        raise ValueError

    @rules.on("go")
    @when(lambda ctx: True, lambda ctx: ctx.payload["x"], lambda ctx: False)
    def fail_early(ctx: Any) -> None:
        pass

    late, early = run(begin(rules, event=Event("go", "thing:1"))).outcome().runs
    assert [(one.result, one.values) for one in late.tests] == [("held", (Value("ctx.subject.n", "0"),))]
    assert [one.result for one in early.tests] == ["held", "raised", "not reached"]
    assert early.condition is not None


# -- what it may not do ----------------------------------------------------------------------------------------------


class Meddling(Subject, prefix="meddling:"):
    """A subject whose computed properties are not as they should be."""

    tags: list[str] = []
    n: int = 0

    @property
    def marked(self) -> int:
        self.tags.append("x")
        return len(self.tags)

    @property
    def counted(self) -> int:
        self.n += 1
        return self.n

    def keys(self) -> list[str]:
        self.n += 1
        return ["n"]


async def test_computed_properties_are_read_again_from_a_copy() -> None:
    """One that changes its subject changes it once, as it does where nobody takes notes; one that writes is told to."""
    rules = RuleSet("rules", Meddling)

    @rules.on("go")
    @when(lambda ctx: ctx.subject.marked == 1 and ctx.subject.marked > 0)
    def mark(ctx: Any) -> None:
        pass

    @rules.on("go")
    @when(lambda ctx: ctx.subject.counted == 1)
    def count(ctx: Any) -> None:
        pass

    @rules.on("go")
    @when(lambda ctx: ctx.subject.keys() == ["n"])
    def own_method(ctx: Any) -> None:
        pass

    bus = EventBus(rules, store=create_memory_storage())
    receipt = await bus.emit("go", "meddling:1", explain=True)
    marked, counted, own = (run.tests[0].values for run in receipt.runs)
    assert own == ()
    assert marked == (Value("ctx.subject.marked", "3"),)
    assert receipt.runs[0].tests[0].parts == ()  # what they are now is not what they were
    assert counted[0].raised
    assert counted[0].value.startswith("SubjectStateError: meddling:1 is a read-only snapshot")
    assert (await bus.read("meddling:1")).dict() == {"tags": ["x", "x"], "n": 2}


def test_nothing_of_another_kind_is_called() -> None:
    """No method of an object, no property of one, no comparison or subscript that somebody has written."""

    class Trap:
        def __init__(self) -> None:
            self.plain = 1
            self.calls: list[str] = []

        def __eq__(self, other: object) -> bool:
            self.calls.append("eq")
            return True

        def __hash__(self) -> int:
            return 1

        def __getitem__(self, key: str) -> int:
            self.calls.append("item")
            return 1

        def __bool__(self) -> bool:
            self.calls.append("bool")
            return True

        def __getattr__(self, name: str) -> int:
            self.calls.append("getattr")
            return 1

        def get(self, key: str) -> int:
            self.calls.append("get")
            return 1

    trap = Trap()
    (told,) = asked(
        lambda ctx: trap == 1 and trap["x"] and trap and trap.other and trap.get("x") and trap.plain and ctx.subject.n,
        n=b"1",
    )
    assert trap.calls == ["eq", "item", "bool", "getattr", "get"]
    assert {part.result for part in told.parts} == {"held"}
    assert [value.text for value in told.values] == ["trap", "trap.plain", "ctx.subject.n"]


def _containers(inside: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inside) | st.dictionaries(st.text(), inside) | st.tuples(inside, inside)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), _containers))
def test_a_value_is_told_whatever_it_is(value: Any) -> None:
    """On one line, and no longer than that."""
    text = short(value)
    assert len(text) <= 1_200  # a sign that is not printable is written as several
    assert text.isprintable()
