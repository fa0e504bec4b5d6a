"""The commands for what was set aside: dead letters, and parked subjects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from onwhen.cli._letters import Selection
from onwhen.engine.store import DeadLetter, Store
from tests.cli import stores

Onwhen = Callable[..., Any]


def lines(text: str) -> list[dict[str, Any]]:
    """What JSON lines say."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def letters(store: Path, onwhen: Onwhen) -> list[str]:
    """Ids of three dead letters, oldest first: two labels that were not printed, and one of a cascade."""
    stores.fill(
        store,
        ("parcel.labelled", "parcel:1", "first"),
        ("parcel.labelled", "parcel:2", "second"),
        ("parcel.opened", "parcel:3"),
    )
    return [row["id"] for row in lines(onwhen("deadletters", "list", "--json").out)]


def ids(onwhen: Onwhen, *options: str) -> list[str]:
    """Ids of the dead letters that a command lists."""
    return [row["id"] for row in lines(onwhen("deadletters", "list", "--json", *options).out)]


def ext(onwhen: Onwhen, subject: str) -> Any:
    """Extended properties of a subject."""
    return json.loads(onwhen("subjects", "get", subject, "--json").out)["ext"]


# -- listed and shown


def test_dead_letters_are_listed(letters: list[str], onwhen: Onwhen) -> None:
    """Oldest first; an error takes one line, whatever is in it."""
    heading, *rows = onwhen("deadletters", "list").out.splitlines()
    assert heading.split() == ["id", "age", "rule", "subject", "event", "error"]
    assert [row.split()[0] for row in rows] == letters
    assert "depot.print_label  parcel:1  parcel.labelled  ConnectionError: no printer\\n\\x1b[31mcall" in rows[0]


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (["--subject", "parcel:2"], [1]),
        (["--rule", "depot.print_label"], [0, 1, 2]),
        (["--type", "parcel.labelled", "--subject", "parcel:3"], [2]),
        (["--type", "parcel.opened"], []),
        (["--rule", ""], []),
        (["--limit", "2"], [0, 1]),
    ],
)
def test_some_of_them(letters: list[str], onwhen: Onwhen, options: list[str], found: list[int]) -> None:
    """By rule, subject and type of the event; all that are given have to fit."""
    assert ids(onwhen, *options) == [letters[number] for number in found]


def test_one_of_them(letters: list[str], onwhen: Onwhen) -> None:
    """Event, rule, error with traceback, attempts and times; named by the beginning of its id."""
    ended = onwhen("deadletters", "show", letters[0][:8])
    facts, event, traceback = ended.out.split("\n\n")
    told = {line[:12].strip(): line[12:].strip() for line in facts.splitlines()}
    assert (told["id"], told["rule"], told["attempts"]) == (letters[0], "depot.print_label", "1")
    assert (told["error"], told["message"]) == ("ConnectionError", "no printer\\n\\x1b[31mcall the desk")
    assert json.loads(event.removeprefix("Event\n"))["data"] == "first"
    assert traceback.startswith("Traceback\n  Traceback (most recent call last):\n")
    assert 'needs("PRINTER")' in traceback
    assert "\x1b" not in ended.out


def test_the_cascade_of_one(letters: list[str], onwhen: Onwhen) -> None:
    """The event at its root, the one that caused it, and how many lie between."""
    facts = json.loads(onwhen("deadletters", "show", letters[2], "--json").out)
    assert list(facts) == [
        "id",
        "rule",
        "subject",
        "event",
        "error",
        "attempts",
        "first_failed",
        "time",
        "cascade",
    ]
    cascade = facts["cascade"]
    assert cascade["depth"] == 1
    assert cascade["correlation_id"] == cascade["causation_id"] != facts["event"]["id"]
    assert cascade["trail"] is None
    assert facts["error"]["message"] == "no printer\n\x1b[31mcall the desk"
    assert facts["error"]["traceback"].startswith("Traceback")


def test_the_trail_of_a_chain_that_is_too_long(store: Path, onwhen: Onwhen) -> None:
    """The rules and types that led to it, as far as they are known."""
    stores.fill(store, ("parcel.turned", "parcel:1"))
    (id,) = ids(onwhen)
    trail = json.loads(onwhen("deadletters", "show", id, "--json").out)["cascade"]["trail"]
    assert trail[-2:] == ["depot.turn", "parcel.turned"]
    assert "depot.turn -> parcel.turned" in onwhen("deadletters", "show", id).out


