"""What is measured: one event and one rule, with this or that around it.

Belongs here: data only; the workers know by the names how to make them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["BARE", "VARIANTS", "Variant", "variant_named"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way to set the bus up.

    Attributes:
        name: how it is called on the command line.
        title: how it is called in tables.
    """

    name: str
    title: str


BARE: Final = Variant(name="bare", title="the bare bus")
"""What all others are compared with."""

VARIANTS: Final = (
    Variant(name="empty", title="a middleware that only goes on, around the rule"),
    Variant(name="empty-event", title="the same around the event"),
    Variant(name="logging-off", title="Logging, its logger at WARNING"),
    Variant(name="logging", title="Logging, records dropped by a NullHandler"),
    Variant(name="logging-json", title="Logging, records as JSON to /dev/null"),
    Variant(name="tracing-none", title="Tracing, no SDK"),
    Variant(name="tracing-off", title="Tracing, SDK, sampler always_off"),
    Variant(name="tracing-on", title="Tracing, SDK, always_on, spans dropped"),
    Variant(name="metrics", title="Metrics"),
    Variant(name="error_events", title="ErrorEvents, nothing fails"),
    Variant(name="partitioning", title="Partitioning"),
    Variant(name="deduplication", title="Deduplication, its subject remembers 10 keys"),
    Variant(name="deduplication-full", title="Deduplication, its subject remembers 1,000 keys"),
    Variant(name="throttle", title="Throttle, never too soon"),
    Variant(name="fallback", title="Fallback, not needed"),
    Variant(name="circuit_breaker", title="CircuitBreaker, closed"),
    Variant(name="rate_limit", title="RateLimit, never reached"),
    Variant(name="bulkhead", title="Bulkhead, never full"),
    Variant(name="retry", title="Retry, nothing fails"),
    Variant(name="single_flight", title="SingleFlight, nobody waits"),
    Variant(name="timeout", title="Timeout, never reached"),
    Variant(name="chain-none", title="Logging (NullHandler), Tracing (no SDK), Metrics"),
    Variant(name="chain-off", title="Logging (NullHandler), Tracing (always_off), Metrics"),
    Variant(name="chain-on", title="Logging (NullHandler), Tracing (always_on), Metrics"),
)


def variant_named(name: str) -> Variant:
    """Return a variant.

    Raises:
        LookupError: there is none of this name.
    """
    for variant in (BARE, *VARIANTS):
        if variant.name == name:
            return variant
    raise LookupError(f"no variant {name!r}; there are {', '.join(variant.name for variant in VARIANTS)}")
