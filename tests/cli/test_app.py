"""What APP may name, and what is said when it names something else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from onwhen.cli._app import find_app, make_bus
from onwhen.engine.bus import EventBus
from onwhen.engine.chain import name_of
from onwhen.engine.clock import VirtualClock
from onwhen.errors import AppNotFound, OnwhenError

HEAD = """
from onwhen import *
def some(name):
    made = RuleSet(name)
    @made.on("x")
    def rule(ctx):
        ctx.subject.set("by", name)
    return made
"""


@pytest.fixture
def module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Callable[[str], str]]:
    """Write a module into the current directory; return its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def write(body: str) -> str:
        name = f"app_{abs(hash(request.node.nodeid))}"
        (tmp_path / f"{name}.py").write_text(HEAD + body)
        return name

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("app_"):
            del sys.modules[name]


def rules(app: str) -> list[str]:
    return [rule.id for rule in make_bus(find_app(app), VirtualClock()).rulebook.rules()]


def refusal(app: str) -> str:
    with pytest.raises(AppNotFound) as caught:
        find_app(app)
    return str(caught.value)


def test_app_is_a_rule_set(module: Callable[[str], str]) -> None:
    """`module:attribute`."""
    name = module("a = some('a'); b = some('b')")
    assert rules(f"{name}:b") == ["b.rule"]


def test_app_is_a_list_of_rule_sets(module: Callable[[str], str]) -> None:
    """Or a tuple."""
    name = module("listed = [some('a'), some('b')]; pair = tuple(listed)")
    assert rules(f"{name}:listed") == rules(f"{name}:pair") == ["a.rule", "b.rule"]


def test_app_is_an_attribute_of_an_attribute(module: Callable[[str], str]) -> None:
    """Dots go further down."""
    name = module("class Shop:\n    orders = some('a')")
    assert rules(f"{name}:Shop.orders") == ["a.rule"]


def test_app_is_a_module_with_rule_sets(module: Callable[[str], str]) -> None:
    """All of them, each once, in order."""
    name = module("b = some('b'); a = some('a'); again = a")
    assert rules(name) == ["b.rule", "a.rule"]


async def test_app_is_a_bus_and_is_left_alone(module: Callable[[str], str]) -> None:
    """What is replayed goes into another store, on another clock."""
    name = module(
        "bus = EventBus(some('a'), store=create_memory_storage(), limits=Limits(max_depth=3)); other = some('b')"
    )
    original = find_app(name)
    assert isinstance(original, EventBus)
    assert original is find_app(f"{name}:bus")
    clock = VirtualClock()
    bus = make_bus(original, clock)
    await bus.emit("x", "s")
    assert (await bus.read("s")).get("by") == "a"
    assert (await original.read("s")).get("by") is None
    assert bus.clock is clock
    assert bus.limits.max_depth == 3


def test_app_is_a_container(module: Callable[[str], str]) -> None:
    """By name, or as the one container of a module; its bus beside it is no second one."""
    name = module(
        "container = Container()\n"
        "bus = container.event_bus()\n"
        "on, when, middleware, emit = container.handlers()\n"
        "@on('x')\n"
        "def rule(ctx): pass\n"
    )
    assert rules(name) == rules(f"{name}:container") == rules(f"{name}:bus") == [f"{name}.rule"]


