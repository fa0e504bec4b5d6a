"""Commands that run rules on a store: the right ones, at the right time, and what else they handle."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from onwhen import Context, RuleSet, Subject
from tests.cli import stores

Onwhen = Callable[..., Any]

WRONG = "tests.cli.test_fitting:clerks"

clerks = RuleSet("clerks")  # another program's


@clerks.on("clerk.hired")
def hire(ctx: Context[Subject]) -> None:
    ctx.subject.set("hired", True)


class Loan(Subject, prefix="loan:"):
    """A loan that has to be paid back in three days."""

    late: int = 0
    notes: int = 0


loans = RuleSet("loans", subject=Loan)


@loans.on("loan.opened")
def open_loan(ctx: Context[Loan]) -> None:
    ctx.emit("loan.late", delay=timedelta(days=3), key="deadline")


@loans.on("loan.late")
def be_late(ctx: Context[Loan]) -> None:
    ctx.subject.late += 1


@loans.on("loan.closed")
def close_loan(ctx: Context[Loan]) -> None:
    ctx.cancel("deadline")


@loans.on("loan.noted")
def note_loan(ctx: Context[Loan]) -> None:
    stores.needs("PEN")
    ctx.subject.notes += 1
    ctx.emit("loan.filed", delay=timedelta(hours=1))


def lines(text: str) -> list[dict[str, Any]]:
    """What JSON lines say."""
    return [json.loads(line) for line in text.splitlines()]


def pending(onwhen: Onwhen) -> list[str]:
    """Types of the events that are pending."""
    return [row["event"]["type"] for row in lines(onwhen("log", "--json").out)]


# -- the right rules


@pytest.mark.parametrize("command", [["deadletters", "replay"], ["parked", "resume"]])
def test_an_app_that_has_no_rules_for_what_is_pending(store: Path, onwhen: Onwhen, command: list[str]) -> None:
    """Is refused before anything is done: its bus would take all of that for handled, and it would be gone."""
    stores.fill(store, ("parcel.labelled", "parcel:1", "first"), ("parcel.weighed", "parcel:2", 5))
    stores.accept(store, *(("parcel.said", f"parcel:{number}", "hello") for number in range(3, 10)))
    ended = onwhen(*command, WRONG, "--all")
    assert (ended.code, ended.out) == (2, "")
    assert f"{WRONG} has no rule for what else is pending in the store: parcel.said to parcel:3, " in ended.err
    assert "parcel.said to parcel:7, and 2 more; " in ended.err
    assert "--force" in ended.err
    assert pending(onwhen) == ["parcel.said"] * 7
    assert [row["attempts"] for row in lines(onwhen("deadletters", "list", "--json").out)] == [1]


def test_it_is_the_rules_for_the_subject_that_count(store: Path, onwhen: Onwhen) -> None:
    """A rule for the type, but for other subjects, is none."""
    stores.accept(store, ("loan.noted", "parcel:1"))
    ended = onwhen("deadletters", "replay", "tests.cli.test_fitting:loans", "--all")
    assert (ended.code, "loan.noted to parcel:1;" in ended.err) == (2, True)


def test_a_retry_of_another_app(store: Path, onwhen: Onwhen) -> None:
    """Counts once it is due, as a timer does; what waits for later is not touched."""
    stores.fill(store, ("parcel.sent", "parcel:1"), ("parcel.called", "parcel:2"))
    ended = onwhen("deadletters", "replay", WRONG, "--all")
    assert (ended.code, ended.err) == (0, "There was nothing to replay.\n")
    stores.make_due(store)
    ended = onwhen("deadletters", "replay", WRONG, "--all")
    assert ended.code == 2
    assert "parcel.overdue to parcel:1, a retry of depot.call to parcel:2;" in ended.err
    stats = json.loads(onwhen("stats", "--json").out)
    assert (stats["timers"], stats["retries"]) == (1, 1)


def test_a_whole_event_for_which_there_is_no_rule(store: Path, onwhen: Onwhen) -> None:
    """Would be handled by none if it was replayed, and be gone; so it is refused."""
    stores.leave(store, "", "parcel.said", "parcel:1", "hello")
    ended = onwhen("deadletters", "replay", WRONG, "--all")
    assert (ended.code, ended.out) == (2, "")
    assert f"{WRONG} has no rule for what is to be run: parcel.said to parcel:1; " in ended.err
    assert len(lines(onwhen("deadletters", "list", "--json").out)) == 1
    assert onwhen("deadletters", "replay", stores.APP, "--all").code == 0
    assert json.loads(onwhen("subjects", "get", "parcel:1", "--json").out)["properties"] == {"status": "hello"}


def test_it_can_be_meant(store: Path, onwhen: Onwhen) -> None:
    """With --force events that no rule is for are handled by none."""
    stores.leave(store, "", "parcel.said", "parcel:1", "hello")
    stores.accept(store, ("parcel.said", "parcel:2", "hello"))
    ended = onwhen("deadletters", "replay", WRONG, "--all", "--force")
    assert (ended.code, ended.err) == (0, "Handled as well, because it was pending: 1 event.\n1 replayed.\n")
    assert pending(onwhen) == []


def test_what_was_asked_for_is_looked_for_first(store: Path, onwhen: Onwhen) -> None:
    """A dead letter or a subject that is not there is an error, and nothing that is pending was handled."""
    stores.fill(store, ("parcel.weighed", "parcel:2", 5))
    stores.accept(store, ("parcel.said", "parcel:1", "hello"))
    assert onwhen("deadletters", "replay", stores.APP, "0123456789").code == 2
    assert onwhen("parked", "resume", stores.APP, "parcel:1").code == 2
    assert pending(onwhen) == ["parcel.said"]


def test_what_else_was_handled_is_told(store: Path, onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pending events, and the timers and retries that were due; not what was asked for, nor what followed from it."""
    stores.fill(
        store,
        ("parcel.announced", "parcel:1"),
        ("parcel.sent", "parcel:2"),
        ("parcel.called", "parcel:3"),
    )
    stores.make_due(store)
    stores.accept(store, ("parcel.said", "parcel:4", "hello"), ("parcel.said", "parcel:5", "hello"))
    for what in ("DESK", "PRINTER", "PHONE"):
        monkeypatch.setenv(what, "on")
    ended = onwhen("deadletters", "replay", stores.APP, "--all", "--force")
    assert ended.err == "Handled as well, because it was pending: 2 events, 1 timer, 1 retry.\n1 replayed.\n"
    assert ended.code == 0


