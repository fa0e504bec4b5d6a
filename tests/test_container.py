"""The container: what it provides, what can be overridden, and that containers share nothing."""

import sys
import types
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from dependency_injector import containers, providers
from dependency_injector.wiring import Provide, inject

from onwhen import (
    SUBJECT_PROPERTY_CHANGED,
    Container,
    EventBus,
    Limits,
    RuleSet,
    Settings,
    Subject,
    SystemClock,
    VirtualClock,
    create_memory_storage,
)
from onwhen.errors import ContainerError, SettingError
from onwhen.storage import MemoryStore

NOON = datetime(2026, 11, 5, 12, tzinfo=UTC)


async def test_what_a_user_of_krules_writes() -> None:
    """Decorators and `emit` from `handlers()`, a subject outside a turn, an event with a receipt."""
    container = Container()
    on, when, middleware, emit = container.handlers()
    seen = []

    @middleware
    async def watch(ctx: Any, next: Any) -> None:
        seen.append(ctx.event_type)
        await next()

    @on(SUBJECT_PROPERTY_CHANGED)
    @when(lambda ctx: ctx.property_name == "temperature" and ctx.new_value > 80)
    async def overheated(ctx: Any) -> None:
        ctx.subject.set("status", "alarm")
        ctx.subject.set("alarms", lambda n: (n or 0) + 1, muted=True)
        await ctx.emit("device.overheated", {"at": ctx.new_value})

    @on("device.checked")
    async def checked(ctx: Any) -> None:
        ctx.subject.set("by", ctx.payload["by"])

    async with container.subject("device:7") as device:
        device.set("temperature", 91)
    receipt = await emit("device.checked", "device:7", {"by": "ops"})
    assert receipt.fired == (f"{__name__}.checked",)
    device = await container.event_bus().read("device:7")
    assert device.dict() == {"temperature": 91, "status": "alarm", "alarms": 1, "by": "ops"}
    assert seen == [SUBJECT_PROPERTY_CHANGED, "device.checked"]


async def test_middleware_around_the_whole_event() -> None:
    """`@middleware(scope="event")`."""
    _, _, middleware, emit = Container().handlers()
    seen = []

    @middleware(scope="event")
    async def watch(ctx: Any, next: Any) -> None:
        seen.append(ctx.rule)
        await next()

    await emit("anything", "a")
    assert seen == [None]


async def test_rule_sets_are_taken_in_and_out() -> None:
    """`include` and `exclude` are the bus's."""
    container, rules = Container(), RuleSet("rules")

    @rules.on("go")
    def go(ctx: Any) -> None: ...

    container.include(rules)
    assert (await container.event_bus().emit("go", "a")).fired == ("rules.go",)
    container.exclude(rules)
    assert (await container.event_bus().emit("go", "a")).fired == ()


async def test_modules_share_a_containers_bus() -> None:
    """Each call of `handlers` is for the same bus; rules are named after the module they stand in."""
    container = Container()
    for name in ("desk", "shop"):
        module = types.ModuleType(name)
        module.__dict__["on"] = container.handlers().on
        exec("@on('go')\ndef rule(ctx): pass\n@on('go')\ndef other(ctx): pass", module.__dict__)
    receipt = await container.handlers().emit("go", "a")
    assert receipt.fired == ("desk.rule", "desk.other", "shop.rule", "shop.other")


async def test_containers_share_nothing() -> None:
    """Two in one process have rules, stores, clocks and settings of their own."""
    one, two = Container(), Container()
    two.clock.override(VirtualClock(NOON))
    on, _, _, emit = one.handlers()

    @on("go")
    def go(ctx: Any) -> None:
        ctx.subject.set("n", 1)

    assert len((await emit("go", "a")).fired) == 1
    assert (await two.handlers().emit("go", "a")).fired == ()
    assert "n" not in await two.event_bus().read("a")
    for name in ("settings", "limits", "subject_storage", "event_bus"):
        assert getattr(one, name)() is getattr(one, name)()
        assert getattr(one, name)() is not getattr(two, name)()
    assert isinstance(one.clock(), SystemClock)


# -- overriding


async def test_the_store_is_overridden() -> None:
    """By one that is made, or by a provider that makes one; a rule may look at it through the bus."""
    store = create_memory_storage(partitions=4)
    for override in (store, providers.Object(store), providers.Singleton(lambda: store)):
        container = Container()
        container.subject_storage.override(override)
        assert container.event_bus().store is store
        async with container.subject("a") as subject:
            subject.set("n", lambda n: (n or 0) + 1)
    assert (await container.event_bus().read("a")).get("n") == 3


async def test_the_settings_say_where_all_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file, and what is in it is there for the next container; the dedup window counts for it as well."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ONWHEN_STORE", "sqlite:///desk.db")
    for expected in (None, 1):
        container = Container()
        async with container.event_bus() as bus:
            assert (await bus.read("a")).get("n") == expected
            async with container.subject("a") as subject:
                subject.set("n", 1)
    assert (tmp_path / "desk.db").exists()
    forgetful = Container(settings=Settings(dedup_window=1))
    async with forgetful.event_bus() as bus:
        told = [(await bus.emit("go", "a", id=id)).status for id in ("1", "1", "2", "1")]
    assert told == ["handled", "duplicate", "handled", "handled"]


def test_a_store_that_is_not_known_is_an_error_that_says_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the store is first needed; nothing is made before."""
    monkeypatch.setenv("ONWHEN_STORE", "mysql://localhost")
    with pytest.raises(SettingError, match=r"mysql://localhost.*known are memory://"):
        Container().event_bus()


async def test_the_clock_is_overridden() -> None:
    """Timers, `ctx.now` and the events' times follow it."""
    container = Container(clock=providers.Singleton(VirtualClock, NOON))
    receipt = await container.handlers().emit("go", "a")
    assert receipt.event.time == NOON


