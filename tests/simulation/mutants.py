"""Variants of the package, each with one check or one order taken away, and how soon the simulation notices.

Belongs here: the list of variants, and what it takes to run one: a copy of the package with a piece of text replaced,
in a process of its own. A check that could go without any world noticing would be a check that nobody needs, or a
simulation that does not see; both have to be looked into.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["MUTANTS", "Mutant", "Verdict", "hunt"]

_ROOT = Path(__file__).parents[2]
_MOST_SEEDS: Final = 700  # in how many worlds a variant may stay unnoticed (a count)
_FILES: Final = 8  # every so manieth world is on a file, the seventh first


@dataclass(frozen=True, slots=True)
class Mutant:
    """A variant.

    Attributes:
        name: what is missing.
        path: of the module, from the package on.
        changes: the text as it is, found exactly once, and as it becomes; more than one if one alone would not run.
        on_file: only the store in a file has it.
    """

    name: str
    path: str
    changes: Sequence[tuple[str, str]]
    on_file: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a hunt ended: after how many worlds the variant was caught, None if it was not, and what was said."""

    worlds: int | None
    said: str


def hunt(mutant: Mutant, directory: Path, most: int = _MOST_SEEDS, *arguments: str) -> Verdict:
    """Run worlds over a variant until one breaks the promise.

    Args:
        mutant: the variant.
        directory: an empty one, for the copy.
        most: in how many worlds it may stay unnoticed (a count).
        *arguments: of the command that runs worlds.

    Raises:
        LookupError: a text is not there exactly once.
    """
    shutil.copytree(_ROOT / "onwhen", directory / "onwhen", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(
        _ROOT / "tests" / "simulation", directory / "tests" / "simulation", ignore=shutil.ignore_patterns("__pycache__")
    )
    module = directory / mutant.path
    module.write_text(_changed(module.read_text(), mutant))
    step, first = (_FILES, _FILES - 1) if mutant.on_file else (1, 0)
    command = [sys.executable, "-m", "tests.simulation", "--most", "1", "--processes", "1"]
    command += ["--first", str(first), "--seeds", str(most // step), "--step", str(step), *arguments]
    environment = {"PATH": os.environ.get("PATH", "")}  # nothing that would find the package, or measure the copy
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    caught = re.search(r"^seed \d+: (.*)", done.stdout, re.MULTILINE)
    worlds = re.search(r"^(\d+) worlds in", done.stdout, re.MULTILINE)
    if worlds is None:
        return Verdict(None, f"it did not run: {done.stderr[-2000:]}")
    return Verdict(int(worlds[1]) if caught else None, caught[1] if caught else "nothing was noticed")


def _changed(text: str, mutant: Mutant) -> str:
    for old, new in mutant.changes:
        if text.count(old) != 1:
            raise LookupError(f"{mutant.name}: {mutant.path} has {text.count(old)} times, not once: {old!r}")
        text = text.replace(old, new)
    return text


_MEMORY: Final = "onwhen/storage/memory.py"
_HANDLING: Final = "onwhen/engine/handling.py"
_PIPELINE: Final = "onwhen/engine/pipeline.py"

MUTANTS: Final = (
    # -- what a store checks
    Mutant("no version is checked", _MEMORY, [("if commit.version != version:", "if False:")]),
    Mutant(
        "an event that was handled is handled again",
        _MEMORY,
        [
            ("(handled is not None and handled not in log) or self._is_done(commit)", "self._is_done(commit)"),
            ("            del log[handled]\n", "            log.pop(handled, None)\n"),
        ],
    ),
    Mutant(
        "a retry that was run is run again",
        _MEMORY,
        [
            (
                "if commit.retried is not None and commit.retried not in self._retries[commit.partition]:",
                "if commit.retried is None and commit.handled is None and False:",
            ),
            (
                "            del self._retries[commit.partition][commit.retried]\n",
                "            self._retries[commit.partition].pop(commit.retried, None)\n",
            ),
        ],
    ),
    Mutant(
        "a session is stored twice",
        _MEMORY,
        [("return commit.id is not None and commit.id in self._seen", "return False")],
    ),
    Mutant("an event is accepted twice", _MEMORY, [("            if seen is not None:\n", "            if False:\n")]),
    Mutant(
        "a commit is not atomic: its messages are sent before it is checked",
        _MEMORY,
        [
            (
                "        if commit.version != version:\n",
                "        for event in commit.messages:\n"
                "            self._post(event, self._clock.now())\n"
                "        if commit.version != version:\n",
            ),
            (
                "[self._post(event, now).position for event in commit.messages]",
                "[self._orders[self._partition_of(event.subject)][-1] for event in commit.messages]",
            ),
        ],
    ),
    Mutant(
        "a retry that was run stays",
        _MEMORY,
        [("            del self._retries[commit.partition][commit.retried]\n", "            pass\n")],
    ),
    Mutant(
        "a timer that was replaced fires as well",
        _MEMORY,
        [
            (
                "return self._timers.get(timer.subject, {}).get(timer.key) is entry",
                "return timer.key in self._timers.get(timer.subject, {})",
            )
        ],
    ),
    Mutant("a timer that was cancelled fires", _MEMORY, [("            own.pop(name, None)\n", "            pass\n")]),
    Mutant("a deleted subject keeps its timers", _MEMORY, [("        if commit.cancel_all:\n", "        if False:\n")]),
    # -- the way of an event
    Mutant(
        "the state of a turn that had to be run again is kept",
        _HANDLING,
        [("known = self._hot.pop(name, None)", "known = self._hot.get(name)")],
    ),
    Mutant(
        "a state is kept whose version is not known",
        _HANDLING,
        [
            ("if result.answer is Answer.OK and sent.is_first_answer:", "if result.answer is Answer.OK:"),
            ("        if ran.refused is None:\n", "        if True:\n"),
        ],
    ),
    Mutant(
        "what was done before an answer was lost counts as done by others",
        "onwhen/engine/resend.py",
        [("if tries and result.answer is Answer.DONE:", "if False:")],
    ),
    Mutant(
        "messages do not wait for the answers to earlier calls",
        "onwhen/engine/arrivals.py",
        [
            (
                "        call.works = works\n",
                "        call.works = ()\n        self._let_in(sorted(works, key=_position))\n",
            ),
        ],
    ),
    Mutant(
        "what was appended late does not wait for what was appended meanwhile",
        "onwhen/engine/arrivals.py",
        [("        if call.late:\n", "        if False:\n")],
    ),
    Mutant(
        "what an event has led to is started in any order",
        "onwhen/engine/arrivals.py",
        [("found.sort(key=_position)", "found.reverse()")],
    ),
    Mutant(
        "the latest event of a subject goes first",
        "onwhen/engine/dispatch.py",
        [("        return waiting.popleft()\n", "        return waiting.pop()\n")],
    ),
    Mutant(
        "two events of a subject are handled at a time",
        "onwhen/engine/dispatch.py",
        [("        if lane.active is not None or lane.ready:\n", "        if lane.ready:\n")],
    ),
    Mutant(
        "a retry does not hold its subject",
        _PIPELINE,
        [("in self._dispatcher.hold(retry.subject, ", "in (lambda *_: ())(retry.subject, ")],
    ),
    Mutant(
        "a subject is held for ever",
        _PIPELINE,
        [("self._dispatcher.release(work.retry.subject, ", "(lambda *_: None)(work.retry.subject, ")],
    ),
    # -- recovery
    Mutant(
        "what is pending is not read when a store is opened",
        "onwhen/engine/recovery.py",
        [("        pending = [entry async for entry in read_all(store, partition)]\n", "        pending = []\n")],
    ),
    Mutant(
        "retries are not read when a store is opened",
        "onwhen/engine/recovery.py",
        [("        retries = [retry async for retry in store.retries(partition)]\n", "        retries = []\n")],
    ),
    Mutant(
        "nobody counts how often an event has killed the process",
        "onwhen/engine/recovery.py",
        [("        if starts > _MAX_STARTS:\n", "        if False:\n")],
    ),
    Mutant(
        "an event is called poison at its second start",
        "onwhen/engine/recovery.py",
        [("_MAX_STARTS: Final = 3", "_MAX_STARTS: Final = 1")],
    ),
    # -- turns
    Mutant(
        "what a failed rule did is kept",
        "onwhen/engine/turns.py",
        [("        self.state.rollback(mark)\n\n    def _note_failure", "\n    def _note_failure")],
    ),
    Mutant(
        "ids of messages are counted, not derived",
        "onwhen/engine/events.py",
        [
            ('{rule_id}\\0{attempt}\\0{index}")', '{rule_id}\\0{attempt}\\0{index}\\0{next(_COUNT)}")'),
            ("def _new_id() -> str:\n", "_COUNT = __import__('itertools').count()\n\n\ndef _new_id() -> str:\n"),
        ],
    ),
    Mutant(
        "all rules of an event are run again, not only the one that failed",
        "onwhen/engine/turns.py",
        [("        found = tuple(match for match in matches if match.rule.id == rule)\n", "        found = matches\n")],
    ),
    Mutant(
        "an emitter does not wait for what follows",
        "onwhen/engine/work.py",
        [("            self.cascade.pending += 1\n", "            pass\n")],
    ),
    # -- the store in a file
    Mutant(
        "no version is checked in a file",
        "onwhen/storage/sqlite/_commits.py",
        [("    if version != commit.version:\n", "    if False:\n")],
        on_file=True,
    ),
    Mutant(
        "numbers are given out again after a file was opened anew",
        "onwhen/storage/sqlite/_database.py",
        [("self._number = self._reserved = reserved", "self._number, self._reserved = 0, reserved")],
        on_file=True,
    ),
    Mutant(
        "timers stay in a file after they have fired",
        "onwhen/storage/sqlite/_log.py",
        [('        database.execute("DELETE FROM timers WHERE n = ?", (n,))\n', "")],
        on_file=True,
    ),
)
