"""The rules of a help desk that calls a customer service over HTTP, with or without protection.

Belongs here: what the desk does, and which middleware is around it. The functions are the same either way: they ask,
and say what they did with the answer.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from time import monotonic
from typing import Any, Final

from examples.resilient_calls.client import CallFailed, Customer, CustomerService, may_pass
from onwhen import Context, Middleware, RetryPolicy, RuleSet, Subject, when
from onwhen.errors import CircuitOpen
from onwhen.middleware import (
    Bulkhead,
    CircuitBreaker,
    Deduplication,
    Default,
    Fallback,
    LastGood,
    RateLimit,
    Retry,
    SingleFlight,
    Timeout,
)

__all__ = ["BURST", "CONCURRENT", "FLAGS", "RATE", "Desk", "Directory", "Flags", "Ticket", "desk"]

RATE: Final = 40
"""How many calls we make in a second; the service takes 60."""
BURST: Final = 5
CONCURRENT: Final = 8
"""How many of our calls may be under way."""
LATER: Final = timedelta(seconds=1)
"""When we ask again about a customer for whom we had to guess."""
GOOD_FOR: Final = 1.0  # seconds that an answer of the service is remembered
FLAGS: Final = "flags:desk"
AGAIN: Final = RetryPolicy(
    attempts=3, delay=timedelta(seconds=0.15), max_delay=timedelta(seconds=1), jitter=0.5, retry_on=may_pass
)
"""What a failure leads to, protected or not: up to three runs, later and later, spread by chance; never for a 4xx."""


class Ticket(Subject, prefix="ticket:"):
    customer: str | None = None
    level: str | None = None
    level_from: str | None = None
    guesses: int = 0
    purchases: int | None = None
    told: int = 0


class Flags(Subject, prefix="flags:"):
    degraded: bool = False
    switches: int = 0


class Directory:
    """Who a customer is: asked of the service, and remembered for a while if that is wanted.

    Args:
        service: whom it asks.
        remembers: make equal questions that are under way at the same time one call, and keep its answer.
    """

    def __init__(self, service: CustomerService, *, remembers: bool) -> None:
        self._service = service
        self._flights = SingleFlight() if remembers else None
        self._known: dict[str, tuple[float, Customer]] = {}

    async def ask(self, name: str) -> Customer:
        """Return a customer, as the service answers now."""
        if self._flights is None:
            return await self._service.customer(name)
        customer = await self._flights.run(name, lambda: self._service.customer(name))
        self._known[name] = monotonic() + GOOD_FOR, customer
        return customer

    def recall(self, name: str) -> Customer | None:
        """Return a customer of whom there is an answer that is still good."""
        until, customer = self._known.get(name, (0.0, None))
        return customer if monotonic() < until else None

    async def warm(self, names: Sequence[str]) -> None:
        """Ask for some customers before anybody needs them; without a cache there is nothing to warm."""
        for name in names if self._flights is not None else ():
            with suppress(CallFailed):  # whoever needs this one will see
                await self.ask(name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """The rule sets, and whom they ask."""

    rule_sets: tuple[RuleSet, ...]
    directory: Directory


def desk(service: CustomerService, *, protected: bool) -> Desk:
    """Return the rules, with what protects them or bare."""
    directory = Directory(service, remembers=protected)
    tickets, flags = RuleSet("tickets", subject=Ticket, retry=AGAIN), RuleSet("flags", subject=Flags)
    around = _protection(service) if protected else _Around()

    @tickets.on("ticket.*", priority=1)
    @when(is_in_the_dark, lambda ctx: directory.recall(ctx.payload["customer"]) is not None)
    def recall(ctx: Context[Ticket]) -> None:
        """Somebody has asked a moment ago. A rule of its own, so that no cached answer tries out a circuit."""
        known = directory.recall(ctx.payload["customer"])
        ctx.subject.customer = ctx.payload["customer"]
        ctx.subject.level = known.level if known is not None else None
        ctx.subject.level_from = "cache"

    @tickets.on("ticket.*", middleware=around.look_up)
    @when(is_in_the_dark)
    async def look_up(ctx: Context[Ticket]) -> None:
        """Who is this, and what have we promised them? No ticket can do without."""
        ctx.subject.customer = ctx.payload["customer"]
        ctx.subject.level = (await directory.ask(ctx.payload["customer"])).level
        ctx.subject.level_from = "service"

    @tickets.on("ticket.take_in_charge_ticket", middleware=around.history)
    @when(all_is_well)
    async def history(ctx: Context[Ticket]) -> None:
        """Nice to have, so nobody asks while the service is in trouble."""
        ctx.subject.purchases = await service.history(ctx.payload["customer"])

    @tickets.on("ticket.resolve_ticket", middleware=around.tell)
    async def tell(ctx: Context[Ticket]) -> None:
        """The customer has to hear of it: once, and however late."""
        await service.tell(ctx.subject.name, step_of(ctx), key=ctx.idempotency_key)
        ctx.subject.told += 1

    @flags.on("flags.degrade")
    @when(lambda ctx: ctx.subject.degraded != ctx.payload["to"])
    def switch(ctx: Context[Flags]) -> None:
        ctx.subject.degraded = ctx.payload["to"]
        ctx.subject.switches += 1

    return Desk(rule_sets=(tickets, flags, _switches()), directory=directory)


def is_in_the_dark(ctx: Context[Ticket]) -> bool:
    """Nobody has said yet who this is, or we had to guess."""
    return ctx.subject.level is None or ctx.subject.level_from == "default"


async def all_is_well(ctx: Context[Ticket]) -> bool:
    """The feature flag: what is only nice to have is left out while the desk is degraded."""
    flags = await ctx.read(FLAGS)
    return not flags.get("degraded")


def step_of(ctx: Context[Ticket]) -> str:
    """A step of a ticket: the same one, under however many ids the ticket system sends it."""
    assert ctx.event.time is not None
    return f"{ctx.event_type} {ctx.event.time.isoformat()}"


# -- what protects them --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Around:
    """What is wrapped around each rule, outermost first."""

    look_up: Sequence[Middleware] = ()
    history: Sequence[Middleware] = ()
    tell: Sequence[Middleware] = ()


def _protection(service: CustomerService) -> _Around:
    """Return what is around each rule; it is one service that they call, so they share one circuit and one rate.

    Nothing waits inside of the circuit: a rule that has no place, or comes too soon, is put off, and asks the circuit
    again when it comes back. One that waited there would make its call although the circuit has opened meanwhile.
    """

    async def ask_backup(ctx: Context[Ticket]) -> None:
        ctx.subject.customer = ctx.payload["customer"]
        ctx.subject.level = (await service.customer(ctx.payload["customer"], backup=True)).level

    breaker = CircuitBreaker("customers", failures=4, open_for=0.5, counts=may_pass, probe_for=1)
    again = Retry(attempts=2, delay=0.05, jitter="full", retry_on=may_pass, budget=1.2)
    rate = RateLimit(RATE, per=1, burst=BURST, name="customers")
    places = Bulkhead(CONCURRENT, key=lambda ctx: "customers", delay=0.1)
    in_time = Timeout(0.25)
    return _Around(
        look_up=(
            note_source,
            Fallback(
                ask_backup,
                LastGood("customer", "level", key=lambda ctx: str(ctx.payload["customer"])),
                Default(level="standard"),
                on=is_trouble,
            ),
            again,
            breaker,
            rate,
            places,
            in_time,
        ),
        history=(
            Fallback(Default(purchases=None), on=is_trouble),
            breaker,
            rate,
            places,
            in_time,
        ),
        tell=(
            Deduplication(key=step_of, window=60),
            again,
            breaker,
            rate,
            places,
            in_time,
        ),
    )


def is_trouble(error: BaseException) -> bool:
    """What is answered in another way; what a rate limit puts off can wait for its turn."""
    return may_pass(error) or isinstance(error, CircuitOpen)


async def note_source(ctx: Context[Ticket], next: Any) -> None:
    """Write down what an answer is worth, and ask again later if it is a guess: a middleware of our own."""
    await next()
    instead = str(ctx.get_metadata("fallback", ""))
    if instead.startswith("Default"):
        ctx.subject.level_from = "default"
        ctx.subject.guesses += 1
        await ctx.emit("ticket.ask_again", {"customer": ctx.payload["customer"]}, delay=LATER, key="ask again")
    elif instead:
        ctx.subject.level_from = "last good" if instead.startswith("LastGood") else "backup"


def _switches() -> RuleSet:
    """What happens when the circuit opens, and when it closes: it throws the flag that people can throw as well."""
    switches = RuleSet("switches")

    @switches.on("circuit.opened")
    async def degrade(ctx: Context) -> None:
        await ctx.emit("flags.degrade", {"to": True}, FLAGS)

    @switches.on("circuit.closed")
    async def restore(ctx: Context) -> None:
        await ctx.emit("flags.degrade", {"to": False}, FLAGS)

    return switches
