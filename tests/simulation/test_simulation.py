"""The engine in simulated worlds, where everything goes wrong that may; see `docs/decisions/0005-simulation.md`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from onwhen.engine.store import Answer
from tests.simulation.history import Committed, Discarded, Fault, Life, Promotion, Record, Returned
from tests.simulation.run import simulate

_ROOT = Path(__file__).parents[2]
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
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_promise_holds_whatever_goes_wrong() -> None:
    """In every world nothing that was accepted is lost, nothing is done twice, and order is kept per subject."""
    assert f"{_SEEDS} worlds in" in _run("-m", "tests.simulation", "--seeds", str(_SEEDS), "--most", "3")


@pytest.mark.parametrize("seed", [3, 7])
def test_a_seed_is_a_world(seed: int) -> None:
    """The same seed has the same history, also in a process with other hashes: what has failed can be seen again."""
    script = f"from tests.simulation.run import simulate; print(simulate({seed}).history.digest())"
    found = {_run("-c", script, PYTHONHASHSEED=hashes).strip() for hashes in ("1", "2")}
    assert found == {simulate(seed).history.digest()}


def test_another_seed_is_another_world() -> None:
    """No two of many seeds have the same history."""
    assert len({simulate(seed).history.digest() for seed in range(20)}) == 20


def test_everything_happens() -> None:
    """All that may go wrong does in some world, and so does all that can be asked for: nothing is passed over."""
    seen: Counter[str] = Counter()
    missing: list[str] = []
    for seed in range(400):  # what is rare comes late
        for record in simulate(seed).history.records:
            seen.update(_what_happens(record))
        missing = [what for what in _EVERYTHING if not seen[what]]
        if not missing:
            break
    assert not missing, seen


_EVERYTHING = (
    *("ok", "done", "conflict", "killed by chance", "killed by a rule", "closed", "lost", "late", "full", "not done"),
    *("message", "timer set", "timer cancelled", "timer fired", "subject deleted", "session", "stranger"),
    *("retry in order", "retry out of order", "run again", "parked", "resume: resumed", "skip: skipped"),
    *("dead", "late rule", "late turn", "poison", "poisonous retry", "replayed", "discarded"),
    *("emit: handled", "emit: waiting", "emit: duplicate", "emit: StoreError", "emit: StoreFull", "append: accepted"),
)


def _what_happens(record: Record) -> list[str]:
    if isinstance(record, Committed):
        return _what_a_commit_does(record)
    if isinstance(record, Life):
        return [record.what if record.what != "killed" else f"killed by {'a rule' if record.by else 'chance'}"]
    if isinstance(record, Returned):
        return [f"{record.what}: {record.status}"]
    if isinstance(record, Fault):
        return [word for word in ("lost", "late", "full", "not done") if word in record.what]
    if isinstance(record, Promotion):
        return ["timer fired"] * len(record.entries)
    return ["discarded"] if isinstance(record, Discarded) else []


def _what_a_commit_does(record: Committed) -> list[str]:
    commit, answer = record.commit, record.result.answer
    if answer is not Answer.OK or record.by == "stranger":
        return [answer.value if answer is not Answer.OK else record.by]
    poison = [letter for letter in commit.dead if letter.failure.type.endswith("PoisonEvent")]
    late = [letter for letter in commit.dead if letter.failure.type.endswith("RuleTimeout")]
    facts = {
        "ok": True,
        "message": commit.messages,
        "timer set": commit.timers,
        "timer cancelled": commit.cancelled,
        "subject deleted": commit.cancel_all,
        "session": commit.id is not None,
        "retry in order": any(retry.in_order and not retry.parked for retry in commit.retries),
        "retry out of order": any(not retry.in_order for retry in commit.retries),
        "run again": commit.retried is not None and not commit.retries,
        "parked": any(retry.parked for retry in commit.retries),
        "dead": commit.dead,
        "late rule": any(letter.rule for letter in late),
        "late turn": any(not letter.rule for letter in late),
        "poison": any(not letter.rule for letter in poison),
        "poisonous retry": any(letter.rule for letter in poison),
        "replayed": commit.revived,
    }
    return [what for what, happened in facts.items() if happened]
