"""Whether a store that was left by a killed process keeps the promise.

Belongs here: what has to be true of a store's content, between two kills and at rest. It must not know how the
processes were run.

Emitters emit one event after the other, under ids that count up. So the events that were accepted are those up to some
number, and what each of them has to lead to is known from the plan alone.
"""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from onwhen import SystemClock
from onwhen.storage import create_sqlite_storage
from tests.chaos.content import Content, content_of
from tests.chaos.plan import ACCOUNTS, EMITTERS, ITEMS, chance, fails, item_of, mix, next_of, numbers_of

__all__ = ["Case", "Ledger", "judge"]

_POISON: Final = "onwhen.errors.PoisonEvent"
_AGO: Final = 20  # events of an emitter to an item that were counted before, and are looked at once more (a count)

_Sum: TypeAlias = Sequence[int]
"""How many, and the sum of what stands for each."""


@dataclass(slots=True)
class Ledger:
    """What the processes have noted as accepted.

    Attributes:
        last: for each emitter, the number of its latest event; -1 if there is none.
        begun: sessions that were begun (a count).
        ended: account -> how many sessions on it came to their end (a count).
    """

    last: list[int] = field(default_factory=lambda: [-1] * EMITTERS)
    begun: int = 0
    ended: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    _read: int = 0

    def read(self, path: Path) -> None:
        """Read what has come since the last time; a line that is not whole was not noted."""
        with path.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        for line in whole.decode().splitlines():
            self.note(*line.split())

    def note(self, what: str, number: str) -> None:
        """Take in a line."""
        if what == "begin":
            self.begun = max(self.begun, int(number) + 1)
        elif what == "end":
            self.ended[int(number) % ACCOUNTS] += 1
        else:
            self.last[int(what)] = max(self.last[int(what)], int(number))


async def judge(path: Path, ledger: Ledger, *, at_rest: bool) -> tuple[list[str], dict[str, int]]:
    """Look at a store.

    Args:
        path: the file.
        ledger: what was accepted, at least.
        at_rest: all that was accepted should be handled by now.

    Returns:
        What is wrong, and some figures (counts).
    """
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
        found = [row[0] for row in file.execute("PRAGMA integrity_check")]
    wrong = [] if found == ["ok"] else [f"integrity_check: {found}"]
    store = create_sqlite_storage(path, read_only=True)
    await store.open(SystemClock())
    try:
        content = await content_of(store)
    finally:
        await store.close()
    case = Case(content, ledger)
    wrong += case.found()
    wrong += case.left() if at_rest else []
    return wrong, case.figures()


