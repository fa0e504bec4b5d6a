"""The harness: a bus on a virtual clock over a store in memory, made for given / when / then.

Belongs here: putting such a bus together, driving it, and keeping what came of it. It must not know of pytest,
so that it works in any test runner.
"""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Self, TypeVar
from uuid import uuid4

from onwhen.engine.bus import EventBus
from onwhen.engine.clock import VirtualClock
from onwhen.engine.events import Event
from onwhen.engine.limits import Limits
from onwhen.engine.outcomes import Outcome, Receipt
from onwhen.engine.rules import RuleSet
from onwhen.engine.state import Snapshot
from onwhen.engine.store import Commit, DeadLetter, Timer
from onwhen.engine.subjects import Subject
from onwhen.storage.memory import create_memory_storage
from onwhen.testing.story import Chapter, tell
from onwhen.testing.then import Failed, Then

__all__ = ["Harness"]

T = TypeVar("T")


class Harness:
    """Rules under test, on a clock that only moves when told to.

        harness = Harness(tickets)
        harness.given("ticket:1", status="open")
        await harness.when("ticket.closed", "ticket:1")
        harness.then.state("ticket:1", status="closed")

    Args:
        *rule_sets: the rules.
        bus: a bus whose rules, middleware and limits to take; neither it nor its store is touched.
        start: the first moment of the clock, aware; by default the start of the Unix epoch.
        limits: what the engine allows; without a `bus` only.

    Attributes:
        bus: the bus, for what the harness does not offer itself.
        clock: its clock; `advance` moves it and runs what becomes due.
        sent: the messages that rules have sent so far, in order.
    """

    def __init__(
        self,
        *rule_sets: RuleSet,
        bus: EventBus | None = None,
        start: datetime | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.clock = VirtualClock() if start is None else VirtualClock(start)
        store = create_memory_storage()
        if bus is None:
            self.bus = EventBus(store=store, clock=self.clock, limits=limits)
        elif limits is None:
            self.bus = bus.twin(store=store, clock=self.clock)
        else:
            raise TypeError("a harness takes its limits from bus=, or is given limits=; not both")
        self.bus.limits = replace(self.bus.limits, explain_sample=1)  # a story is to say why
        self.sent: list[Event] = []
        self._chapters: list[Chapter] = []
        self._awaited: dict[str, Timer] = {}  # by event id: what will count as sent once it is due
        self._asked = False
        self._told = False
        self.bus.observe(self._note)
        self.include(*rule_sets)

    def include(self, *rule_sets: RuleSet) -> Self:
        """Take further rule sets in."""
        self.bus.include(*rule_sets)
        return self

    # -- given

    def given(self, subject: str, /, *, ext: Mapping[str, Any] | None = None, **properties: Any) -> Self:
        """Set state, without any event; what is not mentioned stays as it is.

        Args:
            subject: name of the subject.
            ext: extended properties, JSON values.
            **properties: properties, validated as in a rule.

        Raises:
            PropertyValueError, PropertyTypeError: a value is refused; then nothing is set.
            UnknownProperty: the subject is typed and does not declare it.
        """
        cls = self.bus.rulebook.subject_type(subject)
        state = cls._state_of(_at_once(self.bus.store.load(subject)))
        draft = cls._of(state)
        for name, value in properties.items():
            draft.set(name, value, muted=True)
        for name, value in (ext or {}).items():
            draft.set_ext(name, value)
        write = state.write()
        if write is not None:
            commit = Commit(partition=0, subject=subject, version=state.version, write=write, id=str(uuid4()))
            _at_once(self.bus.store.commit(commit))
            self.bus.forget(subject)  # or a rule would run on the old state first, and then again
        return self

    # -- when

    async def when(
        self,
        event: str | Event,
        subject: str | Subject | None = None,
        data: Any = None,
        *,
        id: str | None = None,
        time: datetime | None = None,
        extensions: Mapping[str, str | int | bool] | None = None,
    ) -> Receipt:
        """Send an event, and wait until it and all messages that follow from it are handled.

        The arguments are those of `EventBus.emit`.

        Returns:
            What every rule did with this event. A failure is in there, not raised.
        """
        return await self.bus.emit(event, subject, data, id=id, time=time, extensions=extensions)

    async def advance(self, to: timedelta | datetime) -> None:
        """Let time pass, and run the timers and retries that become due, each at its own moment.

        Args:
            to: how long, or up to which moment (aware); what is due at that moment itself is run.
        """
        await self.bus.advance(to)

    @property
    def now(self) -> datetime:
        """The moment at which the clock stands, aware, in UTC."""
        return self.clock.now()

    # -- then

    @property
    def then(self) -> Then:
        """What to expect: `then.state(...)`, `.emitted(...)`, `.timers(...)`, `.failures(...)`."""
        return Then(self)

    def read(self, subject: str) -> Subject:
        """Return a read-only snapshot of a subject."""
        cls = self.bus.rulebook.subject_type(subject)
        return cls._of(cls._state_of(_at_once(self.bus.store.load(subject)), Snapshot))

    def stored_subjects(self, prefix: str = "") -> list[str]:
        """Return the names of the stored subjects that start with `prefix`, sorted."""

        async def names() -> list[str]:
            return [record.name async for record in self.bus.store.subjects(prefix)]

        return _at_once(names())

    def pending_timers(self) -> list[Timer]:
        """Return the timers that are set, earliest due first."""

        async def timers() -> list[Timer]:
            return [timer async for timer in self.bus.store.timers()]

        return _at_once(timers())

    def failed(self, *, asked: bool = False) -> list[Failed]:
        """Return every failure so far, in order.

        Args:
            asked: the test expects failures; see `unasked`.
        """
        self._asked |= asked
        return [failure for chapter in self._chapters for failure in _failures(chapter.outcome)]

    def dead_letters(self, *, asked: bool = False) -> list[DeadLetter]:
        """Return the dead letters that are there now, oldest first.

        Args:
            asked: the test expects failures; see `unasked`.
        """
        self._asked |= asked

        async def letters() -> list[DeadLetter]:
            return [letter async for letter in self.bus.store.dead_letters()]

        return _at_once(letters())

    def unasked(self) -> list[DeadLetter]:
        """Return the dead letters of a test that never asked whether anything failed."""
        return [] if self._asked else self.dead_letters()

    def story(self) -> str:
        """Return as text what happened: each turn, its rules, what they did and why others did not."""
        self._told = True
        return tell(self._chapters, self.bus.rulebook.rule_sets)

    @property
    def is_told(self) -> bool:
        """Whether the story was asked for, for example by a check that did not hold."""
        return self._told

    def _note(self, outcome: Outcome) -> None:
        self._chapters.append(Chapter(time=self.clock.now(), outcome=outcome))
        timer = self._awaited.pop(outcome.event.id, None)
        if timer is not None:
            self.sent.append(outcome.event)
        if outcome.error is not None:
            return  # nothing of what its rules did was kept
        for run in outcome.runs:
            self.sent.extend(run.messages)
            self._awaited.update((timer.event.id, timer) for timer in run.timers)


def _failures(outcome: Outcome) -> list[Failed]:
    event = outcome.event
    found = [
        Failed(
            rule=run.rule,
            event=event,
            error=run.error,
            attempt=run.attempt,
            retry_at=run.retry_at,
            handled=run.handled,
        )
        for run in outcome.runs
        if run.error is not None
    ]
    if outcome.error is not None:
        found.append(Failed(rule="", event=event, error=outcome.error))
    return found


def _at_once(answer: Awaitable[T]) -> T:
    """Return what a call to a store in memory returns: it never suspends.

    So a test can set and read state without `await`, in synchronous fixtures too.
    """
    steps: Generator[Any, Any, T] = answer.__await__()
    try:
        next(steps)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    steps.close()
    raise RuntimeError("the harness's store has suspended; it must be the store in memory")
