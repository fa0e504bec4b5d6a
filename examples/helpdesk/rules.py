"""The rules of a help desk: what becomes of its tickets, and what its customers are owed.

Events come from the ticket system, one for each step that somebody takes (`ticket.take_in_charge_ticket`, say).
Their data hold who took it (`resource`) and how the ticket is classified at that moment.
"""

from datetime import timedelta
from typing import Final, Literal

from onwhen import Context, RuleSet, Subject, changed, when

SLA: Final = timedelta(days=30)
"""A ticket has to be resolved this long after its first event."""


class Ticket(Subject, prefix="ticket:"):
    status: Literal["new", "open", "waiting", "resolved", "closed"] = "new"
    owner: str | None = None
    customer: str | None = None
    product: str | None = None
    workgroup: str | None = None
    service_level: str | None = None
    seriousness: str | None = None
    events: int = 0
    handovers: int = 0
    level_changes: int = 0
    reopened: int = 0
    overdue: bool = False


class Customer(Subject, prefix="customer:"):
    tickets: int = 0
    breaches: int = 0


tickets = RuleSet("tickets", subject=Ticket)
customers = RuleSet("customers", subject=Customer)


def happened(ctx: Context[Ticket]) -> str:
    """When the step was taken, which may be long before it is handled."""
    return (ctx.event.time or ctx.now).isoformat()


# -- every event of a ticket


@tickets.on("ticket.*")
@when(lambda ctx: ctx.subject.events == 0)
async def welcome(ctx: Context[Ticket]) -> None:
    await ctx.emit("sla.expired", delay=SLA, key="sla")  # not "ticket.": it is no step that somebody takes
    await ctx.emit("customer.ticket_opened", subject=f"customer:{ctx.payload['customer']}")
    ctx.subject.ext["first_event"] = happened(ctx)  # for reports; no rule reacts to it


@tickets.on("ticket.*")
def count_event(ctx: Context[Ticket]) -> None:
    ctx.subject.events += 1


@tickets.on("ticket.*")
def follow(ctx: Context[Ticket]) -> None:
    ticket, data = ctx.subject, ctx.payload
    ticket.owner = data["resource"]
    ticket.customer = data["customer"]
    ticket.product = data["product"]
    ticket.workgroup = data["workgroup"]
    ticket.service_level = data["service_level"]
    ticket.seriousness = data["seriousness"]


# -- the steps that move a ticket on; all others leave its status


@tickets.on("ticket.take_in_charge_ticket")
def take(ctx: Context[Ticket]) -> None:
    ctx.subject.status = "open"


@tickets.on("ticket.wait")
def wait(ctx: Context[Ticket]) -> None:
    ctx.subject.status = "waiting"


@tickets.on("ticket.resolve_ticket")
async def resolve(ctx: Context[Ticket]) -> None:
    ctx.subject.status = "resolved"
    ctx.subject.ext["resolved"] = happened(ctx)
    await ctx.cancel("sla")


@tickets.on("ticket.closed")
def close(ctx: Context[Ticket]) -> None:
    ctx.subject.status = "closed"


# -- what follows from a change, whichever step made it


def known(value: str | None) -> bool:
    return value is not None


def done(status: str) -> bool:
    return status in ("resolved", "closed")


@tickets.on(changed("owner", from_=known))
def count_handover(ctx: Context[Ticket]) -> None:
    ctx.subject.handovers += 1


@tickets.on(changed("service_level", from_=known))
def count_level_change(ctx: Context[Ticket]) -> None:
    ctx.subject.level_changes += 1


@tickets.on(changed("status", from_=done, to="open"))
def count_reopening(ctx: Context[Ticket]) -> None:
    ctx.subject.reopened += 1


# -- the promise to the customer


@tickets.on("sla.expired")
async def breach(ctx: Context[Ticket]) -> None:
    ctx.subject.overdue = True
    await ctx.emit("customer.sla_breached", {"ticket": ctx.subject.name}, subject=f"customer:{ctx.subject.customer}")


@customers.on("customer.ticket_opened")
def count_ticket(ctx: Context[Customer]) -> None:
    ctx.subject.tickets += 1


@customers.on("customer.sla_breached")
def count_breach(ctx: Context[Customer]) -> None:
    ctx.subject.breaches += 1