# -- replayed


def test_one_is_replayed(letters: list[str], onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule runs on its event once more, and the dead letter is gone."""
    monkeypatch.setenv("PRINTER", "on")
    ended = onwhen("deadletters", "replay", stores.APP, letters[1][:6])
    assert (ended.code, ended.err) == (0, "1 replayed.\n")
    assert ended.out == f"{letters[1][:12]} depot.print_label on parcel:2: handled\n"
    assert ids(onwhen) == [letters[0], letters[2]]
    assert ext(onwhen, "parcel:2") == {"label": "second"}


@pytest.mark.parametrize("options", [["--all"], ["--rule", "depot.print_label"], ["--type", "parcel.labelled"]])
def test_several_are_replayed(
    letters: list[str], onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    """By what they are about, or all; oldest first."""
    monkeypatch.setenv("PRINTER", "on")
    ended = onwhen("deadletters", "replay", stores.APP, *options)
    assert (ended.code, ended.err) == (0, "3 replayed.\n")
    assert [line.split()[0] for line in ended.out.splitlines()] == [id[:12] for id in letters]
    assert ids(onwhen) == []


def test_what_fails_again_stays(letters: list[str], onwhen: Onwhen) -> None:
    """With one more attempt; and that is told, by the exit code as well."""
    ended = onwhen("deadletters", "replay", stores.APP, letters[0])
    assert (ended.code, ended.err) == (1, "1 replayed; 1 of them with failures.\n")
    assert "depot.print_label on parcel:1: failed again: ConnectionError: no printer\\n\\x1b[31mcall" in ended.out
    assert set(ids(onwhen)) == set(letters)
    assert json.loads(onwhen("deadletters", "show", letters[0], "--json").out)["attempts"] == 2


def test_what_will_be_retried_is_told(store: Path, onwhen: Onwhen) -> None:
    """A rule that is replayed has all its attempts again; the command does not wait for them."""
    stores.leave(store, "depot.call", "parcel.called", "parcel:1")
    ended = onwhen("deadletters", "replay", stores.APP, "--all")
    assert (ended.code, ended.err) == (1, "1 replayed; 1 of them with failures.\n")
    assert "depot.call on parcel:1: failed again, to be retried at 2" in ended.out
    assert ids(onwhen) == []
    assert json.loads(onwhen("stats", "--json").out)["retries"] == 1


def test_what_follows_may_fail(store: Path, onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is no failure of the rule that is replayed, but it is told."""
    stores.fill(store, ("parcel.announced", "parcel:1"))
    monkeypatch.setenv("DESK", "on")
    ended = onwhen("deadletters", "replay", stores.APP, "--all")
    assert (ended.code, ended.err) == (1, "1 replayed; 1 of them with failures.\n")
    assert "handled, but what followed has failed: depot.print_label: ConnectionError" in ended.out
    (letter,) = lines(onwhen("deadletters", "list", "--json").out)
    assert letter["rule"] == "depot.print_label"


def test_a_dead_letter_that_is_gone_meanwhile(
    letters: list[str], onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is passed over: a rule that was run before has discarded it, perhaps."""
    monkeypatch.setenv("PRINTER", "on")
    found = Selection.found_in

    async def twice(self: Selection, store: Store) -> Any:
        async for letter in found(self, store):
            yield letter
            yield letter

    monkeypatch.setattr(Selection, "found_in", twice)
    ended = onwhen("deadletters", "replay", stores.APP, "--all")
    assert (ended.code, ended.err) == (0, "3 replayed.\n")


def test_nothing_to_replay(letters: list[str], onwhen: Onwhen) -> None:
    """Is no failure."""
    ended = onwhen("deadletters", "replay", stores.APP, "--subject", "parcel:9")
    assert (ended.code, ended.out, ended.err) == (0, "", "There was nothing to replay.\n")


def test_a_replay_handles_what_is_pending_as_well(
    store: Path, letters: list[str], onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every bus does that is opened on a store; the command waits for that."""
    stores.accept(store, ("parcel.said", "parcel:9", "hello"))
    monkeypatch.setenv("PRINTER", "on")
    assert onwhen("deadletters", "replay", stores.APP, letters[0]).code == 0
    assert onwhen("log", "--json").out == ""
    assert json.loads(onwhen("subjects", "get", "parcel:9", "--json").out)["properties"] == {"status": "hello"}


# -- discarded


def test_dead_letters_are_discarded(store: Path, letters: list[str], onwhen: Onwhen) -> None:
    """Without any rule: what is pending stays pending."""
    stores.accept(store, ("parcel.sent", "parcel:9"))
    ended = onwhen("deadletters", "discard", letters[0], letters[2][:8])
    assert (ended.code, ended.err) == (0, "2 discarded.\n")
    assert ids(onwhen) == [letters[1]]
    assert onwhen("deadletters", "discard", "--subject", "parcel:1").err == "0 discarded.\n"
    assert onwhen("deadletters", "discard", "--all").err == "1 discarded.\n"
    assert ids(onwhen) == []
    assert len(lines(onwhen("log", "--json").out)) == 1


# -- which ones


@pytest.mark.parametrize("command", [["replay", stores.APP], ["discard"]])
def test_it_has_to_be_said_which_ones(letters: list[str], onwhen: Onwhen, command: list[str]) -> None:
    """In one way only; otherwise nothing is done."""
    for options in ([], [letters[0], "--all"], ["--all", "--rule", "a"], [letters[0], "--type", "b"]):
        ended = onwhen("deadletters", *command, *options)
        assert ended.code == 2
        assert "--all" in ended.err
    assert ids(onwhen) == letters


@pytest.mark.parametrize("command", [["show"], ["replay", stores.APP], ["discard"]])
def test_an_id_has_to_be_one(letters: list[str], onwhen: Onwhen, command: list[str]) -> None:
    """One that is not there, or too short to be meant, is an error; nothing is done."""
    for id, told in (("0123456789", "there is no dead letter 0123456789"), (letters[0][:3], "too short")):
        ended = onwhen("deadletters", *command, id)
        assert ended.code == 2
        assert told in ended.err
    assert ids(onwhen) == letters


def test_the_beginning_of_several_ids_is_none(
    letters: list[str], onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole of one is, even if others began with it."""
    from onwhen.storage.sqlite import SqliteStore

    found = SqliteStore.dead_letters

    async def alike(self: Any) -> Any:
        async for letter in found(self):
            yield DeadLetter(
                **{name: getattr(letter, name) for name in letter.__struct_fields__} | {"id": "abcd" + letter.id}
            )

    monkeypatch.setattr(SqliteStore, "dead_letters", alike)
    ended = onwhen("deadletters", "show", "abcd")
    assert (ended.code, ended.out) == (2, "")
    assert "several dead letters begin with abcd" in ended.err
    assert letters[0] in onwhen("deadletters", "show", letters[0]).out


# -- parked


@pytest.fixture
def parked(store: Path) -> Path:
    """A store with two subjects that are parked, one of them with an event that waits behind it."""
    stores.fill(
        store,
        ("parcel.weighed", "parcel:1", 5),
        ("parcel.weighed", "parcel:2", 7),
        ("parcel.said", "parcel:2", "hello"),
    )
    return store


def test_parked_subjects_are_listed(parked: Path, onwhen: Onwhen) -> None:
    """With what they are parked at, and how long."""
    heading, *rows = onwhen("parked", "list").out.splitlines()
    assert heading.split() == ["parked", "for", "subject", "rule", "event", "attempts", "error"]
    assert [row.split()[2:6] for row in rows] == [
        ["parcel:1", "depot.weigh", "parcel.weighed", "1"],
        ["parcel:2", "depot.weigh", "parcel.weighed", "1"],
    ]
    first, _ = lines(onwhen("parked", "list", "--json").out)
    assert list(first) == [
        "subject",
        "rule",
        "event",
        "error",
        "attempts",
        "first_failed",
        "parked",
        "parked_seconds",
    ]
    assert (first["subject"], first["attempts"], first["error"]["type"]) == ("parcel:1", 1, "ConnectionError")
    assert len(lines(onwhen("log", "--json").out)) == 1


def test_a_retry_that_waits_is_not_parked(store: Path, onwhen: Onwhen) -> None:
    """It will be run by itself; it can neither be resumed nor skipped."""
    stores.fill(store, ("parcel.called", "parcel:1"))
    assert json.loads(onwhen("stats", "--json").out)["retries"] == 1
    assert onwhen("parked", "list", "--json").out == ""
    assert onwhen("parked", "skip", "parcel:1").code == 2
    assert onwhen("parked", "skip", "--all").err == "0 skipped.\n"


def test_partitions_are_those_of_the_file(store: Path, onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch) -> None:
    """No command has to be told how many there are, those that write neither."""
    subjects = [f"parcel:{number}" for number in range(8)]
    stores.fill(store, *(("parcel.weighed", subject, 5) for subject in subjects), partitions=4)
    assert onwhen("parked", "skip", *subjects[:2]).err.startswith("2 skipped")
    assert onwhen("deadletters", "discard", "--subject", subjects[0]).err == "1 discarded.\n"
    monkeypatch.setenv("SCALES", "on")
    assert onwhen("deadletters", "replay", stores.APP, "--all").err == "1 replayed.\n"
    assert onwhen("parked", "resume", stores.APP, "--all").err == "6 resumed.\n"
    assert onwhen("migrate", stores.APP).out == "migrated 0, current 7, failed 0\n"


def test_a_parked_subject_is_resumed(parked: Path, onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was parked at goes through, and its later events follow."""
    monkeypatch.setenv("SCALES", "on")
    ended = onwhen("parked", "resume", stores.APP, "parcel:2")
    assert (ended.code, ended.out) == (0, "parcel.weighed to parcel:2: handled\n")
    assert ended.err == "Handled as well, because it was pending: 1 event.\n1 resumed.\n"
    properties = json.loads(onwhen("subjects", "get", "parcel:2", "--json").out)["properties"]
    assert properties == {"weight": 7, "status": "hello"}
    assert [row["subject"] for row in lines(onwhen("parked", "list", "--json").out)] == ["parcel:1"]
    assert onwhen("parked", "resume", stores.APP, "--all").code == 0
    assert onwhen("parked", "list", "--json").out == ""


def test_a_subject_that_fails_again_stays_parked(parked: Path, onwhen: Onwhen) -> None:
    """And its later events wait on."""
    ended = onwhen("parked", "resume", stores.APP, "--all")
    assert (ended.code, ended.err) == (1, "2 resumed; 2 of them with failures.\n")
    assert "failed again: ConnectionError" in ended.out
    assert [row["attempts"] for row in lines(onwhen("parked", "list", "--json").out)] == [2, 2]
    assert len(lines(onwhen("log", "--json").out)) == 1


def test_a_parked_subject_skips(parked: Path, onwhen: Onwhen) -> None:
    """A dead letter is left; no rule is run, and the later event is handled by whoever opens the store."""
    ended = onwhen("parked", "skip", "parcel:2")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == "1 skipped; 'onwhen deadletters list' shows it.\n"
    (letter,) = lines(onwhen("deadletters", "list", "--json").out)
    assert (letter["subject"], letter["rule"], letter["attempts"]) == ("parcel:2", "depot.weigh", 1)
    assert len(lines(onwhen("log", "--json").out)) == 1
    stores.fill(parked)
    assert json.loads(onwhen("subjects", "get", "parcel:2", "--json").out)["properties"] == {"status": "hello"}
    assert "1 skipped" in onwhen("parked", "skip", "--all").err
    assert len(lines(onwhen("deadletters", "list", "--json").out)) == 2


@pytest.mark.parametrize("command", [["resume", stores.APP], ["skip"]])
def test_it_has_to_be_said_which_subjects(parked: Path, onwhen: Onwhen, command: list[str]) -> None:
    """Parked ones, by name, or all; otherwise nothing is done."""
    for options, told in (
        ([], "which subjects"),
        (["parcel:1", "--all"], "by their names, or by --all"),
        (["parcel:1", "parcel:3"], "parcel:3 is not parked"),
    ):
        ended = onwhen("parked", *command, *options)
        assert ended.code == 2
        assert told in ended.err
    assert [row["attempts"] for row in lines(onwhen("parked", "list", "--json").out)] == [1, 1]
