"""Metrics for Prometheus: how much the engine does, what becomes of it, how long it takes, and what is left to do.

Belongs here: what is measured of which bus and worker, and where it is scraped. It must not know what is done with the
figures. What runs for each event only counts; everything else is worked out when somebody asks.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator, MutableMapping, Sequence
from functools import partial
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias
from weakref import ref

from prometheus_client import CollectorRegistry, ProcessCollector, make_asgi_app
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from onwhen.engine.bus import EventBus
from onwhen.engine.chain import Next, Scope
from onwhen.engine.context import Context
from onwhen.engine.tally import Tally
from onwhen.errors import RuleDefinitionError
from onwhen.middleware import _metrics_families as families
from onwhen.middleware._metrics_counts import Counts
from onwhen.middleware._options import positive_int
from onwhen.middleware.circuit_breaker import CircuitBreaker

if TYPE_CHECKING:
    from onwhen.engine.status import WorkerStatus

__all__ = ["BUCKETS", "AsgiApp", "Metrics", "Watched"]

BUCKETS: Final = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
)
"""Upper bounds of the buckets of durations, by default (seconds)."""

_MOST_TYPES: Final = 100

AsgiApp: TypeAlias = Callable[
    [
        MutableMapping[str, Any],
        Callable[[], Awaitable[MutableMapping[str, Any]]],
        Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ],
    Awaitable[None],
]
"""An application as ASGI 3.0 describes it."""


class Watched(Protocol):
    """What is asked how it fares: a `Worker`."""

    @property
    def bus(self) -> EventBus:
        """Whose turns it runs."""
        ...

    def status(self) -> WorkerStatus:
        """Return how it fares."""
        ...


class Metrics:
    """Counts and times what a bus, or a worker, does, for Prometheus to scrape.

        metrics = Metrics()
        bus.use(metrics)
        app.mount("/metrics", metrics.app())  # of any ASGI framework

    `use` wraps it around events and around rules, for durations, and it learns from the first event whose turn that is.
    `watch(bus)` shows all counts from the start, and costs less, but has no durations; `watch(worker)` adds how the
    worker and its partitions fare. Both together are fine. `onwhen worker --health-port` does that by itself.

    All that it is told of is added up. Give each bus one of its own if you want them apart, or if they run on several
    threads. docs/observability.md lists the metrics.

    Args:
        registry: where to be registered; by default in one of its own, together with figures of the process.
        buckets: upper bounds of the buckets of durations, ascending (seconds).
        max_event_types: how many types of events are told apart (a count). Those that no rule is for, and those that
            come when there are so many, are shown together as `(other)`.

    Attributes:
        registry: where it is registered.

    Raises:
        RuleDefinitionError: an argument cannot be used, or others are registered there under the same names.
    """

    scopes: Final[tuple[Scope, ...]] = ("event", "rule")

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        buckets: Sequence[float] = BUCKETS,
        max_event_types: int = _MOST_TYPES,
    ) -> None:
        self._bounds = _checked(buckets)
        self._counts = Counts(self._bounds, positive_int(max_event_types, "Metrics: max_event_types"))
        self._turns, self._rules = self._counts.turn_durations, self._counts.rule_durations
        self._tally: Tally | None = None
        self._buses: list[tuple[ref[EventBus], Tally]] = []
        self._gone = Tally()  # what buses have counted that are no more
        self._workers: list[ref[Watched]] = []
        if registry is None:
            registry = CollectorRegistry()
            ProcessCollector(registry=registry)
        self.registry = registry
        try:
            registry.register(_Collector(self))
        except ValueError as error:
            raise RuleDefinitionError(
                f"Metrics: the registry has these metrics already ({error}); share one Metrics, or use two registries"
            ) from error

    @classmethod
    def of(cls, bus: EventBus) -> Metrics:
        """Return the one that a bus uses already, or else a new one that watches it."""
        return next((one for one in _used_by(bus) if isinstance(one, cls)), None) or cls().watch(bus)

    # -- what is measured

    def watch(self, watched: EventBus | Watched) -> Metrics:
        """Count for a bus, or for a worker and its bus, from now on; return this. Doing it again does nothing.

        Raises:
            RuleDefinitionError: it is neither.
        """
        if isinstance(watched, EventBus):
            self._learn(watched)
        elif isinstance(getattr(watched, "bus", None), EventBus) and hasattr(watched, "status"):
            self._learn(watched.bus)
            self._workers = [known for known in self._workers if known() not in (None, watched)]
            self._workers.append(ref(watched))
        else:
            raise RuleDefinitionError(f"Metrics: watch({watched!r:.200}): give it an EventBus or a Worker")
        return self

    def _learn(self, bus: EventBus) -> None:
        self._tally = bus.tally
        if any(tally is bus.tally for _, tally in self._buses):
            return
        kept = [(ref(bus), bus.tally)]
        for known, tally in self._buses:
            if known() is not None:
                kept.append((known, tally))
            else:
                self._gone.add(tally)
        self._buses = kept
        bus.observe(partial(self._counts.note, bus.rulebook))

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on, and note how long that took."""
        bus = ctx.bus
        if bus.tally is not self._tally:
            self._learn(bus)
        rule, began = ctx.rule, perf_counter()
        try:
            await next()
        finally:
            seconds = perf_counter() - began
            if rule is not None:
                self._rules[rule.id].note(seconds)
            elif (known := self._turns.get(ctx.event_type)) is not None:
                known.note(seconds)
            else:
                self._turns[self._counts.type_of(ctx.event_type, ctx.subject.name, bus.rulebook)].note(seconds)

    # -- where it is scraped

    def app(self) -> AsgiApp:
        """Return an ASGI application that answers each request with the metrics.

        In the text format of Prometheus, or as OpenMetrics 1.0.0 if that is asked for; compressed if that is accepted;
        `?name[]=NAME` asks for single ones.
        """
        return _Application(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Go through the metrics, as they are now."""
        buses = [bus for known, _ in self._buses if (bus := known()) is not None]
        workers = [worker for known in self._workers if (worker := known()) is not None]
        tallies = [self._gone, *(tally for _, tally in self._buses)]
        rules = list(dict.fromkeys(rule.id for bus in buses for rule in bus.rulebook.rules()))
        yield from families.of_buses(tallies, sum(bus.pending for bus in buses), rules)
        yield from families.of_counts(self._counts, self._bounds, rules)
        yield from families.of_workers([worker.status() for worker in workers])
        yield from families.of_circuits(_circuits(buses))


class _Collector(Collector):
    """What a registry asks."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        """Go through the metrics, as they are now."""
        return self._metrics.collect()

    def describe(self) -> Iterator[Metric]:
        """Go through the metrics that there can be."""
        return (spec.family() for spec in families.ALL)


class _Application:
    """An ASGI application that is an object: routers take functions to be handlers of their own kind."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._app: AsgiApp = make_asgi_app(registry)

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        await self._app(scope, receive, send)


def _used_by(bus: EventBus) -> Iterator[object]:
    """Go through all middleware of a bus, each as often as it is used."""
    book = bus.rulebook
    yield from book.around("event")
    yield from book.around("rule")
    for rule in book.rules():
        yield from rule.middleware


def _circuits(buses: Sequence[EventBus]) -> Iterator[tuple[str, str]]:
    """Go through circuits: what each is called, and its state; those with keys of the user's are called alike."""
    used = {id(one): one for bus in buses for one in _used_by(bus)}
    for breaker in used.values():
        if isinstance(breaker, CircuitBreaker):
            for key, circuit in breaker.states().items():
                yield breaker.label or key, circuit.status


def _checked(buckets: Sequence[float]) -> tuple[float, ...]:
    bounds = tuple(buckets) if isinstance(buckets, Sequence) and not isinstance(buckets, str) else ()
    are_numbers = all(type(bound) in (int, float) and 0 < bound < math.inf for bound in bounds)
    if not bounds or not are_numbers or any(a >= b for a, b in pairwise(bounds)):
        raise RuleDefinitionError(
            f"Metrics: buckets={buckets!r:.200} must be numbers of seconds, ascending, at least one"
        )
    return tuple(map(float, bounds))
