"""The commands that look into a store: subjects, history, timers, the log, counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cli import stores

Onwhen = Callable[..., Any]


def lines(text: str) -> list[dict[str, Any]]:
    """What JSON lines say."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def parcels(store: Path) -> Path:
    """A store with two parcels under way, one of them with a label."""
    stores.fill(
        store,
        ("parcel.sent", "parcel:17"),
        ("parcel.sent", "parcel:18"),
        ("parcel.labelled", "parcel:18", {"to": "Zoë", "number": 2**70}),
        settings={"PRINTER": "on"},
        history=100,
    )
    return store


# -- subjects


def test_subjects_are_listed_by_name(parcels: Path, onwhen: Onwhen) -> None:
    """In a pipe as aligned text, with a heading."""
    ended = onwhen("subjects", "list")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines() == [
        "subject    schema  properties",
        'parcel:17       1  {"status":"under way"}',
        'parcel:18       1  {"status":"under way"}',
    ]


def test_subjects_for_scripts(parcels: Path, onwhen: Onwhen) -> None:
    """One object a line, with all that is stored, exactly."""
    first, second = lines(onwhen("subjects", "list", "--json").out)
    assert list(first) == ["subject", "properties", "ext", "schema", "version"]
    assert (first["subject"], first["properties"], first["ext"]) == ("parcel:17", {"status": "under way"}, {})
    assert second["ext"] == {"label": {"to": "Zoë", "number": 2**70}}


def test_some_of_the_subjects(parcels: Path, onwhen: Onwhen) -> None:
    """By the beginning of the name, and no more than so many."""
    assert [row["subject"] for row in lines(onwhen("subjects", "list", "parcel:18", "--json").out)] == ["parcel:18"]
    assert [row["subject"] for row in lines(onwhen("subjects", "list", "--limit", "1", "--json").out)] == ["parcel:17"]
    ended = onwhen("subjects", "list", "order:")
    assert (ended.code, ended.out, ended.err) == (0, "", "No subject has a name that begins with order:\n")


def test_one_subject(parcels: Path, onwhen: Onwhen) -> None:
    """All of it, for people and for scripts."""
    ended = onwhen("subjects", "get", "parcel:18")
    told = dict(line.split("  ", 1) for line in ended.out.splitlines())
    assert told["property status"].strip() == '"under way"'
    assert json.loads(told["ext label"]) == {"to": "Zoë", "number": 2**70}
    assert json.loads(onwhen("subjects", "get", "parcel:18", "--json").out)["ext"]["label"]["number"] == 2**70


def test_a_subject_that_is_not_stored(parcels: Path, onwhen: Onwhen) -> None:
    """Is an error that says so."""
    for command in ("get", "history"):
        ended = onwhen("subjects", command, "parcel:19")
        assert (ended.code, ended.out) == (2, "")
        assert "there is no subject 'parcel:19'" in ended.err


# -- history


def test_what_was_done_to_a_subject(parcels: Path, onwhen: Onwhen) -> None:
    """The latest first."""
    ended = onwhen("subjects", "history", "parcel:18")
    heading, label, sent = ended.out.splitlines()
    assert heading.split() == ["time", "event", "retried", "rule", "changes"]
    assert "parcel.labelled" in label
    assert "ext label=" in label
    assert 'status="under way"' in sent
    label, sent = lines(onwhen("subjects", "history", "parcel:18", "--json").out)
    assert list(sent) == ["time", "subject", "event", "rule", "write"]
    assert (sent["event"]["type"], sent["write"]["set"]) == ("parcel.sent", {"status": "under way"})
    assert label["write"]["set_ext"] == {"label": {"to": "Zoë", "number": 2**70}}
    assert len(lines(onwhen("subjects", "history", "parcel:18", "--json", "--limit", "1").out)) == 1


def test_the_history_of_a_subject_that_is_gone(parcels: Path, onwhen: Onwhen) -> None:
    """Is kept; an event of which nothing came is in it too."""
    stores.fill(parcels, ("parcel.lost", "parcel:17"), ("parcel.unknown", "parcel:17"), history=100)
    unknown, lost, sent = onwhen("subjects", "history", "parcel:17").out.splitlines()[1:]
    assert [row.split()[1:] for row in (unknown, lost)] == [
        ["parcel.unknown", "-", "-"],
        ["parcel.lost", "-", "removed"],
    ]
    assert "parcel.sent" in sent
    assert onwhen("subjects", "get", "parcel:17").code == 2


def test_a_store_without_history_says_how_to_have_one(store: Path, onwhen: Onwhen) -> None:
    """It is off by default; the subject is there, so that is no error."""
    stores.fill(store, ("parcel.sent", "parcel:1"))
    ended = onwhen("subjects", "history", "parcel:1")
    assert (ended.code, ended.out) == (0, "")
    assert "?history=N" in ended.err


# -- timers


