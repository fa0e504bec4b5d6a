"""`onwhen explain`: an event tried out on a copy of a state, and what a store has kept, by one worker or many."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cli.fleets import Started, until

Cli = Callable[..., Any]
Onwhen = Callable[..., Any]
Launch = Callable[..., Started]

DESK = """
from datetime import timedelta
from pathlib import Path
from onwhen import RuleSet, Subject, changed, when

class Ticket(Subject, prefix="ticket:"):
    status: str = "new"
    owner: str | None = None
    moved: int = 0

tickets = RuleSet("tickets", subject=Ticket)
people = RuleSet("people")

@tickets.on("ticket.taken")
@when(lambda ctx: ctx.subject.status != "closed" and ctx.payload["by"] != ctx.subject.owner)
def take(ctx):
    print("a rule prints")
    Path("called").write_text(ctx.now.isoformat())
    ctx.subject.owner = ctx.payload["by"]
    ctx.emit("person.busy", {"ticket": ctx.subject.name}, f"person:{ctx.payload['by']}")
    ctx.emit("ticket.late", delay=timedelta(hours=8), key="sla")

@tickets.on(changed("owner", from_=lambda owner: owner is not None))
def move(ctx):
    ctx.subject.moved += 1

@people.on("person.busy")
@when(lambda ctx: not ctx.subject.get("away"))
def note(ctx):
    if ctx.subject.name == "person:eve":
        raise ConnectionError("no such person\\n\\x1b[31m")
    ctx.emit("ticket.told", subject=ctx.payload["ticket"])

@tickets.on("ticket.told")
def told(ctx):
    ctx.subject.set("status", "told")
"""
TAKEN = {"type": "ticket.taken", "subject": "ticket:1", "data": {"by": "ann"}, "time": "2026-03-02T08:00:00Z"}
REALLY = "The rules are really run, and what they call outside is really called; the state is a copy in memory.\n"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with `desk.py`, an app with two rule sets; imported in this process too, it is the one of this test."""
    (tmp_path / "desk.py").write_text(DESK)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    sys.modules.pop("desk", None)
    yield tmp_path
    sys.modules.pop("desk", None)


def plain(text: str) -> list[str]:
    """The lines of a tree, without where conditions stand."""
    return [line.partition("  (desk.py")[0] for line in text.splitlines()]


# -- an event that is tried out --------------------------------------------------------------------------------------


def test_an_event_is_tried_out_and_its_cascade_is_told(desk: Path, cli: Cli) -> None:
    """At the event's own time; that rules are really run is said, and what they print is kept apart."""
    ended = cli("explain", "desk", json.dumps(TAKEN))
    assert (ended.code, ended.err) == (0, f"{REALLY}a rule prints\n")
    assert plain(ended.out) == [
        "2026-03-02T08:00:00Z  ticket.taken to ticket:1 {'by': 'ann'}",
        "└─ fired tickets.take",
        '   ├─ held: ctx.subject.status != "closed" and ctx.payload["by"] != ctx.subject.owner',
        '   │  ├─ held: ctx.subject.status != "closed"',
        '   │  ├─ held: ctx.payload["by"] != ctx.subject.owner',
        "   │  └─ ctx.subject.status = 'new', ctx.payload['by'] = 'ann', ctx.subject.owner = None",
        "   ├─ owner: None -> 'ann'",
        "   │  └─ skipped tickets.move",
        "   │     └─ did not hold: changed('owner', from_=lambda at desk.py:23), which is owner is not None"
        "  [old value = None, new value = 'ann']",
        "   ├─ sent person.busy to person:ann {'ticket': 'ticket:1'}",
        "   │  └─ fired people.note",
        "   │     ├─ held: not ctx.subject.get(\"away\")  [ctx.subject.get('away') = None]",
        "   │     └─ sent ticket.told to ticket:1",
        "   │        └─ fired tickets.told",
        "   │           └─ status: 'new' -> 'told'",
        "   └─ set timer 'sla': ticket.late to ticket:1, due 2026-03-02T16:00:00Z",
    ]
    assert (desk / "called").read_text() == "2026-03-02T08:00:00+00:00"


