"""The checker of a fleet: whether what its servers were made to do, and what they hold in the end, keeps the promise.

Belongs here: what only shows across partitions, over time, or to those outside. Each partition has books of its own
(`ledger`), which go back with it when a fail-over loses its latest changes; what was known before is known still. It
must not know how a story came about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final

from onwhen.engine.store import Position
from tests.simulation.fleet.history import Delivery, Ending, Note, Quiet, SetBack, Step
from tests.simulation.fleet.ledger import Known, Ledger
from tests.simulation.fleet.partition import State
from tests.simulation.history import Appended, Called, Fault, Life, Promotion, Returned, Sent
from tests.simulation.judges import Violation
from tests.simulation.loop import seconds_of

__all__ = ["FleetChecker"]

_SETTLED: Final = 45.0  # seconds until all has an owner again that knows how things stand, once nothing goes wrong
_SLOW: Final = 2.0  # seconds that a call and its answer may take
_PROMPT: Final = 10.0  # seconds that a message, or a timer that is due, may lie about from then on
_KEPT: Final = 8  # earlier books that are kept, as many as states of a partition are (a count)


class FleetChecker:
    """Goes through a story.

    Args:
        partitions: how many there are (a count).
        skew: how far the clock of a machine may be wrong (seconds).
    """

    def __init__(self, partitions: int, skew: float) -> None:
        self.known = Known(skew)
        self.ledgers = [Ledger(number, partitions, self.known) for number in range(partitions)]
        self._earlier: list[list[Ledger]] = [[] for _ in range(partitions)]
        self._sent: dict[tuple[Any, ...], str] = {}  # what a rule asked for -> id of the event
        self._accepted: set[str] = set()  # ever
        self._stored: set[str] = set()  # sessions, ever
        self._lost: set[str] = set()  # what was accepted or stored and lost, ever
        self._told: dict[str, str] = {}
        self._calls: dict[str, list[tuple[int, int]]] = {}  # what it was about -> machine and number of each call
        self._number = 0
        self._has_faults = False
        self._prompt_from = self._ending = math.inf
        self._under_way: dict[tuple[int, int, Position], float] = {}  # source, target, position -> since when

    def go_through(self, notes: Iterable[Note]) -> None:
        """Take in a story.

        Raises:
            Violation: the promise is broken.
        """
        for note in notes:
            self.see(note)

    def conclude(self, states: Sequence[State], emitted: Collection[str]) -> None:
        """Check what was left at the end of a story, when everything has come to rest.

        Args:
            states: what each partition holds.
            emitted: ids of the events that somebody outside has emitted until he was told that they were accepted.

        Raises:
            Violation: the promise is broken.
        """
        self.compare(states)
        self.at_rest(emitted)

    def see(self, note: Note) -> None:
        """Take in what happened next.

        Raises:
            Violation: it must not have.
        """
        if isinstance(note, Step):
            self._see_step(note)
        elif isinstance(note, Sent):
            self._see_sent(note)
        elif isinstance(note, Called):
            self._number += 1
            self._calls.setdefault(note.tag, []).append((note.process, self._number))
        elif isinstance(note, Returned):
            self._see_answer(note)
        elif isinstance(note, Life):
            if note.what == "killed":
                # An event that kills whoever handles it does so several times, and a lease has to run out each time.
                self._prompt_from = max(self._prompt_from, note.time + _PROMPT)
                self.known.killers.add(note.by)
                owned = (ledger for ledger in self.ledgers if ledger.machine == note.process)
                self.known.blamed |= {ledger.number for ledger in owned if not ledger.holds(note.by)}
            elif note.what.startswith("stands still"):
                self.known.killers.add("")
                self.known.stood_still = True
        elif isinstance(note, Ending):
            self._ending = note.time - _SLOW
        elif isinstance(note, Quiet):
            self._prompt_from = note.time + _SETTLED
        elif isinstance(note, Fault):
            self._has_faults = True  # an append whose answer is lost is made again, and may find its own event
            self.known.killers.add("")  # who cannot renew his lease is as good as dead to the next owner

    def _see_step(self, step: Step) -> None:
        number, what = step.partition, step.what
        if isinstance(what, SetBack):
            self._set_back(number, what.lost)
            return
        if step.has_changed:
            self._earlier[number].append(self.ledgers[number].copied())
            del self._earlier[number][:-_KEPT]
        ledger = self.ledgers[number]
        self._judge_promptness(step, ledger)
        ledger.see(step)
        if isinstance(what, Appended):
            self._accepted |= {event.id for event in what.events}
        self._stored |= ledger.sessions.keys()

    def _judge_promptness(self, step: Step, ledger: Ledger) -> None:
        """Where nothing goes wrong any more, nothing lies about for long."""
        if step.time < self._prompt_from:
            return
        for out in step.out:
            self._under_way[step.partition, out.target, out.position] = step.time
        if isinstance(step.what, Delivery) and step.what.delivered.is_accepted:
            for out in step.what.messages:
                sent = self._under_way.pop((step.what.source, step.partition, out.position), step.time)
                since = max(sent, self._prompt_from)
                if step.time > since + _PROMPT:
                    raise Violation(f"{out.event!r} has taken {step.time - since:.1f} s from partition to partition")
        elif isinstance(step.what, Promotion):
            now = step.time + step.what.ahead
            for key, timer in ledger.timers.items():
                if now > seconds_of(timer.due) + _PROMPT and seconds_of(timer.due) > self._prompt_from:
                    raise Violation(
                        f"the timer {key}, due at {timer.due}, fired {now - seconds_of(timer.due):.1f} s late"
                    )

    def _set_back(self, number: int, lost: int) -> None:
        self.known.killers.add("")
        if lost:
            before, after = self.ledgers[number], self._earlier[number][-lost]
            self._lost |= {id for source, id in before.accepted.keys() - after.accepted.keys()}
            self._lost |= {tag for tag in before.sessions if tag not in after.sessions}
            self.ledgers[number] = after
            del self._earlier[number][-lost:]

    def _see_sent(self, note: Sent) -> None:
        key = (note.parent, note.rule, note.attempt, note.index)
        self.known.asked.add(note.id)
        if self._sent.setdefault(key, note.id) != note.id:
            raise Violation(
                f"{note.rule}, run again on {note.parent}, sends {note.id}, before it was {self._sent[key]}"
            )

    # -- what those outside were told

    def _see_answer(self, note: Returned) -> None:
        if note.what == "session":
            self._told[note.tag] = note.status
        if note.status in ("accepted", "duplicate", "handled") and note.what in ("emit", "append", "handled"):
            if note.tag not in self._accepted:
                raise Violation(f"{note.tag} was said to be {note.status}, but is not accepted")
            if note.status == "duplicate" and len(self._calls[note.tag]) == 1 and not self._has_faults:
                raise Violation(f"{note.tag} was said to be a duplicate, but was emitted once")
            is_handled = note.tag in {id for _, id in self.known.handled}
            if note.status == "handled" and not is_handled and note.tag not in self._lost:
                raise Violation(f"{note.tag} was said to be handled, but is not")

    # -- the end

    def compare(self, states: Sequence[State]) -> None:
        """Compare what partitions hold with what they should hold.

        Raises:
            Violation: they differ.
        """
        for ledger, state in zip(self.ledgers, states, strict=True):
            subjects = {
                record.name: ({name: json.loads(text) for name, text in record.properties.items()}, record.version)
                for record in state.subjects.values()
            }
            wanted = {
                name: (one.values, one.version) for name, one in ledger.subjects.items() if one.version is not None
            }
            where = f"p{ledger.number}"
            _match(where, "subjects", subjects, wanted)
            _match(where, "log", list(state.log), list(ledger.log))
            _match(where, "timers", set(state.timers), set(ledger.timers))
            _match(where, "retries", set(state.retries), set(ledger.retries))
            _match(where, "dead letters", set(state.dead), set(ledger.dead))
            _match(where, "outbox", list(state.outbox), list(ledger.outbox))

    def at_rest(self, emitted: Iterable[str]) -> None:
        """Check what can only be known at the end.

        Raises:
            Violation: something is left to be done, or is missing, or has happened as often as it must not.
        """
        for ledger in self.ledgers:
            ledger.at_rest(self._ending)
            for target in self.ledgers:
                sent = [key for number, key in ledger.sent if number == target.number]
                if lacking := target.lacks(sent):
                    raise Violation(f"sent by p{ledger.number}, but never delivered to p{target.number}: {lacking}")
        if lost := [id for id in emitted if id not in self._accepted]:
            raise Violation(f"emitted, but never accepted: {lost}")
        self._judge_sessions()
        self._judge_order()

    def _judge_sessions(self) -> None:
        kept: dict[str, int] = {}
        for ledger in self.ledgers:
            for tag, times in ledger.sessions.items():
                kept[tag] = kept.get(tag, 0) + times
        if twice := [tag for tag, times in kept.items() if times > 1]:
            raise Violation(f"stored more than once: {twice}")
        for tag, status in self._told.items():
            if status == "stored" and tag not in kept and tag not in self._lost:
                raise Violation(f"the session {tag} was said to be stored, and was not")

    def _judge_order(self) -> None:
        """Events that one machine has emitted to one partition, each of them once, are accepted in that order."""
        latest: dict[tuple[int, int], tuple[Position, str]] = {}
        stand = {
            id: (ledger.number, position) for ledger in self.ledgers for (_, id), position in ledger.accepted.items()
        }
        only = [(tag, *calls[0]) for tag, calls in self._calls.items() if len(calls) == 1 and tag in stand]
        for tag, machine, _ in sorted(only, key=lambda one: one[2]):
            number, position = stand[tag]
            before, earlier = latest.get((machine, number), (0, ""))
            if position < before:
                raise Violation(f"{tag} was emitted after {earlier}, and accepted before it")
            latest[machine, number] = position, tag


def _match(where: str, what: str, found: Any, wanted: Any) -> None:
    if found != wanted:
        raise Violation(f"{where}, the {what}:\n  found  {found}\n  wanted {wanted}")
