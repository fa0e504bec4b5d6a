"""What the rules of the simulation should do to a subject: a turn, worked out on plain values.

Belongs here: the semantics of a turn, written down a second time, so that the engine can be judged by it. It must not
share code with the engine's turns, nor with `rules`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, TypeAlias

from onwhen.engine.events import SUBJECT_DELETED, SUBJECT_PROPERTY_CHANGED, Event
from tests.simulation.rules import LINES, POLICIES, TIMEOUT, TURN_TIMEOUT

__all__ = ["ALWAYS", "DEFAULTS", "Expected", "Failed", "Mail", "Values", "is_typed", "turn"]

Values: TypeAlias = dict[str, Any]
"""The properties of a subject, as JSON values."""

DEFAULTS: Final[Values] = {"n": 0, "note": "", "bag": {}, "runs": [], "money": "0", "alien": 0, "alarms": 0}
"""What the properties of a typed subject are before they are set."""

ALWAYS: Final = 99  # a rule that kills its process so often does so for ever

_ORDER: Final = ("first", "again", "later", "slow", "park")


@dataclass(frozen=True, slots=True)
class Mail:
    """A message, or a timer with its key and its delay (seconds)."""

    type: str
    subject: str
    data: Any
    key: str = ""
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """A rule that has failed: it is to be run again, or is dead.

    Attributes:
        rule: id of the rule.
        on: what it was run on: the tag of the event, or for a property event the value.
        attempt: which attempt failed (1 is the first).
        dead: whether there is no more to come.
        in_order: whether later events of the subject wait.
        parked: whether the subject waits for somebody.
    """

    rule: str
    on: str
    attempt: int
    dead: bool
    in_order: bool = True
    parked: bool = False


@dataclass(slots=True)
class Expected:
    """What a turn should come to.

    Attributes:
        values: the properties after it.
        messages: what it sends, in order.
        timers: what it sets, by key.
        cancelled: keys of timers that it cancels.
        flushed: whether it deletes the subject, perhaps to make it anew.
        failed: the rules that failed, in order.
        is_poison: the process is killed each time; then nothing else counts.
        is_late: it takes too long as a whole, and comes to nothing.
    """

    values: Values
    messages: list[Mail] = field(default_factory=list)
    timers: dict[str, Mail] = field(default_factory=dict)
    cancelled: list[str] = field(default_factory=list)
    flushed: bool = False
    failed: list[Failed] = field(default_factory=list)
    is_poison: bool = False
    is_late: bool = False


class _Fails(Exception):
    """A rule fails here."""


class _Dies(Exception):
    """The process is killed here."""


class _IsLate(Exception):
    """The turn has taken too long."""


def is_typed(subject: str) -> bool:
    """Tell whether a subject has a class."""
    return subject.startswith("acc:")


def turn(
    subject: str,
    values: Mapping[str, Any],
    event: Event,
    rule: str = "",
    attempt: int = 1,
    first_attempt: int = 1,
    late: Collection[str] = (),
) -> Expected:
    """Work out a turn.

    Args:
        subject: name of the subject.
        values: its properties before.
        event: what is handled.
        rule: id of the only rule that is run, for a retry; else "".
        attempt: which attempt of that rule.
        first_attempt: the attempt from which its policy counts.
        late: rules whose sleep has taken too long, because the machine stood still meanwhile.
    """
    run = _Turn(subject, values, event, attempt, first_attempt, late)
    try:
        run.handle(rule)
    except _Dies:
        run.expected.is_poison = True
    except _IsLate:
        return Expected(json.loads(json.dumps(values)), is_late=True)
    return run.expected


_Occurrence: TypeAlias = "tuple[str, str, Any]"  # type of event, property, value


class _Turn:
    def __init__(
        self,
        subject: str,
        values: Mapping[str, Any],
        event: Event,
        attempt: int,
        first_attempt: int,
        late: Collection[str],
    ) -> None:
        self.subject = subject
        self.event = event
        self.expected = Expected(json.loads(json.dumps(values)))
        self.queue: deque[_Occurrence] = deque()
        self.attempt = attempt
        self.first_attempt = first_attempt
        self._changes: list[_Occurrence] = []
        self._slept = 0.0
        self._late = late

    def handle(self, only: str) -> None:
        event = self.event
        if event.type == SUBJECT_PROPERTY_CHANGED:
            data = event.data
            first = (event.type, data["property_name"], data["value"])
        else:
            first = (event.type, "", event.data)
        for rule in self._matching(first):
            if not only or rule == only:
                self._run(rule, first, self.attempt, self.first_attempt)
        while self.queue:
            occurrence = self.queue.popleft()
            for rule in self._matching(occurrence):
                self._run(rule, occurrence, 1, 1)

    def _matching(self, occurrence: _Occurrence) -> Sequence[str]:
        kind, name, data = occurrence
        if kind == "do":
            return [f"sim.{rule}" for rule in _ORDER if rule in data["rules"]]
        if kind == SUBJECT_PROPERTY_CHANGED and name == "n":
            return ["sim.react", "typed.pay"] if is_typed(self.subject) else ["sim.react"]
        return ["sim.mourn"] if kind == SUBJECT_DELETED else []

    # -- one rule

    def _run(self, rule: str, occurrence: _Occurrence, attempt: int, first_attempt: int) -> None:
        expected = self.expected
        before = Expected(
            json.loads(json.dumps(expected.values)),
            list(expected.messages),
            dict(expected.timers),
            list(expected.cancelled),
            expected.flushed,
            expected.failed,
        )
        self._changes = []
        try:
            self._carry_out(rule, occurrence, attempt)
        except _Fails as failure:
            self.expected, self._changes = before, []
            before.failed.append(self._failed(rule, occurrence, attempt, first_attempt))
            if rule == "sim.again" and failure.args:
                self._set("alarms", (self._get("alarms") or 0) + 1)
                self._send("dyn:alarms", {"tag": f"alarm {attempt} of {occurrence[2]['tag']}", "rules": {}})
        else:
            self.queue.extend(self._changes)

    def _failed(self, rule: str, occurrence: _Occurrence, attempt: int, first_attempt: int) -> Failed:
        attempts, in_order, parks = POLICIES[rule.partition(".")[2]]
        is_last = attempt - first_attempt + 1 >= attempts
        on = f"n={occurrence[2]}" if occurrence[1] else occurrence[2]["tag"]
        return Failed(rule, on, attempt, is_last and not parks, in_order, is_last and parks)

    def _carry_out(self, rule: str, occurrence: _Occurrence, attempt: int) -> None:
        data = occurrence[2]
        short = rule.partition(".")[2]
        if short == "mourn":
            rules = {"first": [["add", 1]]}
            self._send("dyn:graves", {"tag": f"{self.subject} is gone", "rules": rules})
        elif short == "pay":
            money = Decimal(self._get("money") or "0") + Decimal("0.10")
            self._set("money", str(money))
        elif short == "react":
            self._line(f"n={data}", short, attempt)
            if data % 7 == 3 and attempt == 1:
                raise _Fails
            if data % 4 == 1:
                self._send("dyn:tally", {"tag": f"{self.subject}={data}", "rules": {}})
        else:
            self._line(data["tag"], short, attempt)
            self._script(data["rules"][short], short, attempt)

    def _script(self, steps: Sequence[Sequence[Any]], rule: str, attempt: int) -> None:
        slept = 0.0
        for verb, *args in steps:
            if verb == "sleep":
                if f"sim.{rule}" in self._late:
                    raise _Fails
                self._sleep(args[0] if rule != "slow" else min(args[0], TIMEOUT - slept))
                slept += args[0]
                if rule == "slow" and slept >= TIMEOUT:
                    raise _Fails
            elif verb == "fail":
                if attempt <= args[0]:
                    raise _Fails("on purpose")
            elif verb == "kill":
                if args[0] >= ALWAYS:
                    raise _Dies
            else:
                getattr(self, f"_do_{verb}")(*args)

    # -- what a step does

    def _do_add(self, amount: int) -> None:
        self._set("n", (self._get("n") or 0) + amount)

    def _do_note(self, text: str) -> None:
        self._set("note", text)

    def _do_bag(self, key: str, value: int) -> None:
        self._set("bag", {**(self._get("bag") or {}), key: value})

    def _do_del(self) -> None:
        self.expected.values.pop("note", None)

    def _do_emit(self, subject: str, data: Any) -> None:
        self._send(subject, data)

    def _do_timer(self, key: str, delay: float, subject: str, data: Any) -> None:
        expected = self.expected
        expected.timers[key] = Mail("do", subject, data, key, delay)
        if key in expected.cancelled:
            expected.cancelled.remove(key)

    def _do_cancel(self, key: str) -> None:
        expected = self.expected
        expected.timers.pop(key, None)
        if key not in expected.cancelled:
            expected.cancelled.append(key)

    def _do_flush(self) -> None:
        expected = self.expected
        expected.values.clear()
        expected.timers.clear()
        expected.cancelled.clear()
        expected.flushed = True
        self._changes.append((SUBJECT_DELETED, "", None))

    def _sleep(self, seconds: float) -> None:
        self._slept += seconds
        if self._slept >= TURN_TIMEOUT:
            raise _IsLate

    def _line(self, tag: str, rule: str, attempt: int) -> None:
        self._set("runs", [*(self._get("runs") or ()), [tag, rule, attempt]][-LINES:])

    def _send(self, subject: str, data: Any) -> None:
        self.expected.messages.append(Mail("do", subject, data))

    def _get(self, name: str) -> Any:
        values = self.expected.values
        return values[name] if name in values else DEFAULTS[name] if is_typed(self.subject) else None

    def _set(self, name: str, value: Any) -> None:
        if name == "n" and value != self._get(name):
            self._changes.append((SUBJECT_PROPERTY_CHANGED, name, value))
        self.expected.values[name] = value