def test_the_state_may_come_from_a_dump(desk: Path, cli: Cli) -> None:
    """As replay writes one; the file stays as it is. Something failed, so the exit code is 1."""
    (desk / "events").write_text(json.dumps({"specversion": "1.0", "id": "1", "source": "/", **TAKEN}) + "\n")
    assert cli("replay", "desk", "events", "--dump", "state").code == 0
    before = (desk / "state").read_bytes()
    (desk / "event.json").write_text(json.dumps({**TAKEN, "data": {"by": "eve"}}))
    ended = cli("explain", "desk", "@event.json", "--state", "state")
    assert ended.code == 1
    told = "\n".join(plain(ended.out))
    assert "owner: 'ann' -> 'eve'" in told
    assert "moved: 0 -> 1" in told
    assert "failed people.note: ConnectionError: no such person\\n\\x1b[31m; dead letter" in told
    assert (desk / "state").read_bytes() == before
    assert cli("explain", "desk", json.dumps(TAKEN), "--state", "-", stdin=before).code == 0


def test_the_state_may_come_from_a_store_which_is_only_read(desk: Path, cli: Cli) -> None:
    """Each subject as it is stored when it is first asked for, those that messages go to as well."""
    (desk / "events").write_text(
        "".join(
            json.dumps({"specversion": "1.0", "id": by, "source": "/", **TAKEN, "data": {"by": by}}) + "\n"
            for by in ("ann", "bob")
        )
    )
    assert cli("replay", "desk", "events", "--store", "sqlite:///desk.db").code == 0
    before = cli("subjects", "list", "--store", "sqlite:///desk.db", "--json").out
    ended = cli("explain", "desk", json.dumps(TAKEN), "--store", "sqlite:///desk.db", "--format", "json")
    (event,) = json.loads(ended.out)["events"]
    taken, *_ = event["turns"][0]["runs"]
    assert taken["changes"][0]["old"] == "'bob'"
    assert taken["changes"][0]["reactions"][0]["changes"][0]["old"] == "1"
    assert cli("subjects", "list", "--store", "sqlite:///desk.db", "--json").out == before


def test_an_event_may_be_read_from_standard_input(desk: Path, cli: Cli) -> None:
    """A whole CloudEvent, too; without a time it is now."""
    event = {"specversion": "1.0", "id": "7", "source": "/desk", "type": "ticket.told", "subject": "ticket:1"}
    told = json.loads(cli("explain", "desk", "-", "--format", "json", stdin=json.dumps(event).encode()).out)
    assert (told["version"], told["events"][0]["id"], told["events"][0]["source"]) == (1, "7", "/desk")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["desk"], "explain needs an EVENT behind APP"),
        ([], "explain needs APP and EVENT, to try an event out; or, for what was kept, --id, --subject"),
        (["desk", "{}", "--id", "1"], "--id, --subject, --failed and --last are about what a store has kept"),
        (["--id", "1", "--state", "x"], "--state is for an event that is tried out"),
        (["desk", "{}", "--state", "x", "--store", "sqlite:///x"], "give one of them"),
        (["desk", "-", "--state", "-"], "cannot both be read from standard input"),
        (["desk", "{"], "EVENT: not JSON"),
        (["desk", "[]"], "EVENT: must be a JSON object"),
        (["desk", '{"type": "a"}'], "subject: missing"),
        (["desk", "@nowhere"], "EVENT @nowhere: No such file"),
        (["desk", json.dumps(TAKEN), "--state", "nowhere"], "--state nowhere: No such file"),
        (["desk", json.dumps(TAKEN), "--state", "desk.py"], "desk.py:2: not JSON"),
        (["desk", json.dumps(TAKEN), "--state", "odd"], "odd:2: must be a line of a dump, with subject and properties"),
        (["desk", json.dumps(TAKEN), "--state", "wrong"], "wrong:1: ticket:1"),
        (["desk", json.dumps(TAKEN), "--state", "twice"], "twice:3: ticket:1 is there already, at twice:1"),
        (["--id", "x"], "no store is named"),
        (["--failed"], "no store is named"),
        (["--last", "0"], "--last 0: must be at least 1"),
        (["desk", "{}", "--failed"], "leave them out, or APP and EVENT"),
        (["--id", "x", "--store", "sqlite:///nowhere.db"], "there is no such file"),
    ],
)
def test_what_cannot_be_done_is_refused(
    desk: Path, onwhen: Onwhen, monkeypatch: pytest.MonkeyPatch, arguments: list[str], problem: str
) -> None:
    """With a word on what to do; nothing was run."""
    monkeypatch.chdir(desk)
    monkeypatch.delenv("ONWHEN_STORE", raising=False)
    (desk / "odd").write_text('{"subject": "ticket:2", "properties": {}}\n{"subject": 5, "properties": {}}\n')
    (desk / "wrong").write_text('{"subject": "ticket:1", "properties": {"moved": "many"}, "ext": {}}\n')
    (desk / "twice").write_text('{"subject": "ticket:1", "properties": {}}\n\n' * 2)
    ended = onwhen("explain", *arguments)
    assert ended.code == 2
    assert problem in ended.err
    assert ended.out == ""
    assert not (desk / "called").exists()


