"""What those outside were told, compared with what was true.

Belongs here: emitters and those who store subjects: whether what a call returned to them was so, and whether their
events were accepted in the order of their calls. It must not know what a turn does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from onwhen.engine.store import Position
from tests.simulation.history import Called, Returned
from tests.simulation.judges import Violation

__all__ = ["Emitters"]


class Emitters:
    """Notes calls and what they returned.

    Args:
        handled: where the events stand that are handled, as it grows.
        held: subjects whose events wait for a retry, as far as an engine may know, as it changes.
    """

    def __init__(self, handled: Collection[Position], held: Collection[str]) -> None:
        self._handled = handled
        self._held = held
        self._accepted: dict[str, tuple[Position, str]] = {}  # id of an event -> where it stands, and its subject
        self._calls: dict[str, list[tuple[int, int]]] = {}  # what it was about -> process and number of each call
        self._number = 0
        self._children: dict[Position, list[tuple[Position, str, float]]] = {}
        self._released: dict[str, float] = {}
        self._sessions: Counter[str] = Counter()
        self._told: dict[str, str] = {}

    def accepted(self, id: str, position: Position, subject: str) -> None:
        """Note that an event was accepted."""
        self._accepted[id] = position, subject

    def followed(self, parent: Position, child: Position, subject: str, time: float) -> None:
        """Note that a message was sent by the turn of an event."""
        self._children.setdefault(parent, []).append((child, subject, time))

    def released(self, subject: str, time: float) -> None:
        """Note that a retry of a subject has ended."""
        self._released[subject] = time

    def stored(self, session: str) -> None:
        """Note that a session was stored."""
        self._sessions[session] += 1

    def called(self, record: Called) -> None:
        """Note a call."""
        self._number += 1
        self._calls.setdefault(record.tag, []).append((record.process, self._number))

    def returned(self, record: Returned, *, is_closing: bool) -> None:
        """Note what a call returned.

        Raises:
            Violation: it is not so.
        """
        if record.what == "session":
            self._told[record.tag] = record.status
        if record.what not in ("emit", "append") or record.status.startswith("Store"):
            return
        if record.tag not in self._accepted:
            raise Violation(f"{record.tag} was said to be {record.status}, but is not accepted")
        position, _ = self._accepted[record.tag]
        is_only = len(self._calls[record.tag]) == 1
        if record.status == "duplicate" and is_only:
            raise Violation(f"{record.tag} was said to be a duplicate, but was emitted once")
        if record.status == "handled":
            if position not in self._handled:
                raise Violation(f"{record.tag} was said to be handled, but is not")
            if is_only and not is_closing and record.what == "emit":
                self._judge_cascade(record.tag, position)

    def _judge_cascade(self, tag: str, position: Position) -> None:
        """An emit that returns has waited for all that follows, but for what is behind a retry."""
        for child, subject, since in self._children.get(position, ()):
            if self._released.get(subject, -1.0) >= since:
                continue  # it has waited behind a retry, and nobody waits for what does, nor for what follows
            if child in self._handled:
                self._judge_cascade(tag, child)
            elif subject not in self._held:
                raise Violation(f"the emit of {tag} returned before a message to {subject} that follows was handled")

    def at_rest(self, emitted: Iterable[str]) -> None:
        """Check what can only be known at the end.

        Args:
            emitted: ids of the events that somebody has emitted until he was told that they are accepted.

        Raises:
            Violation: an event is not accepted, or out of order, or a session was stored as often as it must not.
        """
        if lost := [id for id in emitted if id not in self._accepted]:
            raise Violation(f"emitted, but never accepted: {lost}")
        for tag, status in self._told.items():
            if status == "stored" and self._sessions[tag] != 1:
                raise Violation(f"the session {tag} was said to be stored, and was {self._sessions[tag]} times")
        if twice := [tag for tag, number in self._sessions.items() if number > 1]:
            raise Violation(f"stored more than once: {twice}")
        self._judge_order()

    def _judge_order(self) -> None:
        """Events that one process has emitted to one subject, each of them once, are accepted in that order."""
        only: Mapping[str, tuple[int, int]] = {tag: calls[0] for tag, calls in self._calls.items() if len(calls) == 1}
        latest: dict[tuple[int, str], tuple[Position, str]] = {}
        for tag, (process, _) in sorted(only.items(), key=lambda item: item[1][1]):
            if tag not in self._accepted:
                continue
            position, subject = self._accepted[tag]
            before, earlier = latest.get((process, subject), (0, ""))
            if position < before:
                raise Violation(f"{tag} was emitted after {earlier}, and accepted before it")
            latest[process, subject] = position, tag
