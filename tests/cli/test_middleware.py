"""Middleware that the environment switches on, in commands as they are run: workers, replays."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.fleets import APP, Started

Launch = Callable[..., Started]
Onwhen = Callable[..., Any]


def test_a_worker_wraps_what_the_environment_names(launch: Launch, onwhen: Onwhen) -> None:
    """Over a real server: of two orders in an hour, one is put off; rules that are not meant run as ever."""
    chosen = ["logging", {"rate_limit": {"rate": 1, "per": "PT1H", "only": "shop.place"}}]
    launch("worker", APP, ONWHEN_MIDDLEWARE=json.dumps(chosen)).says("owns 4 of 4 partitions")
    for what, order in (("placed", 1), ("placed", 2), ("printed", 3), ("printed", 4)):
        assert onwhen("emit", f"order.{what}", f"order:{order}", "--wait", "20").code == 0
    retry = json.loads(onwhen("retries", "--json").out)  # one line for each
    assert (retry["rule"], retry["subject"]) == ("shop.place", "order:2")
    assert retry["error"]["type"] == "onwhen.errors.RateLimited"


def test_a_worker_that_cannot_wrap_it_says_so_and_ends(launch: Launch) -> None:
    """Before it takes any partition."""
    worker = launch("worker", APP, ONWHEN_MIDDLEWARE="logging,trcing")
    assert worker.ends() == 2
    assert "ONWHEN_MIDDLEWARE='logging,trcing': there is no middleware 'trcing'; there are logging" in worker.told
    assert "Traceback" not in worker.told


@pytest.mark.parametrize("chosen", ["", "logging", '[{"deduplication": {"key": "wrapped_rules:same"}}]'])
def test_a_replay_wraps_it_too(chosen: str, onwhen: Onwhen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules, so the same state as where they are run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrapped_rules.py").write_text(
        "from onwhen import RuleSet\n"
        "desk = RuleSet('desk')\n"
        "@desk.on('go')\n"
        "def count(ctx): ctx.subject.set('n', ctx.subject.get('n', 0) + 1)\n"
        "def same(ctx): return 'same'\n"
    )
    event = {"specversion": "1.0", "source": "s", "type": "go", "subject": "a", "time": "2026-11-20T12:00:00Z"}
    (tmp_path / "events.ndjson").write_text("".join(json.dumps({**event, "id": str(n)}) + "\n" for n in range(3)))
    monkeypatch.setenv("ONWHEN_MIDDLEWARE", chosen)
    assert onwhen("replay", "wrapped_rules", "events.ndjson", "--dump", "state.ndjson").code == 0
    [state] = map(json.loads, (tmp_path / "state.ndjson").read_text().splitlines())
    assert state["properties"] == {"n": 1 if "deduplication" in chosen else 3}


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_worker_writes_log_records_to_standard_error(form: str, launch: Launch, onwhen: Onwhen) -> None:
    """In the form that the settings ask for."""
    worker = launch("worker", APP, ONWHEN_MIDDLEWARE="logging", ONWHEN_LOG_FORMAT=form)
    worker.says("owns 4 of 4 partitions")
    assert onwhen("emit", "order.printed", "order:1", "--wait", "20").code == 0
    if form == "text":
        worker.says(" INFO onwhen: order.printed to order:1: handled")
    else:
        worker.says('"outcome": "handled"')
        records = [json.loads(line) for line in worker.told.splitlines() if '"order.printed"' in line]
        assert [record["outcome"] for record in records] == ["failed", "handled"]
        said = [json.loads(line)["message"] for line in worker.told.splitlines()]  # all of it, its own words included
        assert any("owns 4 of 4 partitions" in message for message in said)
