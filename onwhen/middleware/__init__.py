"""Middleware that comes with the engine, one file a behaviour; each is switched on with `bus.use(...)`.

What is here is wrapped around rules or events by the chain, like a user's own middleware. It must not be known to the
engine. Nothing is imported before it is asked for (PEP 562): who logs needs no OpenTelemetry.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from onwhen.middleware.bulkhead import Bulkhead
    from onwhen.middleware.circuit_breaker import CircuitBreaker
    from onwhen.middleware.debounce import Debounce
    from onwhen.middleware.debug import Debug
    from onwhen.middleware.deduplication import Deduplication
    from onwhen.middleware.error_events import ErrorEvents
    from onwhen.middleware.fallback import Default, Fallback, LastGood
    from onwhen.middleware.logging import Logging
    from onwhen.middleware.metrics import Metrics
    from onwhen.middleware.partitioning import Partitioning
    from onwhen.middleware.rate_limit import RateLimit
    from onwhen.middleware.retry import Retry
    from onwhen.middleware.single_flight import SingleFlight
    from onwhen.middleware.throttle import Throttle
    from onwhen.middleware.timeout import Timeout
    from onwhen.middleware.tracing import Tracing

__all__ = [
    "Bulkhead",
    "CircuitBreaker",
    "Debounce",
    "Debug",
    "Deduplication",
    "Default",
    "ErrorEvents",
    "Fallback",
    "LastGood",
    "Logging",
    "Metrics",
    "Partitioning",
    "RateLimit",
    "Retry",
    "SingleFlight",
    "Throttle",
    "Timeout",
    "Tracing",
]

_HOME: Final = {
    "Bulkhead": "bulkhead",
    "CircuitBreaker": "circuit_breaker",
    "Debounce": "debounce",
    "Debug": "debug",
    "Deduplication": "deduplication",
    "Default": "fallback",
    "ErrorEvents": "error_events",
    "Fallback": "fallback",
    "LastGood": "fallback",
    "Logging": "logging",
    "Metrics": "metrics",
    "Partitioning": "partitioning",
    "RateLimit": "rate_limit",
    "Retry": "retry",
    "SingleFlight": "single_flight",
    "Throttle": "throttle",
    "Timeout": "timeout",
    "Tracing": "tracing",
}


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