class Case:
    """What a store holds, and what it should.

    Events that are dead as a whole, since they were handled each time that the process was killed, are left out of
    what should be: nothing follows from them.
    """

    def __init__(self, content: Content, ledger: Ledger) -> None:
        self._content = content
        self._ledger = ledger
        self._poisoned: set[tuple[str, int, int]] = set()
        for letter in content.dead:
            if letter.failure.type == _POISON and isinstance(letter.event.data, Mapping):
                data = letter.event.data
                what = letter.rule.rpartition(".")[2] or letter.event.type
                if "e" in data:
                    self._poisoned.add((what, data["e"], data["n"]))
        self._pending: dict[tuple[str, int, int], int] = defaultdict(int)
        for entry in content.pending:
            if "e" in entry.event.data:
                self._pending[entry.event.type, entry.event.data["e"], entry.event.data["n"]] += 1
        self.last = list(ledger.last)
        for emitter in range(EMITTERS):
            while self._is_accepted(emitter, self.last[emitter] + 1):
                self.last[emitter] += 1

    def _is_accepted(self, emitter: int, number: int) -> bool:
        return (
            ("work", emitter, number) in self._pending
            or ("work", emitter, number) in self._poisoned
            or self._counted(emitter, item_of(emitter, number)) >= number
        )

    def _counted(self, emitter: int, item: int, what: str = "last") -> int:
        last: int = self._content.items.get(item, {}).get(what, {}).get(str(emitter), -1)
        return last

    def figures(self) -> dict[str, int]:
        """Return how much there is (counts)."""
        return {
            "events": sum(last + 1 for last in self.last),
            "pending": len(self._content.pending),
            "retries": len(self._content.retries),
            "dead": len(self._content.dead),
            "poisoned": sum(letter.failure.type == _POISON for letter in self._content.dead),
            "sessions": self._ledger.begun,
        }

    def _is_missing(self, emitter: int, number: int) -> bool:
        """Tell whether an event that was accepted may be nowhere; no store that is one's own loses any."""
        return False

    # -- at any moment

    def found(self) -> Iterator[str]:
        """Return what is wrong at any moment."""
        for item, state in self._content.items.items():
            yield from (f"item:{item}: {wrong}" for wrong in state.get("wrong", ()))
            for emitter, number in state.get("overtaken", ()):
                if not {("work", emitter, number), ("insist", emitter, number)} & self._poisoned:
                    yield f"item:{item}: {emitter}.{number} was overtaken while it waited for its retry"
            for rule, emitter, number, known in state.get("gaps", ()):
                if not self._is_excused(rule, emitter, range(number - ITEMS, known, -ITEMS)):
                    yield f"item:{item}: {rule} has seen {emitter}.{number} right after {known}"
        for account, state in self._content.accounts.items():
            if not self._is_told_less(account):
                yield from (f"account:{account}: {wrong}" for wrong in state.get("wrong", ()))
        for emitter, last in enumerate(self.last):
            if last > self._ledger.last[emitter] + 1:
                yield f"emitter {emitter}: {last} is accepted, but only {self._ledger.last[emitter]} was noted"
            for item in range(ITEMS):
                yield from self._one_state(emitter, item, last)
        for key, times in self._pending.items():
            if times > 1:
                yield f"{key} is pending {times} times"
        yield from self._waiting()
        for account in range(ACCOUNTS):
            yield from self._changes(account)

    def _is_excused(self, rule: str, emitter: int, missed: range) -> bool:
        """Tell whether all that a rule has missed is dead."""
        return bool(missed) and all(
            any((what, emitter, number) in self._poisoned for what in ("work", rule))
            or self._is_missing(emitter, number)
            or (rule == "insist" and fails(emitter, number, rule) > 2)
            for number in missed
            if number >= 0
        )

    def _one_state(self, emitter: int, item: int, last: int) -> Iterator[str]:
        """Each accepted event is counted, or pending, or dead as a whole: one of these."""
        counted = self._counted(emitter, item)
        for number in numbers_of(emitter, item, last):
            if number < counted - _AGO * ITEMS or self._is_missing(emitter, number):
                continue
            key = ("work", emitter, number)
            states = [number <= counted and key not in self._poisoned, key in self._pending, key in self._poisoned]
            if sum(states) != 1:
                yield f"{key} is (applied, pending, dead): {states}; {counted} was the last that was counted"

    def _waiting(self) -> Iterator[str]:
        """What waits was tried, and has not succeeded; nothing waits and is dead."""
        dead = {(letter.rule, letter.event.id) for letter in self._content.dead}
        for retry in self._content.retries:
            emitter, number = retry.event.data["e"], retry.event.data["n"]
            what = f"{retry.rule} on {emitter}.{number}"
            if number > self._counted(emitter, item_of(emitter, number)):
                yield f"{what} waits, but the event is not handled"
            if retry.rule == "items.insist" and number <= self._counted(emitter, item_of(emitter, number), "sure"):
                yield f"{what} waits, but was done"
            if not 1 < retry.attempt <= fails(emitter, number, retry.rule.rpartition(".")[2]) + 1:
                yield f"{what} waits for attempt {retry.attempt}"
            if (retry.rule, retry.event.id) in dead:
                yield f"{what} waits, and is dead"
        for letter in self._content.dead:
            if letter.failure.type == _POISON:
                continue
            emitter, number = letter.event.data["e"], letter.event.data["n"]
            if fails(emitter, number, letter.rule.rpartition(".")[2]) < 3 or letter.attempts != 3:
                yield f"{letter.rule} on {emitter}.{number} is dead after {letter.attempts}: {letter.failure.message}"

    def _changes(self, account: int) -> Iterator[str]:
        number = self._content.accounts.get(account, {}).get("n", 0)
        begun = len(range(account, self._ledger.begun, ACCOUNTS))
        if not self._ledger.ended[account] <= number <= begun:
            yield f"account:{account} is {number}; {self._ledger.ended[account]} to {begun} changes were made"

    # -- at rest

    def left(self) -> Iterator[str]:
        """Return what is wrong if nothing should be left to be done."""
        stats = self._content.stats
        if stats.pending or stats.timers or stats.retries or stats.parked:
            yield f"at rest, but {stats}"
        for account, state in self._content.accounts.items():
            if state.get("told", 0) != state.get("n", 0) and not self._is_told_less(account):
                yield f"account:{account} was changed {state.get('n')} times, and {state.get('told')} were told"
        for item, wanted in enumerate(self._wanted()):
            seen = self._content.items.get(item, {}).get("seen", {})
            for key in seen.keys() | wanted.keys():
                if not key.startswith("replaced") and not self._agrees(item, key, seen, wanted):
                    yield f"item:{item}: {key} is {seen.get(key)}, not {wanted.get(key)}"
        wanted_dead = {
            (rule, f"{emitter}.{number}")
            for emitter, last in enumerate(self.last)
            for number in range(last + 1)
            for rule in ("insist", "attempt")
            if fails(emitter, number, rule) > 2 and not self._is_left_out(emitter, number)
        }
        dead = {
            (letter.rule.rpartition(".")[2], letter.event.id)
            for letter in self._content.dead
            if letter.event.type == "work" and letter.rule
        }
        spoilt = {(what, f"{emitter}.{number}") for what, emitter, number in self._poisoned}
        if dead - spoilt != wanted_dead - spoilt:
            yield f"dead letters: {sorted(dead ^ wanted_dead)} too many or too few"

    def _agrees(self, item: int, key: str, seen: Mapping[str, _Sum], wanted: Mapping[str, _Sum]) -> bool:
        """Tell whether an item has seen of an emitter what it should."""
        return seen.get(key, [0, 0]) == wanted.get(key, [0, 0])

    def _is_left_out(self, emitter: int, number: int) -> bool:
        return ("work", emitter, number) in self._poisoned or self._is_missing(emitter, number)

    def _is_told_less(self, account: int) -> bool:
        return any(
            letter.failure.type == _POISON and letter.subject == f"account:{account}" for letter in self._content.dead
        )

    def _wanted(self) -> list[dict[str, list[int]]]:
        """Return what each item must have seen: emitter and kind -> how many, and the sum of what stands for them."""
        wanted: list[dict[str, list[int]]] = [{} for _ in range(ITEMS)]

        def see(item: int, what: str, emitter: int, number: int) -> bool:
            if (what, emitter, number) in self._poisoned:
                return False
            so_far = wanted[item].setdefault(f"{what} {emitter}", [0, 0])
            so_far[0] += 1
            so_far[1] += mix(emitter, number)
            return True

        for emitter, last in enumerate(self.last):
            for number in range(last + 1):
                if self._is_left_out(emitter, number):
                    continue
                item = item_of(emitter, number)
                if fails(emitter, number, "attempt") < 3:
                    see(item, "attempt", emitter, number)
                if chance(emitter, number, "ring") < 0.08:
                    see(item, "rung", emitter, number)
                is_passed = chance(emitter, number, "pass") < 0.4
                is_passed = is_passed and see(next_of(emitter, number), "passed", emitter, number)
                if is_passed and chance(emitter, number, "on") < 0.3:
                    see(next_of(emitter, number + 1), "ended", emitter, number)
        return wanted
