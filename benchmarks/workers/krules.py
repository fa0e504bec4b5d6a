"""The cases in krules-framework, in the set-up that costs it least.

Its default storage keeps nothing, one subject object serves all events, and properties are set in that object's
cache and never stored; the last two spare it work that onwhen does for every event. It logs nothing at the
default level. Only the peer's environment can import this.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from krules_core import __version__  # type: ignore[import-not-found]
from krules_core.container import KRulesContainer  # type: ignore[import-not-found]
from krules_core.event_types import SUBJECT_PROPERTY_CHANGED  # type: ignore[import-not-found]

from benchmarks.cases import LEVEL, MANY, MIDDLEWARES, SUBJECT, TEMPERATURES, THRESHOLD
from benchmarks.serving import Program, Tally, serve

_Decorator = Callable[[Callable[..., Awaitable[None]]], Any]


class _Handlers:
    """The four functions that a container offers, typed; and a subject of it."""

    def __init__(self) -> None:
        container = KRulesContainer()
        on, when, middleware, emit = container.handlers()
        self.on: Callable[..., _Decorator] = on
        self.when: Callable[..., _Decorator] = when
        self.middleware: _Decorator = middleware
        self.emit: Callable[..., Awaitable[None]] = emit
        self.subject: Any = container.subject(SUBJECT)


def one_rule() -> Program:
    krules, tally = _Handlers(), Tally()

    @krules.on("device.checked")
    @krules.when(lambda ctx: ctx.payload["level"] > THRESHOLD)
    async def count(ctx: Any) -> None:
        tally.fired += 1

    return Program(krules.emit, [("device.checked", krules.subject, {"level": LEVEL})], tally)


def many_rules() -> Program:
    krules, tally = _Handlers(), Tally()
    types = [f"device.checked.{number}" for number in range(MANY)]
    for event_type in types:

        @krules.on(event_type)
        @krules.when(lambda ctx: ctx.payload["level"] > THRESHOLD)
        async def count(ctx: Any) -> None:
            tally.fired += 1

    for _ in range(MIDDLEWARES):

        @krules.middleware
        async def go_on(ctx: Any, next: Any) -> None:
            await next()

    return Program(krules.emit, [(event_type, krules.subject, {"level": LEVEL}) for event_type in types], tally)


def reaction() -> Program:
    krules, tally = _Handlers(), Tally()

    @krules.on("device.measured")
    async def measure(ctx: Any) -> None:
        await ctx.subject.set("temperature", ctx.payload["temperature"])

    @krules.on(SUBJECT_PROPERTY_CHANGED)
    @krules.when(lambda ctx: ctx.property_name == "temperature" and ctx.new_value > THRESHOLD)
    async def count(ctx: Any) -> None:
        tally.fired += 1

    events = [("device.measured", krules.subject, {"temperature": temperature}) for temperature in TEMPERATURES]
    return Program(krules.emit, events, tally)


if __name__ == "__main__":
    serve("krules-framework", __version__, {"rule": one_rule, "many": many_rules, "reaction": reaction})