def test_timers_by_when_they_are_due(parcels: Path, onwhen: Onwhen) -> None:
    """All of them, or those of one subject."""
    heading, *rows = onwhen("timers").out.splitlines()
    assert heading.split() == ["due", "in", "subject", "key", "event"]
    assert [row.split()[-3:] for row in rows] == [
        ["parcel:17", "deadline", "parcel.overdue"],
        ["parcel:18", "deadline", "parcel.overdue"],
    ]
    assert "2 d 23 h" in rows[0]
    (timer,) = lines(onwhen("timers", "parcel:18", "--json").out)
    assert list(timer) == ["due", "due_in_seconds", "subject", "key", "event"]
    assert timedelta(days=2) < timedelta(seconds=timer["due_in_seconds"]) < timedelta(days=3)
    assert datetime.fromisoformat(timer["due"]).utcoffset() == timedelta(0)
    assert onwhen("timers", "parcel:1").err == "parcel:1 has set no timer.\n"


# -- retries


def test_retries_by_when_they_are_due(store: Path, onwhen: Onwhen) -> None:
    """With the attempt that is to come, and why the last one failed; parked ones are not among them."""
    calls = [("parcel.called", f"parcel:{number}") for number in (17, 18)]
    stores.fill(store, *calls, ("parcel.weighed", "parcel:19", -1))
    heading, *rows = onwhen("retries").out.splitlines()
    assert heading.split() == ["due", "in", "subject", "rule", "event", "attempt", "error"]
    assert ["ConnectionError" in row and "parcel.called" in row for row in rows] == [True, True]
    first, second = lines(onwhen("retries", "--json").out)
    names = ["due", "due_in_seconds", "subject", "rule", "event", "error", "attempt", "first_failed", "in_order"]
    assert list(first) == names
    assert {first["subject"], second["subject"]} == {"parcel:17", "parcel:18"}
    assert (first["attempt"], first["due"] <= second["due"]) == (2, True)
    assert 3000 < first["due_in_seconds"] < 4000  # an hour, and jitter
    (own,) = lines(onwhen("retries", second["subject"], "--json").out)
    assert {**own, "due_in_seconds": 0} == {**second, "due_in_seconds": 0}
    assert onwhen("retries", "parcel:19").err == "No retry of parcel:19 waits.\n"


# -- the log


def test_pending_events_in_order(parcels: Path, onwhen: Onwhen) -> None:
    """How many, and the age of the oldest, stand above them."""
    assert onwhen("log").err == "No event is pending.\n"
    stores.accept(parcels, ("parcel.sent", "parcel:20"), ("parcel.sent", "parcel:19"))
    summary, heading, *rows = onwhen("log").out.splitlines()
    assert summary.startswith("2 events are pending, the oldest for ")
    assert heading.split() == ["age", "starts", "subject", "event", "id"]
    assert [row.split()[3] for row in rows] == ["parcel:20", "parcel:19"]
    first, second = lines(onwhen("log", "--json").out)
    assert list(first) == ["position", "accepted", "age_seconds", "starts", "event"]
    assert (first["event"]["subject"], first["starts"]) == ("parcel:20", 0)
    assert first["position"] < second["position"]
    assert 0 <= first["age_seconds"] < 60
    assert len(lines(onwhen("log", "--json", "--limit", "1").out)) == 1


def test_the_logs_of_all_partitions_are_one(store: Path, onwhen: Onwhen) -> None:
    """By when events were accepted, and without being told how many partitions there are."""
    for number in range(6):
        stores.accept(store, ("parcel.sent", f"parcel:{number}"), partitions=4)
    subjects = [row["event"]["subject"] for row in lines(onwhen("log", "--json").out)]
    assert subjects == [f"parcel:{number}" for number in range(6)]
    assert json.loads(onwhen("stats", "--json").out)["partitions"] == 4


# -- counts


def test_counts(parcels: Path, onwhen: Onwhen) -> None:
    """Of everything, with the age of the oldest pending event and the size of the file."""
    stores.accept(parcels, ("parcel.sent", "parcel:20"))
    told = dict(line.split("  ", 1) for line in onwhen("stats").out.splitlines())
    assert {name: text.strip() for name, text in told.items()}.items() >= {
        "subjects": "2",
        "pending events": "1",
        "timers": "2",
        "dead letters": "0",
        "file": str(parcels.resolve()),
    }.items()
    facts = json.loads(onwhen("stats", "--json").out)
    assert list(facts) == [
        "subjects",
        "pending",
        "oldest",
        "oldest_age_seconds",
        "timers",
        "retries",
        "parked",
        "dead_letters",
        "partitions",
        "file",
        "file_bytes",
        "wal_bytes",
    ]
    assert (facts["subjects"], facts["pending"], facts["timers"], facts["parked"]) == (2, 1, 2, 0)
    assert 0 <= facts["oldest_age_seconds"] < 60
    assert facts["file_bytes"] == parcels.stat().st_size > 0


def test_counts_of_an_empty_store(store: Path, onwhen: Onwhen) -> None:
    """Nothing is pending, so nothing is old."""
    stores.fill(store)
    facts = json.loads(onwhen("stats", "--json").out)
    assert (facts["subjects"], facts["oldest"], facts["oldest_age_seconds"]) == (0, None, None)
    assert "oldest pending   -" in onwhen("stats").out
    for command in (["subjects", "list"], ["timers"], ["log"], ["deadletters", "list"], ["parked", "list"]):
        assert (onwhen(*command).out, onwhen(*command, "--json").err) == ("", "")