# -- what was kept -------------------------------------------------------------------------------------------------


def test_what_a_file_has_kept_is_told_by_correlation_id_and_by_subject(desk: Path, cli: Cli) -> None:
    """All of a sampled cascade as one tree; of one subject only its own turns, and what is missing is said."""
    event = {"specversion": "1.0", "id": "first", "source": "/", **TAKEN}
    (desk / "events").write_text(json.dumps(event) + "\n")
    kept = {"ONWHEN_STORE": "sqlite:///desk.db", "ONWHEN_EXPLAIN_SAMPLE": "1"}
    assert cli("replay", "desk", "events", "--store", "sqlite:///desk.db", **kept).code == 0
    whole = plain(cli("explain", "--id", "first", **kept).out)
    assert whole[0].endswith("Z  ticket.taken to ticket:1 {'by': 'ann'}")
    assert "   │        └─ fired tickets.told" in whole
    assert whole[-1] == "      └─ what became of it was not kept, or it is not due yet"
    person = plain(cli("explain", "--subject", "person:ann", **kept).out)
    assert "  person.busy to person:ann" in person[0]
    assert person[1].startswith("├─ id ")
    assert person[1].endswith(", correlation id first")
    assert person[2] == "├─ follows from something that is not told here, event first"
    assert person[-1] == "      └─ what became of it was not kept"
    told = json.loads(cli("explain", "--id", "first", "--subject", "person:ann", "--format", "json", **kept).out)
    assert [one["subject"] for one in told["events"]] == ["person:ann"]


def test_failures_and_the_latest_turns_are_told_by_themselves(desk: Path, cli: Cli) -> None:
    """For who knows no id yet; any id of an event leads to the whole cascade then."""
    events = [
        {"specversion": "1.0", "id": f"{by}-{number}", "source": "/", **TAKEN, "data": {"by": by}}
        for number, by in enumerate(["ann", "eve", "bob"])
    ]
    (desk / "events").write_text("".join(json.dumps(event) + "\n" for event in events))
    kept = {"ONWHEN_STORE": "sqlite:///desk.db", "ONWHEN_EXPLAIN_SAMPLE": "1"}
    assert cli("replay", "desk", "events", "--store", "sqlite:///desk.db", **kept).code == 1
    (failed,) = json.loads(cli("explain", "--failed", "--format", "json", **kept).out)["events"]
    assert (failed["subject"], failed["correlation"]) == ("person:eve", "eve-1")
    assert failed["turns"][0]["runs"][0]["place"] == "desk.py:31"
    told = cli("explain", "--failed", **kept).out.splitlines()
    assert told[1] == f"├─ id {failed['id']}, correlation id eve-1"
    whole = cli("explain", "--id", failed["id"], **kept).out
    assert whole == cli("explain", "--id", "eve-1", **kept).out
    assert "owner: 'ann' -> 'eve'" in whole
    latest = cli("explain", "--last", "1", "--subject", "ticket:1", **kept).out
    assert "  ticket.told to ticket:1" in latest.splitlines()[0]
    two = cli("explain", "--last", "2", "--subject", "ticket:1", **kept).out.split("\n\n")
    assert two[-1] == latest
    ended = cli("explain", "--failed", "--subject", "ticket:1", **kept)
    assert (ended.code, ended.out) == (1, "")
    assert "No failure was kept of subject ticket:1." in ended.err


