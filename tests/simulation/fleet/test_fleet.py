"""Many workers in simulated worlds, where all goes wrong that may; see `docs/decisions/0010-simulated-fleet.md`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from onwhen.engine.store import Answer
from tests.simulation.fleet.history import Delivery, Note, Released, Renewal, SetBack, Step, Taken
from tests.simulation.fleet.run import simulate_fleet
from tests.simulation.history import Appended, Committed, Fault, Life, Promotion, Returned

_ROOT = Path(__file__).parents[3]
_SEEDS = 2000


def _run(*arguments: str, **environment: str) -> str:
    """Run Python in a process of its own, whose coverage is not measured: it would take twice as long."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={"PATH": os.environ.get("PATH", ""), **environment},
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_promise_holds_in_a_fleet_whatever_goes_wrong() -> None:
    """Whoever owns what, and whoever dies: nothing that is kept is lost, nothing is done twice, order is kept."""
    assert f"{_SEEDS} worlds in" in _run("-m", "tests.simulation", "--fleet", "--seeds", str(_SEEDS), "--most", "3")


@pytest.mark.parametrize("seed", [5, 9])
def test_a_seed_is_a_fleet(seed: int) -> None:
    """The same seed has the same story, also in a process with other hashes: what has failed can be seen again."""
    script = f"from tests.simulation.fleet.run import simulate_fleet; print(simulate_fleet({seed}).story.digest())"
    found = {_run("-c", script, PYTHONHASHSEED=hashes).strip() for hashes in ("1", "2")}
    assert found == {simulate_fleet(seed).story.digest()}


def test_another_seed_is_another_fleet() -> None:
    """No two of many seeds have the same story."""
    assert len({simulate_fleet(seed).story.digest() for seed in range(12)}) == 12


def test_everything_happens_to_a_fleet() -> None:
    """All that may go wrong does in some world, and so does all that workers do about it: nothing is passed over."""
    seen: Counter[str] = Counter()
    missing: list[str] = []
    for seed in range(400):  # what is rare comes late
        for note in simulate_fleet(seed).story.notes:
            seen.update(_what_happens(note))
        missing = [what for what in _EVERYTHING if not seen[what]]
        if not missing:
            break
    assert not missing, seen


_EVERYTHING = (
    *("ok", "done", "conflict", "fenced", "outside", "stranger", "handled", "retried", "revived", "parked"),
    *("taken in peace", "taken after a crash", "not given", "renewed", "lost", "released", "not released"),
    *("killed by chance", "killed by a rule", "stands still", "goes on", "is stopped", "ended"),
    *("near", "far", "delivered", "asked for the watermark", "gap", "left out", "fired near", "fired far"),
    *("fail-over", "fail-over that loses", "fail-over in silence", "poison"),
    *("answer is lost", "answer is late", "done later", "not done", "full", "given up", "is cut", "nobody answers"),
    *("another run", "connection was closed"),
    *("emit: accepted", "emit: duplicate", "emit: StoreError", "emit: StoreFull", "emit: StoreBusy"),
    *("handled: handled", "handled: TimeoutError", "session: stored", "resume: resumed", "skip: skipped"),
)


def _what_happens(note: Note) -> list[str]:
    if isinstance(note, Life):
        if note.what == "killed":
            return [f"killed by {'a rule' if note.by else 'chance'}"]
        return [what for what in ("stands still", "goes on", "is stopped", "ended") if note.what.startswith(what)]
    if isinstance(note, Returned):
        return [f"{note.what}: {note.status}"]
    if isinstance(note, Fault):
        told = ("answer is lost", "answer is late", "done later", "not done", "full", "given up", "is cut")
        return [what for what in (*told, "nobody answers", "another run", "connection was closed") if what in note.what]
    return _what_a_server_does(note) if isinstance(note, Step) else []


def _what_a_server_does(step: Step) -> list[str]:
    what = step.what
    if isinstance(what, Committed):
        return _what_a_commit_does(what, step)
    if isinstance(what, Promotion):
        return ["fired near"] * bool(step.posted) + ["fired far"] * bool(step.out)
    if isinstance(what, Taken):
        if what.acquired is None:
            return ["not given"]
        return ["taken in peace" if what.acquired.was_released else "taken after a crash"]
    if isinstance(what, Renewal):
        return ["renewed" if what.is_renewed else "lost"]
    if isinstance(what, Released):
        return ["released" if what.is_released else "not released"]
    if isinstance(what, Delivery):
        if not what.delivered.is_accepted:
            return ["gap"]
        left_out = len(what.messages) > len(step.posted)
        return ["delivered" if what.messages else "asked for the watermark"] + ["left out"] * left_out
    if isinstance(what, SetBack):
        return ["fail-over"] + ["fail-over that loses"] * bool(what.lost) + ["fail-over in silence"] * what.is_silent
    return ["appended"] if isinstance(what, Appended) else []


def _what_a_commit_does(record: Committed, step: Step) -> list[str]:
    commit, answer = record.commit, record.result.answer
    if answer is not Answer.OK:
        return [answer.value]
    facts = {
        "ok": True,
        "stranger": record.by == "stranger",
        "outside": commit.token is None,
        "handled": commit.handled is not None,
        "retried": commit.retried is not None,
        "revived": commit.revived,
        "parked": any(retry.parked for retry in commit.retries),
        "near": step.posted,
        "far": step.out,
        "poison": any(letter.failure.type.endswith("PoisonEvent") for letter in commit.dead),
    }
    return [what for what, happened in facts.items() if happened]
