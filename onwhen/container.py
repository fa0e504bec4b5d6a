"""The composition root: a dependency-injector container that puts a bus together.

Belongs here: which part is made of which. It must not hold logic; every provider can be overridden.
"""

from __future__ import annotations

from dependency_injector import containers, providers

from onwhen.engine.bus import EventBus
from onwhen.engine.clock import Clock, SystemClock
from onwhen.engine.handlers import Handlers
from onwhen.engine.limits import Limits
from onwhen.engine.rules import RuleSet
from onwhen.engine.store import Store
from onwhen.engine.subjects import Subject
from onwhen.errors import ContainerError
from onwhen.middleware._registry import switch_on
from onwhen.settings import Settings
from onwhen.storage import create_storage

__all__ = ["Container"]


def _storage(settings: Settings) -> Store:
    return create_storage(settings.store, **settings.storage())


def _limits(settings: Settings) -> Limits:
    return settings.limits()


def _bus(settings: Settings, store: Store, clock: Clock, limits: Limits) -> EventBus:
    for provider, value, verb in (("subject_storage", store, "commit"), ("clock", clock, "alarm")):
        if isinstance(value, type) or not hasattr(value, verb):
            raise ContainerError(
                f"the provider {provider!r} gives {value!r:.200}, which is not what a bus needs; override it with "
                f"providers.Object(...) around one that is made, or with a provider that makes one"
            )
    bus = EventBus(store=store, clock=clock, limits=limits, source=settings.source)
    switch_on(bus, settings.middleware)
    return bus


def _handlers(bus: EventBus) -> Handlers:
    return bus.handlers()


def _subject(bus: EventBus, name: str) -> Subject:
    return bus.subject(name)


def _include(bus: EventBus, *rule_sets: RuleSet) -> None:
    bus.include(*rule_sets)


def _exclude(bus: EventBus, *rule_sets: RuleSet) -> None:
    bus.exclude(*rule_sets)


class Container(containers.DeclarativeContainer):
    """One engine. Make as many as you like: they share nothing.

    Providers, each called to get what it provides, each to be overridden before the first use:
        settings: `Settings`, from the environment.
        clock: where the time comes from.
        limits: what the engine allows, from the settings.
        subject_storage: the store, where the settings say, in memory by default; override it with
            `providers.Object(create_..._storage())`.
        event_bus: the `EventBus`, one per container, with the middleware that the settings name.
        handlers: `on, when, middleware, emit = container.handlers()`.
        subject: `container.subject("device:7")`, to be worked on outside a turn.
        include, exclude: take rule sets in and out.

    A subclass made with plain inheritance keeps the providers of its base wired to the base's; to change one,
    use `override`, or `@containers.copy(Container)` (dependency-injector documentation, "Containers").
    """

    settings = providers.Singleton(Settings)
    clock = providers.Singleton(SystemClock)
    limits = providers.Singleton(_limits, settings)
    subject_storage = providers.Singleton(_storage, settings)
    event_bus = providers.Singleton(_bus, settings, subject_storage, clock, limits)
    handlers = providers.Callable(_handlers, event_bus)
    subject = providers.Callable(_subject, event_bus)
    include = providers.Callable(_include, event_bus)
    exclude = providers.Callable(_exclude, event_bus)
