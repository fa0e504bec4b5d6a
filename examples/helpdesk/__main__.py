"""The demo: four years of a real help desk, replayed through `rules`, and what a person wants to know of them.

Run it with `make demo`, or `python -m examples.helpdesk`.
"""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from examples.helpdesk.rules import SLA, Customer, Ticket, customers, tickets
from onwhen import EventBus, Subject, VirtualClock, create_memory_storage
from onwhen.cli.replay import ReplayReport, Source, replay

LOG: Final = Path(__file__).with_name("helpdesk.ndjson.gz")
WIDTH: Final = 100
ROWS: Final = 8
CREDITS: Final = """\
Events: M. Polato, Dataset belonging to the help desk log of an Italian Company,
4TU.ResearchData, doi:10.4121/uuid:0c60edf1-6f83-4e75-9367-4c63b3e9d5bb.
Its publisher made the names in it anonymous ("Value 22").\
"""

S = TypeVar("S", bound=Subject)


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Four years of the help desk: how the replay went, and every subject as it is at the end."""

    report: ReplayReport
    tickets: list[Ticket]
    customers: list[Customer]


def main() -> int:
    console = Console()
    try:
        history = asyncio.run(relive(console))
        show(history, console)
    except KeyboardInterrupt:
        return 130  # as a shell has it
    return 0 if history.report.ok else 1


async def relive(console: Console) -> History:
    """Replay the log, in memory, on a clock that the events move."""
    bus = EventBus(tickets, customers, store=create_memory_storage(), clock=VirtualClock())
    async with bus:
        return History(
            report=await watched_replay(bus, console),
            tickets=await stored(bus, Ticket, "ticket:"),
            customers=await stored(bus, Customer, "customer:"),
        )


async def watched_replay(bus: EventBus, console: Console) -> ReplayReport:
    """Replay the log; on a terminal, watch the years go by."""
    if not console.is_terminal:
        return await replay(bus, [Source.file(LOG)])
    with console.status("") as status:

        def update(so_far: ReplayReport) -> None:
            if so_far.events % 100 == 0:
                status.update(f"{bus.clock.now():%d %b %Y}  {so_far.events:,} events")

        return await replay(bus, [Source.file(LOG)], progress=update)


async def stored(bus: EventBus, kind: type[S], prefix: str) -> list[S]:
    """All subjects of one class, as they are stored."""
    found = [await bus.read(record.name) async for record in bus.store.subjects(prefix)]
    return [subject for subject in found if isinstance(subject, kind)]


# -- what is shown


def show(history: History, console: Console) -> None:
    seen, served = history.tickets, history.customers
    console.width = min(console.width, WIDTH)
    console.print(headline(history.report, len(seen)), "", by_status(seen), what_happened(seen), sep="\n")
    console.print(busiest_customers(served, seen), most_handed_over(seen), slowest(seen), sep="\n")
    console.print(CREDITS, style="dim", highlight=False)


def headline(report: ReplayReport, number: int) -> Text:
    assert report.first is not None
    assert report.last is not None
    return Text.assemble(
        (f"{report.events:,} events of {number:,} tickets", "bold"),
        f", {report.first:%B %Y} to {report.last:%B %Y},\n"
        f"replayed in {report.seconds:.1f} s ({report.rate:,.0f} events/s): {report.messages:,} messages were sent,\n"
        f"{report.timers_set:,} timers set, {report.timers_fired:,} of them fired; {report.dead_letters} dead letters.",
    )


def by_status(seen: list[Ticket]) -> Table:
    shown = table("Where the tickets stand", "status", "tickets>", "share>")
    for status, count in Counter(ticket.status for ticket in seen).most_common():
        shown.add_row(status, f"{count:,}", percent(count, len(seen)))
    return shown


def what_happened(seen: list[Ticket]) -> Table:
    shown = table("What happened to them", "", "times>", "tickets>", "share>")
    for what, times in [
        ("handed over to somebody else", [ticket.handovers for ticket in seen]),
        ("reopened", [ticket.reopened for ticket in seen]),
        ("moved to another service level", [ticket.level_changes for ticket in seen]),
        (f"not resolved within {SLA.days} days", [int(ticket.overdue) for ticket in seen]),
    ]:
        touched = sum(number > 0 for number in times)
        shown.add_row(what, f"{sum(times):,}", f"{touched:,}", percent(touched, len(seen)))
    return shown


def busiest_customers(served: list[Customer], seen: list[Ticket]) -> Table:
    handovers, reopened = Counter[str](), Counter[str]()
    for ticket in seen:
        handovers[f"customer:{ticket.customer}"] += ticket.handovers
        reopened[f"customer:{ticket.customer}"] += ticket.reopened
    shown = table("Busiest customers", "customer", "tickets>", "breaches>", "share>", "hand-overs>", "reopened>")
    for customer in largest(served, lambda customer: customer.tickets):
        shown.add_row(
            label(customer),
            f"{customer.tickets:,}",
            f"{customer.breaches:,}",
            percent(customer.breaches, customer.tickets),
            f"{handovers[customer.name]:,}",
            f"{reopened[customer.name]:,}",
        )
    return shown


def most_handed_over(seen: list[Ticket]) -> Table:
    shown = table("Handed over most often", "ticket", "hand-overs>", "events>", "reopened>", "customer", "status")
    for ticket in largest(seen, lambda ticket: ticket.handovers):
        counts = (str(number) for number in (ticket.handovers, ticket.events, ticket.reopened))
        shown.add_row(label(ticket), *counts, ticket.customer, ticket.status)
    return shown


def slowest(seen: list[Ticket]) -> Table:
    resolved = [ticket for ticket in seen if "resolved" in ticket.ext]
    median = sorted(time_taken(ticket) for ticket in resolved)[len(resolved) // 2]
    title = f"Slowest tickets (half of them all are resolved within {in_days(median)} days)"
    shown = table(title, "ticket", "days>", "first event", "resolved", "hand-overs>", "customer")
    for ticket in largest(resolved, time_taken):
        dates = (f"{moment(ticket, which):%d %b %Y}" for which in ("first_event", "resolved"))
        shown.add_row(label(ticket), in_days(time_taken(ticket)), *dates, str(ticket.handovers), ticket.customer)
    return shown


# -- how it is shown


def table(title: str, *columns: str) -> Table:
    """A table; columns that end in > are numbers."""
    shown = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        shown.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", no_wrap=True)
    return shown


def largest(subjects: Iterable[S], size: Callable[[S], Any]) -> list[S]:
    """The first rows of a table; of equals, in the order of their names."""
    return sorted(sorted(subjects, key=label), key=size, reverse=True)[:ROWS]


def label(subject: Subject) -> str:
    return subject.name.partition(":")[2]


def moment(ticket: Ticket, which: str) -> datetime:
    return datetime.fromisoformat(ticket.ext[which])


def time_taken(ticket: Ticket) -> timedelta:
    """From the first event to the last resolution."""
    return moment(ticket, "resolved") - moment(ticket, "first_event")


def in_days(time: timedelta) -> str:
    return f"{time / timedelta(days=1):.1f}"


def percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%}" if whole else ""


if __name__ == "__main__":
    sys.exit(main())