def test_settings_come_from_the_environment(module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """For rule sets; a bus brings its own."""
    name = module("a = some('a')")
    monkeypatch.setenv("ONWHEN_MAX_DEPTH", "7")
    assert make_bus(find_app(name), None).limits.max_depth == 7
    monkeypatch.setenv("ONWHEN_MAX_DEPTH", "deep")
    with pytest.raises(OnwhenError, match="ONWHEN_MAX_DEPTH='deep': Input should be a valid integer"):
        make_bus(find_app(name), None)


def around(app: str) -> list[str]:
    """Names of the middleware that a command wraps around the rules of an app."""
    return [name_of(one) for one in make_bus(find_app(app)).rulebook.around("rule")]


def test_middleware_comes_from_the_environment(module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    """For rule sets; a bus is given what it does not use yet, inside of its own."""
    name = module(
        "from onwhen.middleware import Logging\n"
        "a = some('a')\n"
        "bus = EventBus(a, store=create_memory_storage())\n"
        "bus.use(Logging('mine'))\n"
    )
    assert (around(f"{name}:a"), around(name)) == ([], ["Logging"])
    monkeypatch.setenv("ONWHEN_MIDDLEWARE", '[{"timeout": {"seconds": 5}}, "logging"]')
    assert around(f"{name}:a") == ["Timeout", "Logging"]
    assert around(name) == ["Logging", "Timeout"]
    assert [name_of(one) for one in find_bus(name).rulebook.around("rule")] == ["Logging"], (
        "the app's own is left alone"
    )


def test_a_container_has_used_its_settings_already(
    module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is wrapped around twice."""
    monkeypatch.setenv("ONWHEN_MIDDLEWARE", "logging")
    assert around(module("container = Container(); container.include(some('a'))")) == ["Logging"]


def test_middleware_for_rules_that_an_app_does_not_have_is_refused(
    module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all rules are known, a name that fits none is a slip."""
    name = module("a = some('a')")
    monkeypatch.setenv("ONWHEN_MIDDLEWARE", '[{"timeout": {"seconds": 5, "only": ["a.*", "b.rule"]}}]')
    with pytest.raises(
        OnwhenError, match=r"ONWHEN_MIDDLEWARE: timeout: only 'b\.rule' fits no rule; there are a\.rule"
    ):
        make_bus(find_app(name))


def find_bus(name: str) -> EventBus:
    found = find_app(name)
    assert isinstance(found, EventBus)
    return found


def test_two_buses_need_a_choice(module: Callable[[str], str]) -> None:
    """The message says between which."""
    name = module(
        "one = EventBus(some('a'), store=create_memory_storage()); two = one.twin(store=create_memory_storage())"
    )
    assert refusal(name) == f"{name} holds 2 buses; say which one: {name}:one or {name}:two"


def test_a_missing_attribute_is_told_with_what_is_there(module: Callable[[str], str]) -> None:
    """Rule sets, buses and containers."""
    name = module("a = some('a'); bus = EventBus(a, store=create_memory_storage()); number = 3")
    assert refusal(f"{name}:order") == f"{name} has no attribute 'order'; it holds a, bus"


@pytest.mark.parametrize(
    ("body", "attribute", "told"),
    [
        ("x = 3", "x", "is of type int; needed is a rule set"),
        ("x = []", "x", "is an empty list; needed is"),
        ("x = [some('a'), 3]", "x", "is a list with 3 in it; needed is"),
        ("", "Subject", "is the class Subject; needed is"),
        ("", "Container", "is a class of containers; make one in the module"),
        ("x = RuleSet('x')", "x", "has no rules; include its rule sets"),
        ("x = EventBus(store=create_memory_storage())", "x", "has no rules; include its rule sets"),
    ],
)
def test_an_attribute_of_another_kind_is_refused(
    module: Callable[[str], str], body: str, attribute: str, told: str
) -> None:
    """And so is one that holds no rule."""
    assert told in refusal(f"{module(body)}:{attribute}")


def test_a_module_without_rule_sets_is_refused(module: Callable[[str], str]) -> None:
    """A bus that holds nothing is no better."""
    assert "holds no rule set, bus or container" in refusal("json")
    assert "has no rules" in refusal(module("bus = EventBus(store=create_memory_storage()); a = some('a')"))


def test_a_missing_module_is_refused(module: Callable[[str], str], tmp_path: Path) -> None:
    """A file name is told what its module is called."""
    module("")
    assert refusal("nowhere.rules:x").startswith(f"there is no module 'nowhere' in {tmp_path}")
    assert refusal("shop/rules.py").endswith("write shop.rules")
    assert refusal("./rules.py").endswith("write rules")
    assert "names no module" in refusal("a b")
    assert "names no module" in refusal("")
    assert "names no module" in refusal("shop:")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import nowhere", "No module named 'nowhere'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_raises_is_told_with_its_error(module: Callable[[str], str], body: str, told: str) -> None:
    """The error is the cause, so that its traceback can be shown."""
    name = module(body)
    with pytest.raises(AppNotFound, match=f"importing {name} failed: {told}") as caught:
        find_app(name)
    assert caught.value.__cause__ is not None