# -- at the right time


def write_loans(path: Path, events: list[tuple[str, int]]) -> None:
    """Write events of one loan: type, and day in March."""
    path.write_text(
        "".join(
            json.dumps(
                {
                    "specversion": "1.0",
                    "id": f"{type} {day}",
                    "source": "/bank",
                    "type": type,
                    "subject": "loan:1",
                    "time": f"2024-03-{day:02}T00:00:00Z",
                }
            )
            + "\n"
            for type, day in events
        )
    )


LOANS = [("loan.opened", 1), ("loan.noted", 2), ("loan.closed", 3), ("loan.opened", 10), ("loan.closed", 20)]


@pytest.mark.parametrize("between", [(), ("--type", "loan.noted"), ("--all", "--force")])
def test_a_store_of_recorded_events_stays_in_their_time(store: Path, onwhen: Onwhen, between: tuple[str, ...]) -> None:
    """What is due only later has not fired: the rest of the replay ends as if nothing had come between."""
    app, recorded = "tests.cli.test_fitting:loans", store.with_name("in.ndjson")
    replay = ("replay", app, "in.ndjson", "--time", "event", "--dump")
    write_loans(recorded, LOANS[:2])
    onwhen(*replay, "half", "--store", "sqlite:///depot.db")
    if between:
        ended = onwhen("deadletters", "replay", app, *between)
        assert (ended.code, ended.err) == (1, "1 replayed; 1 of them with failures.\n")
        assert [row["due"] for row in lines(onwhen("timers", "--json").out)] == ["2024-03-04T00:00:00Z"]
    write_loans(recorded, LOANS)
    onwhen(*replay, "state", "--store", "sqlite:///depot.db")
    onwhen(*replay, "whole")
    assert store.with_name("state").read_bytes() == store.with_name("whole").read_bytes()
    assert json.loads(store.with_name("state").read_text())["properties"] == {"late": 1, "notes": 0}


def test_what_is_replayed_there_runs_at_that_moment(
    store: Path, onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the latest of several replays: a timer that a rule sets is due so much later, and waits for the next one."""
    app = "tests.cli.test_fitting:loans"
    for name, events in (("a.ndjson", LOANS[:2]), ("b.ndjson", LOANS[2:4])):
        write_loans(store.with_name(name), events)
        onwhen("replay", app, name, "--time", "event", "--store", "sqlite:///depot.db")
    monkeypatch.setenv("PEN", "there")
    assert onwhen("deadletters", "replay", app, "--all").err == "1 replayed.\n"
    assert [(row["event"]["type"], row["due"]) for row in lines(onwhen("timers", "--json").out)] == [
        ("loan.filed", "2024-03-10T01:00:00Z"),
        ("loan.late", "2024-03-13T00:00:00Z"),
    ]


def test_a_store_of_a_service_is_in_the_time_of_the_machine(store: Path, onwhen: Onwhen) -> None:
    """Timers that are due fire; that is so after a replay on the machine's clock as well."""
    write_loans(store.with_name("in.ndjson"), LOANS[:2])
    onwhen("replay", "tests.cli.test_fitting:loans", "in.ndjson", "--store", "sqlite:///depot.db")
    stores.make_due(store)
    ended = onwhen("deadletters", "replay", "tests.cli.test_fitting:loans", "--all")
    assert "Handled as well, because it was pending: 1 timer.\n" in ended.err
    assert json.loads(onwhen("subjects", "get", "loan:1", "--json").out)["properties"] == {"late": 1}
