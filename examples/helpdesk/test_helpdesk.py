"""The help desk's rules, tested: a model for tests of your own.

`harness` comes with onwhen's pytest plugin: the rules named by the marker, on a clock that moves only when told
to. Each test sets up state (given), sends an event (when) and looks at what came of it (then).
"""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from examples.helpdesk.rules import SLA, customers, tickets
from onwhen.testing import Harness

pytestmark = pytest.mark.onwhen(tickets, customers, start=datetime(2013, 3, 1, 9, tzinfo=UTC))

DATA = {
    "resource": "ada",
    "customer": "acme",
    "product": "printer",
    "workgroup": "hardware",
    "service_level": "gold",
    "seriousness": "low",
}


def step(**differences: Any) -> dict[str, Any]:
    """The data of a step; only what a test is about has to be said in it."""
    return {**DATA, **differences}


# -- a ticket's status


@pytest.mark.parametrize(
    ("taken", "status"),
    [
        ("ticket.take_in_charge_ticket", "open"),
        ("ticket.wait", "waiting"),
        ("ticket.resolve_ticket", "resolved"),
        ("ticket.closed", "closed"),
        ("ticket.require_upgrade", "new"),
        ("ticket.assign_seriousness", "new"),
        ("ticket.insert_ticket", "new"),
    ],
)
async def test_the_first_step_decides_the_status(harness: Harness, taken: str, status: str) -> None:
    """A ticket is new until it is taken in charge, waits, or is done with."""
    await harness.when(taken, "ticket:1", step())
    harness.then.state("ticket:1", status=status, events=1)


@pytest.mark.parametrize("kind", ["ticket.require_upgrade", "ticket.assign_seriousness", "ticket.create_sw_anomaly"])
async def test_other_steps_leave_the_status(harness: Harness, kind: str) -> None:
    """A waiting ticket still waits after it was classified or escalated."""
    harness.given("ticket:1", status="waiting", events=3)
    await harness.when(kind, "ticket:1", step())
    harness.then.state("ticket:1", status="waiting", events=4)


async def test_a_ticket_follows_its_latest_step(harness: Harness) -> None:
    """Owner and classification are those of the latest event."""
    await harness.when("ticket.assign_seriousness", "ticket:1", step())
    await harness.when("ticket.wait", "ticket:1", step(product="scanner", seriousness="high", workgroup="field"))
    harness.then.state("ticket:1", owner="ada", product="scanner", seriousness="high", workgroup="field")


# -- what is counted by reactions


async def test_a_hand_over_is_from_one_person_to_another(harness: Harness) -> None:
    """The first owner takes nothing over from anybody, and who goes on hands nothing over."""
    for person, handovers in [("ada", 0), ("ada", 0), ("bob", 1), ("ada", 2)]:
        await harness.when("ticket.wait", "ticket:1", step(resource=person))
        harness.then.state("ticket:1", owner=person, handovers=handovers)


async def test_level_changes_count_from_the_second_level_on(harness: Harness) -> None:
    """The first service level is no change of level."""
    for level, changes in [("gold", 0), ("gold", 0), ("basic", 1), ("gold", 2)]:
        await harness.when("ticket.wait", "ticket:1", step(service_level=level))
        harness.then.state("ticket:1", service_level=level, level_changes=changes)


@pytest.mark.parametrize(
    ("before", "reopened"), [("new", 0), ("open", 0), ("waiting", 0), ("resolved", 1), ("closed", 1)]
)
async def test_only_what_was_done_can_be_reopened(harness: Harness, before: str, reopened: int) -> None:
    """Taking a ticket in charge reopens it if it was resolved or closed."""
    harness.given("ticket:1", status=before)
    await harness.when("ticket.take_in_charge_ticket", "ticket:1", step())
    harness.then.state("ticket:1", status="open", reopened=reopened)


# -- the promise to the customer


async def test_a_first_event_sets_the_timer(harness: Harness) -> None:
    """The clock of a ticket runs from its first event, not from later ones."""
    opened = harness.now
    await harness.when("ticket.assign_seriousness", "ticket:1", step())
    await harness.advance(timedelta(days=3))
    await harness.when("ticket.take_in_charge_ticket", "ticket:1", step())
    assert harness.then.timers("sla", of="ticket:1").once().due == opened + timedelta(days=30)


async def test_a_ticket_that_is_not_resolved_in_time_breaches_its_sla(harness: Harness) -> None:
    """The day it is due it becomes overdue, and its customer hears of it."""
    await harness.when("ticket.assign_seriousness", "ticket:1", step())
    await harness.advance(SLA - timedelta(seconds=1))
    harness.then.state("ticket:1", overdue=False)

    await harness.advance(timedelta(seconds=1))
    harness.then.state("ticket:1", overdue=True, events=1)
    harness.then.emitted("customer.sla_breached", to="customer:acme", data={"ticket": "ticket:1"}).once()
    harness.then.state("customer:acme", tickets=1, breaches=1)


async def test_a_breach_is_told_to_the_latest_customer(harness: Harness) -> None:
    """A ticket that has moved to another customer counts there, though the first one opened it."""
    await harness.when("ticket.assign_seriousness", "ticket:1", step())
    await harness.when("ticket.wait", "ticket:1", step(customer="globex"))
    await harness.advance(SLA)
    harness.then.state("customer:acme", tickets=1, breaches=0)
    harness.then.state("customer:globex", tickets=0, breaches=1)


async def test_a_resolved_ticket_keeps_its_promise(harness: Harness) -> None:
    """Resolving cancels the timer; reopening the ticket does not set it again."""
    await harness.when("ticket.assign_seriousness", "ticket:1", step())
    await harness.when("ticket.resolve_ticket", "ticket:1", step())
    await harness.when("ticket.take_in_charge_ticket", "ticket:1", step())
    harness.then.timers().never()

    await harness.advance(SLA)
    harness.then.state("ticket:1", overdue=False, reopened=1)
    harness.then.emitted("customer.sla_breached").never()


async def test_a_ticket_may_be_resolved_by_its_first_event(harness: Harness) -> None:
    """Some are: then there is nothing to wait for."""
    await harness.when("ticket.resolve_ticket", "ticket:1", step())
    harness.then.timers().never()


async def test_closing_alone_does_not_keep_the_promise(harness: Harness) -> None:
    """Only a resolution does."""
    await harness.when("ticket.closed", "ticket:1", step())
    await harness.advance(SLA)
    harness.then.state("ticket:1", status="closed", overdue=True)


# -- what is not as it should be


async def test_a_step_by_nobody_is_set_aside(harness: Harness) -> None:
    """A rule that fails does nothing; the others go on, and the event is kept as a dead letter."""
    nobody = step()
    del nobody["resource"]
    await harness.when("ticket.wait", "ticket:1", nobody)
    harness.then.failures("tickets.follow", error=KeyError).once()
    harness.then.dead_letters().once()
    harness.then.state("ticket:1", status="waiting", events=1, owner=None)
