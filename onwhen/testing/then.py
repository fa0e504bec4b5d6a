"""What a test may ask of a harness, and how it is told that things are not as it expected.

Belongs here: readers of state, messages, timers and failures, and their checks. It must not know how events are
run, nor of pytest: a check that does not hold raises AssertionError with the whole story.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from onwhen.engine.events import Event
from onwhen.engine.rules import ANY
from onwhen.engine.store import DeadLetter, Timer
from onwhen.engine.subjects import Subject
from onwhen.testing.story import describe_event, describe_timer

if TYPE_CHECKING:
    from onwhen.testing.harness import Harness

__all__ = ["Failed", "Found", "Then"]

T = TypeVar("T")

_NUMBERS: Final = frozenset({bool, int, float})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """One failure.

    Attributes:
        rule: id of the rule; "" for an event that failed as a whole.
        event: what was handled.
        error: what was raised.
        attempt: 1 for the first run on this event.
        retry_at: when it is run again; None if it is not.
        handled: a middleware caught the error.
    """

    rule: str
    event: Event
    error: BaseException
    attempt: int = 1
    retry_at: datetime | None = None
    handled: bool = False

    def __str__(self) -> str:
        return f"{self.rule or 'the event'} on {self.event.type} to {self.event.subject}: {self.error!r}"


class Found(list[T]):
    """What a reader found, in order: a list, with checks on how many there are.

    Args:
        found: the list.
        noun: what it is a list of, in the singular.
        which: what was asked for, in words that follow the noun.
        complain: given a sentence, raises AssertionError with it and the story.
    """

    def __init__(self, found: Iterable[T], noun: str, which: str, complain: Callable[[str], None]) -> None:
        super().__init__(found)
        self._noun = noun
        self._which = which
        self._complain = complain

    def once(self) -> T:
        """Return the only one; fail if there is none, or more."""
        __tracebackhide__ = True  # pytest: what failed is the line in the test
        self.times(1)
        return self[0]

    def times(self, expected: int) -> Self:
        """Return this list; fail if it does not hold as many as `expected` (a count)."""
        __tracebackhide__ = True
        if len(self) != expected:
            wanted = "no" if expected == 0 else "one" if expected == 1 else str(expected)
            noun = self._noun if expected < 2 else f"{self._noun}s"
            self._complain(f"expected {wanted} {noun}{self._which}, found {len(self) or 'none'}")
        return self

    def never(self) -> None:
        """Fail if there is any."""
        __tracebackhide__ = True
        self.times(0)


class Then:
    """Readers and checks; see `Harness.then`."""

    __slots__ = ("_harness",)

    def __init__(self, harness: Harness) -> None:
        self._harness = harness

    def state(self, subject: str, /, **expected: Any) -> Subject:
        """Return a read-only snapshot of a subject, and check properties.

        Args:
            subject: its name; one that is not stored has its defaults.
            **expected: property -> the value it must have, a predicate that must hold for it, or `ANY`. As for the
                engine, `1`, `1.0` and `True` are different values.

        Raises:
            AssertionError: a property differs; the message names all that do, and tells what happened.
            UnknownProperty: the subject is typed and does not declare one of them.
        """
        __tracebackhide__ = True
        found = self._harness.read(subject)
        wrong = []
        for name, wanted in expected.items():
            value = found.get(name)
            if wanted is not ANY and not (wanted(value) if callable(wanted) else _equal(wanted, value)):
                is_now = f"it is {value!r}" if found.has(name) else "it has no value"
                wrong.append(f"  {name}: expected {_wanted(wanted)}, but {is_now}")
        if wrong:
            self._complain("\n".join([f"{subject} is not as expected", *wrong]))
        return found

    def subjects(self, prefix: str = "") -> list[str]:
        """Return the names of the stored subjects that start with `prefix`, sorted."""
        return self._harness.stored_subjects(prefix)

    def emitted(self, event_type: str = "*", *, to: str | None = None, data: Any = ANY) -> Found[Event]:
        """Return the messages that rules have sent, in order; a timer's message counts from when it is due.

        Events that the test itself sent with `when` are not among them.

        Args:
            event_type: which ones: exact, or a glob such as `customer.*`.
            to: only those to this subject.
            data: only those with exactly these data.
        """
        sent = self._harness.sent
        found = [
            event
            for event in sent
            if fnmatchcase(event.type, event_type)
            and to in (None, event.subject)
            and (data is ANY or _equal(data, event.data))
        ]
        which = f" {event_type}" + (f" to {to}" if to else "") + ("" if data is ANY else f" with data {data!r}")
        return self._found(found, "message", which, "messages sent", map(describe_event, sent))

    def timers(self, key: str | None = None, *, of: str | None = None) -> Found[Timer]:
        """Return the timers that are set and not due yet, earliest first.

        Args:
            key: only those of this name.
            of: only those of this subject.
        """
        pending = self._harness.pending_timers()
        found = [timer for timer in pending if key in (None, timer.key) and of in (None, timer.subject)]
        which = (f" {key!r}" if key else "") + (f" of {of}" if of else "")
        return self._found(found, "timer", which, "timers set", map(describe_timer, pending))

    def failures(self, rule: str | None = None, *, error: type[BaseException] = BaseException) -> Found[Failed]:
        """Return what failed, in order; with retries, each attempt that failed.

        A test that leaves dead letters and never asks for failures fails itself: call this, or
        `dead_letters`, where a failure is what you expect.

        Args:
            rule: only those of the rule with this id.
            error: only those with an error of this class.
        """
        failed = self._harness.failed(asked=True)
        found = [one for one in failed if rule in (None, one.rule) and isinstance(one.error, error)]
        which = (f" of {rule}" if rule else "") + ("" if error is BaseException else f" with {error.__qualname__}")
        return self._found(found, "failure", which, "failures", map(str, failed))

    def dead_letters(self, rule: str | None = None) -> Found[DeadLetter]:
        """Return the dead letters that are there now, oldest first.

        Args:
            rule: only those of the rule with this id.
        """
        letters = self._harness.dead_letters(asked=True)
        found = [letter for letter in letters if rule in (None, letter.rule)]
        shown = (f"{letter.rule or 'the event'}: {letter.failure.message}" for letter in letters)
        return self._found(found, "dead letter", f" of {rule}" if rule else "", "dead letters", shown)

    def _found(self, found: Iterable[T], noun: str, which: str, all_of_them: str, shown: Iterable[str]) -> Found[T]:
        def complain(problem: str) -> None:
            __tracebackhide__ = True
            there = [f"  {line}" for line in shown]
            self._complain("\n".join([problem, f"{all_of_them}:{'' if there else ' none'}", *there]))

        return Found(found, noun, which, complain)

    def _complain(self, problem: str) -> None:
        __tracebackhide__ = True
        raise AssertionError(f"{problem}\n\n{self._harness.story()}")


def _equal(wanted: Any, value: Any) -> bool:
    return bool(wanted == value) and _alike(wanted, value)


def _alike(wanted: Any, value: Any) -> bool:
    """Tell whether two values that are equal would be so for the engine, too: 1, 1.0 and True are not."""
    if type(wanted) in _NUMBERS and type(value) in _NUMBERS:
        return type(wanted) is type(value)
    if isinstance(wanted, dict) and isinstance(value, dict):
        return all(_alike(item, value[key]) for key, item in wanted.items())
    if isinstance(wanted, list | tuple) and isinstance(value, list | tuple):
        return all(map(_alike, wanted, value))
    return True


def _wanted(wanted: Any) -> str:
    if callable(wanted):
        return f"something for which {getattr(wanted, '__qualname__', wanted)} holds"
    return repr(wanted)
