"""The worker: one event to one rule, with one variant of what is around it.

Each is made as the documentation shows it, so the figures are about what people write.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from benchmarks.cases import LEVEL, SUBJECT, THRESHOLD
from benchmarks.middleware.variants import BARE, VARIANTS
from benchmarks.serving import Program, Tally, serve
from onwhen import Context, EventBus, RuleSet, Subject, __version__, create_memory_storage, when
from onwhen import middleware as there  # so that a worker imports what it measures, and no more

_ENOUGH: Final = 1_000_000
"""A rate, and a number of runs at a time, that no round comes near to."""


def program(around: Callable[[EventBus], None]) -> Program:
    """One event, one async rule, a condition that holds."""
    rules, tally = RuleSet("devices"), Tally()

    @rules.on("device.checked")
    @when(lambda ctx: ctx.payload["level"] > THRESHOLD)
    async def count(ctx: Context[Subject]) -> None:
        tally.fired += 1

    bus = EventBus(rules, store=create_memory_storage())
    around(bus)
    return Program(bus.emit, [("device.checked", SUBJECT, {"level": LEVEL})], tally)


async def _go_on(ctx: Any, next: Any) -> None:
    await next()


def _logging(bus: EventBus, handler: logging.Handler | None = None, level: int = logging.INFO) -> None:
    logger = logging.getLogger("onwhen")
    logger.propagate = False
    logger.setLevel(level)
    logger.addHandler(handler or logging.NullHandler())
    bus.use(there.Logging())


def _logging_json(bus: EventBus) -> None:
    from onwhen.middleware.logging import JsonFormatter

    handler = logging.StreamHandler(open(os.devnull, "w"))  # noqa: SIM115 - for as long as the process lives
    handler.setFormatter(JsonFormatter())
    _logging(bus, handler)


def _tracing(bus: EventBus, sampler: str = "") -> None:
    if not sampler:
        bus.use(there.Tracing())
        return
    from opentelemetry.sdk.trace import TracerProvider, sampling
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    class Dropped(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            return SpanExportResult.SUCCESS

    provider = TracerProvider(sampler=sampling.ALWAYS_ON if sampler == "on" else sampling.ALWAYS_OFF)
    provider.add_span_processor(SimpleSpanProcessor(Dropped()))
    bus.use(there.Tracing(provider))


def _chain(bus: EventBus, sampler: str) -> None:
    _logging(bus)
    _tracing(bus, sampler)
    bus.use(there.Metrics())


async def _instead(ctx: Any) -> None: ...


_AROUND: Final[dict[str, Callable[[EventBus], None]]] = {
    "bare": lambda bus: None,
    "empty": lambda bus: bus.use(_go_on),
    "empty-event": lambda bus: bus.use(_go_on, scope="event"),
    "logging-off": partial(_logging, level=logging.WARNING),
    "logging": _logging,
    "logging-json": _logging_json,
    "tracing-none": _tracing,
    "tracing-off": partial(_tracing, sampler="off"),
    "tracing-on": partial(_tracing, sampler="on"),
    "metrics": lambda bus: bus.use(there.Metrics()),
    "error_events": lambda bus: bus.use(there.ErrorEvents()),
    "partitioning": lambda bus: bus.use(there.Partitioning(16, own="0-15")),
    "deduplication": lambda bus: bus.use(there.Deduplication(limit=10)),
    "deduplication-full": lambda bus: bus.use(there.Deduplication(limit=1_000)),
    "throttle": lambda bus: bus.use(there.Throttle(1 / _ENOUGH)),
    "fallback": lambda bus: bus.use(there.Fallback(_instead)),
    "circuit_breaker": lambda bus: bus.use(there.CircuitBreaker()),
    "rate_limit": lambda bus: bus.use(there.RateLimit(_ENOUGH)),
    "bulkhead": lambda bus: bus.use(there.Bulkhead(_ENOUGH)),
    "retry": lambda bus: bus.use(there.Retry()),
    "single_flight": lambda bus: bus.use(there.SingleFlight(key=lambda ctx: ctx.subject.name)),
    "timeout": lambda bus: bus.use(there.Timeout(60)),
    "chain-none": partial(_chain, sampler=""),
    "chain-off": partial(_chain, sampler="off"),
    "chain-on": partial(_chain, sampler="on"),
}
assert list(_AROUND) == [variant.name for variant in (BARE, *VARIANTS)]


if __name__ == "__main__":
    serve("onwhen", __version__, {name: partial(program, around) for name, around in _AROUND.items()})
