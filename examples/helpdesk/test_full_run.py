"""Four years of events through the rules, compared with the same history worked out by hand.

`worked_out` is the specification once more, as one loop over the events with nothing of onwhen in it. If the two
differ, one of them is wrong.
"""

import asyncio
import gzip
import io
import json
import signal
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from rich.console import Console

from examples.helpdesk import __main__ as demo
from examples.helpdesk.__main__ import LOG, History, relive, show
from onwhen import EventBus
from onwhen.cli.replay import ReplayReport

STATUS_AFTER = {
    "ticket.take_in_charge_ticket": "open",
    "ticket.wait": "waiting",
    "ticket.resolve_ticket": "resolved",
    "ticket.closed": "closed",
}
FOLLOWED = ("customer", "product", "workgroup", "service_level", "seriousness")


def logged() -> Iterator[dict[str, Any]]:
    """The events of the log, as plain JSON."""
    with gzip.open(LOG, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def worked_out() -> tuple[dict[str, dict[str, Any]], dict[str, datetime]]:
    """The final properties of every subject by name, and the timers that are still running."""
    state: dict[str, dict[str, Any]] = {}
    timers: dict[str, datetime] = {}

    def customer(name: str) -> dict[str, Any]:
        return state.setdefault(f"customer:{name}", {"tickets": 0, "breaches": 0})

    for event in logged():
        now, name, data = datetime.fromisoformat(event["time"]), event["subject"], event["data"]
        for late in [ticket for ticket, due in timers.items() if due <= now]:
            del timers[late]
            state[late]["overdue"] = True
            customer(state[late]["customer"])["breaches"] += 1

        if name not in state:
            state[name] = {"status": "new", "owner": data["resource"], "overdue": False, "events": 0}
            state[name] |= {"handovers": 0, "level_changes": 0, "reopened": 0}
            state[name]["service_level"] = data["service_level"]
            timers[name] = now + timedelta(days=30)
            customer(data["customer"])["tickets"] += 1
        ticket = state[name]
        ticket["events"] += 1
        if ticket["owner"] != data["resource"]:
            ticket["handovers"] += 1
            ticket["owner"] = data["resource"]
        if ticket["service_level"] != data["service_level"]:
            ticket["level_changes"] += 1
        ticket |= {attribute: data[attribute] for attribute in FOLLOWED}
        if event["type"] == "ticket.take_in_charge_ticket" and ticket["status"] in ("resolved", "closed"):
            ticket["reopened"] += 1
        if event["type"] == "ticket.resolve_ticket":
            timers.pop(name, None)
        ticket["status"] = STATUS_AFTER.get(event["type"], ticket["status"])
    return state, timers


@pytest.fixture(scope="module")
def history() -> History:
    """The whole log, replayed once for all tests of this module."""
    return asyncio.run(relive(Console(file=io.StringIO())))


def test_every_subject_ends_as_worked_out_by_hand(history: History) -> None:
    """4,580 tickets and 395 customers, property by property; and no timer is left over, or missing."""
    state, timers = worked_out()
    replayed = {subject.name: subject.dict("json") for subject in [*history.tickets, *history.customers]}
    differences = {name: (replayed.get(name), state.get(name)) for name in replayed.keys() | state.keys()}
    assert {name: pair for name, pair in differences.items() if pair[0] != pair[1]} == {}
    assert history.report.timers_pending == len(timers)


def test_the_totals_are_known(history: History) -> None:
    """What the log adds up to; a number that moves here means that rules or engine have changed."""
    seen, served = history.tickets, history.customers
    assert (history.report.events, len(seen), len(served)) == (21_348, 4_580, 395)
    assert Counter(ticket.status for ticket in seen) == {"closed": 4_558, "resolved": 10, "waiting": 9, "open": 3}
    assert sum(ticket.events for ticket in seen) == 21_348
    assert sum(ticket.handovers for ticket in seen) == 8_648
    assert sum(ticket.level_changes for ticket in seen) == 49
    assert sum(ticket.reopened for ticket in seen) == 158
    assert sum(ticket.overdue for ticket in seen) == sum(customer.breaches for customer in served) == 455
    assert sum(customer.tickets for customer in served) == 4_580


def test_nothing_is_lost_on_the_way(history: History) -> None:
    """One message for each new ticket and each breach, one timer for each ticket, nothing set aside."""
    report = history.report
    assert (report.timers_set, report.timers_fired, report.timers_pending) == (4_580, 455, 0)
    assert report.messages == 4_580 + 455
    assert report.ok


@pytest.mark.parametrize("width", [80, 100, 200])
def test_the_demo_fits_its_screen(history: History, width: int) -> None:
    """No line is longer than the screen, none is cut off, and there is no colour in a pipe."""
    screen = io.StringIO()
    show(history, Console(file=screen, width=width))
    text = screen.getvalue()
    assert max(map(len, text.splitlines())) <= min(width, 100)
    assert "\x1b" not in text
    assert "…" not in text
    for title in ("Where the tickets stand", "Busiest customers", "Handed over most often", "Slowest tickets"):
        assert title in text
    assert "3323     58.7   25 Oct 2013   23 Dec 2013            1   Value 24" in text


def test_ctrl_c_ends_the_demo_without_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the exit code that a shell has for it."""
    replay = demo.watched_replay

    async def interrupted(bus: EventBus, console: Console) -> ReplayReport:
        signal.raise_signal(signal.SIGINT)
        return await replay(bus, console)

    monkeypatch.setattr(demo, "watched_replay", interrupted)
    assert demo.main() == 130
    assert capsys.readouterr() == ("", "")
