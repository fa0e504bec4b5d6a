"""`onwhen emit`: one event into a store."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli import stores
from tests.cli.fleets import APP, Started

Launch = Callable[..., Started]
Onwhen = Callable[..., Any]
Cli = Callable[..., Any]


def pending(onwhen: Onwhen) -> list[dict[str, Any]]:
    """Events that are pending, oldest first."""
    return [json.loads(line)["event"] for line in onwhen("log", "--json").out.splitlines()]


def test_an_event_is_accepted(made: None, onwhen: Onwhen) -> None:
    """It is in the log then, as it was typed; id and time are filled in."""
    ended = onwhen("emit", "order.placed", "order:7", "--data", '{"by": "ann"}')
    assert (ended.code, ended.err) == (0, "")
    [event] = pending(onwhen)
    assert ended.out == f"order.placed to order:7: accepted, id {event['id']}, partition 0\n"
    assert event["time"]
    assert (event["type"], event["subject"], event["source"]) == ("order.placed", "order:7", "onwhen")
    assert event["data"] == {"by": "ann"}


def test_scripts_get_json(made: None, onwhen: Onwhen) -> None:
    """One object, with what became of it, and where it is."""
    time = "2026-03-02T08:00:00+01:00"
    ended = onwhen("emit", "order.placed", "order:7", "--id", "mail-1", "--time", time, "--json")
    facts = json.loads(ended.out)
    assert facts.pop("position") > 0
    assert facts == {
        "status": "accepted",
        "id": "mail-1",
        "source": "onwhen",
        "type": "order.placed",
        "subject": "order:7",
        "time": "2026-03-02T07:00:00.000000Z" if "." in facts["time"] else "2026-03-02T07:00:00Z",
        "partition": 0,
    }


def test_a_second_event_of_an_id_is_not_accepted(made: None, onwhen: Onwhen) -> None:
    """That is no fault: whoever is not sure sends it again."""
    for told in ("accepted, id mail-1", "was accepted before, id mail-1"):
        ended = onwhen("emit", "order.placed", "order:7", "--id", "mail-1")
        assert ended.code == 0
        assert told in ended.out
    assert json.loads(onwhen("emit", "order.placed", "order:7", "--id", "mail-1", "--json").out)["status"] == (
        "duplicate"
    )
    assert len(pending(onwhen)) == 1


def test_data_come_from_files_and_pipes(
    made: None, deployment: Mapping[str, str], cli: Cli, onwhen: Onwhen, tmp_path: Path
) -> None:
    """As with curl: @ and the name of a file, or - for standard input."""
    (tmp_path / "data.json").write_text('{"from": "a file"}')
    assert onwhen("emit", "order.placed", "order:1", "--data", "@data.json").code == 0
    piped = cli("emit", "order.placed", "order:1", "--data", "-", stdin=b'\xef\xbb\xbf["a pipe"]', **deployment)
    assert piped.code == 0
    assert onwhen("emit", "order.placed", "order:1", "--data", "-1").code == 0
    assert onwhen("emit", "order.placed", "order:1").code == 0
    assert [event.get("data") for event in pending(onwhen)] == [{"from": "a file"}, ["a pipe"], -1, None]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--data", "hello"], "--data: not JSON: Expecting value at line 1, column 1; text is JSON in double quotes"),
        (["--data", '{"a": 1, "a": 2}'], '--data: duplicate key "a"; keep one\n'),
        (["--data", "NaN"], "--data"),
        (["--data", "@nothing.json"], "--data @nothing.json: No such file or directory"),
        (["--time", "yesterday"], "--time 'yesterday': is no moment"),
        (["--time", "2026-03-02T08:00:00"], "has no time zone"),
        (["--id", ""], "id"),
        (["--wait", "-1"], "--wait -1: must be 0 seconds or more"),
        (["--data", f'"{"x" * 2_000_000}"'], "more than the limit"),
    ],
)
def test_what_is_no_event_is_refused(made: None, onwhen: Onwhen, options: list[str], told: str) -> None:
    """With the reason; nothing is sent."""
    ended = onwhen("emit", "order.placed", "order:1", *options)
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err
    assert pending(onwhen) == []


def test_nothing_is_made_by_mistake(deployment: object, onwhen: Onwhen) -> None:
    """An event for a store that is not there would be handled by nobody."""
    for _ in range(2):
        ended = onwhen("emit", "order.placed", "order:1")
        assert (ended.code, ended.out) == (2, "")
        assert "there is nothing" in ended.err


def test_too_many_events_are_refused(made: None, onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch) -> None:
    """With how many are pending, and an exit code that says to send it again later."""
    monkeypatch.setenv("ONWHEN_MAX_BACKLOG", "2")
    codes = [onwhen("emit", "order.placed", "order:1").code for _ in range(2)]
    ended = onwhen("emit", "order.placed", "order:1")
    assert (codes, ended.code, ended.out) == ([0, 0], 75, "")
    assert "partition 1" in ended.err
    assert " 2 " in ended.err
    assert onwhen("emit", "order.placed", "order:7").code == 0  # another partition
    assert len(pending(onwhen)) == 3


def test_waiting_until_it_is_handled(launch: Launch, onwhen: Onwhen) -> None:
    """Scripts are told in the same object; one that was handled before needs no waiting."""
    launch("worker", APP).says("owns 4 of 4")
    ended = onwhen("emit", "order.placed", "order:7", "--id", "mail-1", "--wait", "20")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[1].startswith("handled after 0.") or "handled after" in ended.out
    again = onwhen("emit", "order.placed", "order:7", "--id", "mail-1", "--wait", "20")
    assert (again.code, again.out) == (
        0,
        "order.placed to order:7: was accepted before, and is not pending, id mail-1, partition 0\n",
    )
    assert json.loads(onwhen("emit", "order.placed", "order:7", "--wait", "20", "--json").out)["status"] == "handled"


def test_waiting_in_vain(made: None, onwhen: Onwhen) -> None:
    """The event is accepted all the same, and that is told first."""
    ended = onwhen("emit", "order.placed", "order:7", "--wait", "0.1")
    assert ended.code == 1
    assert "accepted" in ended.out
    assert ended.err == "It is not handled yet, after 0.1 s; it is when a worker comes to it.\n"
    assert len(pending(onwhen)) == 1


def test_an_event_into_a_file(store: Path, onwhen: Onwhen) -> None:
    """It waits there for the program that the file belongs to; so there is nobody to wait for."""
    assert onwhen("emit", "parcel.said", "parcel:1", "--data", '"hello"').code == 2
    stores.fill(store)
    assert onwhen("emit", "parcel.said", "parcel:1", "--data", '"hello"').code == 0
    assert [event["data"] for event in pending(onwhen)] == ["hello"]
    ended = onwhen("emit", "parcel.said", "parcel:1", "--wait", "1")
    assert ended.code == 2
    assert "handled when your program opens it" in ended.err
    stores.fill(store)
    assert json.loads(onwhen("subjects", "get", "parcel:1", "--json").out)["properties"] == {"status": "hello"}


def test_what_could_act_on_a_terminal_is_escaped(made: None, onwhen: Onwhen) -> None:
    """Names may hold anything that is text."""
    ended = onwhen("emit", "order.placed", "order:\x1b[31m1")
    assert "\x1b" not in ended.out + ended.err


def test_settings_of_the_source(made: None, onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who sends it is said as everywhere else."""
    settings: Mapping[str, str] = {"ONWHEN_SOURCE": "/shop/counter"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert json.loads(onwhen("emit", "order.placed", "order:1", "--json").out)["source"] == "/shop/counter"