def test_nothing_kept_is_said_with_how_to_keep_it(desk: Path, cli: Cli) -> None:
    """On standard error, with exit code 1."""
    (desk / "events").write_text(json.dumps({"specversion": "1.0", "id": "first", "source": "/", **TAKEN}) + "\n")
    assert cli("replay", "desk", "events", "--store", "sqlite:///desk.db").code == 0
    ended = cli("explain", "--id", "first", "--store", "sqlite:///desk.db")
    assert (ended.code, ended.out) == (1, "")
    assert "Nothing was kept of id first." in ended.err
    assert "ONWHEN_EXPLAIN_SAMPLE" in ended.err
    assert ended.err.endswith("the latest ones of each partition; this one has none.\n")


def test_what_several_workers_have_kept_is_one_tree(
    desk: Path, deployment: Mapping[str, str], launch: Launch, onwhen: Onwhen
) -> None:
    """On a real Redis: its messages went to partitions of both; a failure is kept without any sample as well."""
    for name, own in (("one", "0-1"), ("two", "2-3")):
        worker = launch("worker", "desk", "--id", name, "--own", own, ONWHEN_EXPLAIN_SAMPLE="1")
        worker.says("owns 2 of 4 partitions")
    assert onwhen("emit", "ticket.taken", "ticket:1", "--data", '{"by": "ann"}', "--id", "first").code == 0

    def whole() -> list[str]:  # the partitions are read one after the other, while workers go on
        lines = plain(onwhen("explain", "--id", "first").out)
        return lines if sum("fired" in line for line in lines) == 3 else []

    told = until(whole)
    assert told[1:3] == ["├─ id first, correlation id first", "└─ fired tickets.take"]
    assert "   ├─ sent person.busy to person:ann {'ticket': 'ticket:1'}" in told
    assert sum("owner: None -> 'ann'" in line for line in told) == 1
    assert not any("was not kept" in line for line in told[:-1])
    assert onwhen("explain", "--id", "other").code == 1


def test_a_failure_is_kept_by_a_worker_without_a_sample(desk: Path, launch: Launch, onwhen: Onwhen) -> None:
    """The rest of its cascade is not, which is said."""
    launch("worker", "desk").says("owns 4 of 4 partitions")
    assert onwhen("emit", "ticket.taken", "ticket:1", "--data", '{"by": "eve"}', "--id", "first").code == 0
    told = until(lambda: onwhen("explain", "--id", "first").out)
    assert [line for line in plain(told) if "event first" in line or "failed" in line] == [
        "├─ follows from something that is not told here, event first",
        "└─ failed people.note: ConnectionError: no such person\\n\\x1b[31m; dead letter",
    ]


# -- where it is shown -----------------------------------------------------------------------------------------------


def test_a_pipe_without_utf8_is_shown_plain_signs(desk: Path, cli: Cli) -> None:
    """The tree is the same."""
    ended = cli("explain", "desk", json.dumps(TAKEN), PYTHONIOENCODING="ascii")
    assert ended.out.isascii()
    assert "`- fired tickets.take" in ended.out


def test_a_terminal_is_shown_the_same_tree_in_colours(
    desk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line under the other, broken where the terminal ends; nothing in it acts on the terminal."""
    from onwhen.cli._main import run

    monkeypatch.chdir(desk)
    for name, value in (("TERM", "xterm"), ("COLUMNS", "200"), ("FORCE_COLOR", "1"), ("TTY_COMPATIBLE", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert run(["explain", "desk", json.dumps({**TAKEN, "data": {"by": "eve"}})]) == 1
    told = capsys.readouterr().out
    assert "\x1b[32mfired tickets.take\x1b[0m" in told
    failed = "failed people.note: ConnectionError: no such person\\n\\x1b[31m; dead letter  (desk.py:31)"
    assert f"\x1b[1;31m{failed}\x1b[0m" in told