def test_settings_and_limits_are_overridden() -> None:
    """Settings lead to limits, the source and the dedup window; limits may be given themselves."""
    container = Container()
    container.settings.override(providers.Object(Settings(max_depth=3, source="/desk", dedup_window=0)))
    bus = container.event_bus()
    assert (bus.limits.max_depth, bus.source) == (3, "/desk")
    assert isinstance(bus.store, MemoryStore)
    assert bus.store._dedup_window == 0
    container = Container(limits=Limits(max_depth=4))
    assert container.event_bus().limits.max_depth == 4


async def test_the_bus_is_overridden() -> None:
    """Subjects, handlers and rule sets are then those of the other bus."""
    bus, container = EventBus(store=create_memory_storage(), source="/mine"), Container()
    with container.event_bus.override(bus):
        assert (await container.handlers().emit("go", "a")).event.source == "/mine"
        async with container.subject("a") as subject:
            subject.set("n", 1)
    assert (await bus.read("a")).get("n") == 1
    assert container.event_bus() is not bus


def test_handlers_and_subject_are_overridden() -> None:
    """As every other provider."""
    container = Container()
    container.handlers.override(providers.Object("handlers"))
    container.subject.override(providers.Callable(lambda name: f"<{name}>"))
    assert (container.handlers(), container.subject("a")) == ("handlers", "<a>")
    container.reset_override()
    assert isinstance(container.subject("a"), Subject)


def test_an_override_is_taken_back() -> None:
    """As a context manager, and with `reset_override`; singletons are made anew with `reset`."""
    container = Container()
    with container.clock.override(VirtualClock(NOON)):
        assert container.event_bus().clock.now() == NOON
    container.event_bus.reset()
    assert isinstance(container.event_bus().clock, SystemClock)


def test_another_container_overrides_several() -> None:
    """`@containers.override` and `container.override_providers`, as in dependency-injector's own documentation."""

    class Testing(containers.DeclarativeContainer):
        clock = providers.Singleton(VirtualClock, NOON)

    container = Container()
    container.override(Testing())
    assert container.event_bus().clock.now() == NOON
    container = Container()
    container.override_providers(clock=providers.Object(VirtualClock(NOON)))
    assert container.event_bus().clock.now() == NOON


def test_a_container_with_more_in_it() -> None:
    """A copy of `Container` takes new providers in place of old ones; a plain subclass adds some."""

    @containers.copy(Container)
    class Copied(Container):
        clock = providers.Singleton(VirtualClock, NOON)

    class Extended(Container):
        greeting = providers.Factory(str, "hello")

    assert Copied().event_bus().clock.now() == NOON
    assert isinstance(Extended().event_bus(), EventBus)
    assert Extended().greeting() == "hello"


def test_a_container_inside_another() -> None:
    """An application's own container holds one, and hands its parts on."""

    class Service:
        def __init__(self, bus: EventBus) -> None:
            self.bus = bus

    class Application(containers.DeclarativeContainer):
        rules = providers.Container(Container)
        service = providers.Factory(Service, bus=rules.event_bus)

    application = Application()
    assert application.service().bus is application.rules.event_bus()
    assert Application().service().bus is not application.service().bus


async def test_injection_by_wiring() -> None:
    """`@inject` and `Provide[Container.event_bus]` in a module of the application."""
    container = Container()

    @inject
    async def report(name: str, bus: EventBus = Provide[Container.event_bus]) -> Any:
        return (await bus.emit("go", name)).status

    module = types.ModuleType("wired")
    report.__module__ = module.__name__
    module.__dict__["report"] = report
    sys.modules["wired"] = module
    try:
        container.wire(modules=[module])
        assert await module.__dict__["report"]("a") == "handled"
    finally:
        container.unwire()
        del sys.modules["wired"]


async def test_the_life_of_a_bus_as_a_resource() -> None:
    """dependency-injector's resources open and close it with the application."""

    async def opened(bus: EventBus) -> AsyncIterator[EventBus]:
        async with bus:
            yield bus

    class Application(containers.DeclarativeContainer):
        rules = providers.Container(Container)
        bus = providers.Resource(opened, rules.event_bus)

    application = Application()
    await application.init_resources()  # type: ignore[misc]
    bus = await application.bus()
    assert (await bus.emit("go", "a")).status == "handled"
    await application.shutdown_resources()  # type: ignore[misc]
    with pytest.raises(RuntimeError, match="closed"):
        await bus.emit("go", "a")


# -- mistakes


@pytest.mark.parametrize("wrong", [create_memory_storage, MemoryStore, "redis://localhost", None])
def test_a_store_that_is_none_is_an_error_that_says_so(wrong: Any) -> None:
    """A function or a class where the store itself is needed, most often."""
    container = Container()
    container.subject_storage.override(providers.Object(wrong))
    with pytest.raises(ContainerError, match=r"subject_storage.*providers\.Object"):
        container.event_bus()


def test_a_clock_that_is_none_is_an_error_that_says_so() -> None:
    """The class in place of a clock."""
    container = Container(clock=providers.Object(VirtualClock))
    with pytest.raises(ContainerError, match="clock"):
        container.event_bus()


def test_bad_settings_are_an_error_when_they_are_first_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when the container is made; and they can be corrected."""
    monkeypatch.setenv("ONWHEN_MAX_DEPTH", "deep")
    container = Container()
    with pytest.raises(SettingError, match="ONWHEN_MAX_DEPTH"):
        container.event_bus()
    monkeypatch.setenv("ONWHEN_MAX_DEPTH", "5")
    assert container.event_bus().limits.max_depth == 5
