"""The in-process engine: events come in, turns are run and committed, messages go on, timers and retries fire.

Belongs here: what a program does with a bus, and the bus's life. What happens to an event is the pipeline's; this
must not know how.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextvars import copy_context
from datetime import datetime, timedelta
from typing import Any, Self

from onwhen.engine import upkeep
from onwhen.engine._attributes import text
from onwhen.engine.chain import Middleware, Scope
from onwhen.engine.clock import Clock, SystemClock, VirtualClock
from onwhen.engine.context import Context
from onwhen.engine.events import DEFAULT_SOURCE, Event
from onwhen.engine.handlers import Handlers, handlers_of
from onwhen.engine.limits import Limits
from onwhen.engine.nesting import record, running
from onwhen.engine.outcomes import Outcome, Receipt
from onwhen.engine.parking import Parking
from onwhen.engine.pipeline import Pipeline
from onwhen.engine.producer import Producer
from onwhen.engine.rulebook import Rulebook
from onwhen.engine.rules import RuleSet
from onwhen.engine.sessions import StoreSession
from onwhen.engine.shared import is_shared
from onwhen.engine.state import Snapshot
from onwhen.engine.store import Commit, CommitResult, DeadLetter, Retry, Store
from onwhen.engine.subjects import Subject
from onwhen.engine.tally import Tally
from onwhen.engine.turns import RUNNING
from onwhen.engine.upkeep import Migrated
from onwhen.engine.work import Cascade
from onwhen.errors import BusClosed, BusInUse, ContainerError, SubjectStateError, UnknownDeadLetter

__all__ = ["EventBus"]


class EventBus:
    """Runs rules on events, in this process, over a store.

    `async with bus:` picks up what the store still holds, and on leaving waits until all is handled. Without it
    the bus opens at the first `emit`. It belongs to the event loop that it is open on; when that has ended, it opens
    again on the next one, and picks up what was left.

    Args:
        *rule_sets: what to include from the start.
        store: where subjects, accepted events, timers and dead letters are kept.
        clock: where the time comes from; by default the machine's.
        limits: what is allowed; see `Limits`.
        source: the CloudEvents source of what is emitted through this bus, a URI reference.

    Raises:
        InvalidEvent: the source cannot be one.
    """

    def __init__(
        self,
        *rule_sets: RuleSet,
        store: Store,
        clock: Clock | None = None,
        limits: Limits | None = None,
        source: str = DEFAULT_SOURCE,
    ) -> None:
        if isinstance(store, type) or not hasattr(store, "commit"):
            raise ContainerError(f"store={store!r:.200} is no store; give it one that is made: create_..._storage()")
        self.store = store
        self.clock: Clock = clock or SystemClock()
        self.limits = limits or Limits()
        self.source = text(source, "source")
        self.rulebook = Rulebook()
        self.tally = Tally()
        self.observers: list[Callable[[Outcome], None]] = []
        self.forgetters: list[Callable[[str | None], None]] = []
        self.module_sets: dict[str, RuleSet] = {}
        self._context = copy_context()
        self._pipeline: Pipeline | Producer | None = None
        self._lock = threading.Lock()
        self._is_closed = False
        self._entered = 0
        self.include(*rule_sets)

    # -- rules and middleware

    def include(self, *rule_sets: RuleSet) -> None:
        """Take rule sets in; including one twice, or importing its module twice, does it once."""
        self.rulebook.include(*rule_sets)
        self.forget()  # a subject may have another class now

    def exclude(self, *rule_sets: RuleSet) -> None:
        """Take rule sets out again."""
        self.rulebook.exclude(*rule_sets)
        self.forget()

    def use(self, middleware: Middleware, *, scope: Scope | None = None, only: Iterable[str] | None = None) -> None:
        """Wrap a middleware around every rule, or around every event (scope="event"); the first one is outermost.

        Without a scope it goes where it says itself that it belongs, or else around rules; with `only`, around rules
        of these ids, or globs of such: `only=["tickets.escalate", "billing.*"]`.
        """
        self.rulebook.use(middleware, scope, only)
        self._introduce(middleware)

    def _introduce(self, *middleware: Middleware) -> None:
        """Tell middleware whose it is, if it wants to know: some has to see what no chain shows."""
        for one in middleware:
            if (watch := getattr(one, "watch", None)) is not None:
                watch(self)

    def handlers(self) -> Handlers:
        """Return decorators and `emit` for modules whose rules belong to this bus alone.

        Rules are put into a rule set named after their module, so their ids are `module.function`.
        """
        return handlers_of(self)

    def observe(self, observer: Callable[[Outcome], None]) -> Callable[[], None]:
        """Call `observer` with every committed turn; return a function that ends that.

        What it raises goes to the event loop's exception handler.
        """
        self.observers.append(observer)

        def end() -> None:
            if observer in self.observers:
                self.observers.remove(observer)

        return end

    def twin(self, *, store: Store, clock: Clock | None = None) -> EventBus:
        """Return another bus with the same rules, middleware and limits over another store."""
        twin = EventBus(store=store, clock=clock, limits=self.limits, source=self.source)
        twin.rulebook = self.rulebook.copy()
        twin._introduce(*{*twin.rulebook.around("event"), *twin.rulebook.around("rule")})
        return twin

    # -- emitting

    async def emit(
        self,
        event: str | Event,
        subject: str | Subject | None = None,
        data: Any = None,
        *,
        id: str | None = None,
        time: datetime | None = None,
        extensions: Mapping[str, str | int | bool] | None = None,
        bookmark: tuple[str, str] | None = None,
        explain: bool = False,
    ) -> Receipt:
        """Send an event, and wait until it and all messages that follow from it are handled.

        Inside a turn, however deep, the event is the turn's own: it is recorded and leaves with the commit, under
        an id, a source and a time that are the turn's as well. Cancelling `emit` stops the waiting only: an
        accepted event is handled all the same.

        Args:
            event: a type, or a whole event.
            subject: whom it is addressed to; needed with a type.
            data: a JSON value, or bytes.
            id: id of the event; a second event of the same source and id is not accepted.
            time: when it happened, aware; by default now.
            extensions: further CloudEvents attributes.
            bookmark: name of the source that the event was read from, and how far it was read with it; stored
                together with the event, also if that was accepted before. `store.bookmark` returns it.
            explain: note which values conditions look at, for this event and the messages that follow from it, for
                `Receipt.explain`; the store keeps that, too. Of what comes by itself later, such as timers, and of
                what workers handle, the limits decide.

        Returns:
            What every rule did. A failure is in there, not raised; see `Receipt.raise_for_failure`.

        Raises:
            InvalidEvent: the event is not as it must be; nothing was accepted.
            TypeError: a whole event was given, and more.
            BusClosed: the bus was closed.
            BusInUse: the bus is open on the event loop of another thread.
            StoreError: the store did not answer, so it is not known whether the event was accepted. To make sure,
                emit it again with the same id.
        """
        if isinstance(event, Event):
            _check_alone("emit", subject, data, id, time, extensions)
        if RUNNING.get() is not None and (ctx := running(self.rulebook.family)) is not None:
            if bookmark is not None:
                raise TypeError("emit: a bookmark belongs to what is read from outside, not to what a turn sends")
            return record(ctx, event, subject, data, extensions)
        now = None if isinstance(event, Event) else self.clock.now()
        event = self._event(event, subject, data, id, time or now, extensions)
        receipt, cascade = Receipt(event), Cascade()
        self._open_here().accept(event, receipt, cascade, now, bookmark, explain)
        if cascade.pending or cascade.error is not None:
            await cascade.settled()
        return receipt

    async def append(
        self,
        event: str | Event,
        subject: str | Subject | None = None,
        data: Any = None,
        *,
        id: str | None = None,
        time: datetime | None = None,
        extensions: Mapping[str, str | int | bool] | None = None,
        bookmark: tuple[str, str] | None = None,
        explain: bool = False,
    ) -> Receipt:
        """Send an event, and wait only until it is accepted: from then on it is kept until it is handled.

        Arguments and errors are those of `emit`.

        Returns:
            A receipt that is filled in later; `await receipt.handled()` waits for that.
        """
        if self._running() is not None:
            return await self.emit(event, subject, data, id=id, time=time, extensions=extensions, bookmark=bookmark)
        if isinstance(event, Event):
            _check_alone("append", subject, data, id, time, extensions)
        event = self._event(event, subject, data, id, time or self.clock.now(), extensions)
        receipt = Receipt(event)
        await self._open_here().append(event, receipt, bookmark, explain)
        return receipt

    def _event(
        self,
        event: str | Event,
        subject: str | Subject | None,
        data: Any,
        id: str | None,
        time: datetime | None,
        extensions: Mapping[str, str | int | bool] | None,
    ) -> Event:
        """Return what comes from outside as an event that may be accepted."""
        if isinstance(event, Event):
            event.detach()  # it has an id from now on: emitted again, it is the same one
        else:
            name: Any = subject.name if isinstance(subject, Subject) else subject
            if self.rulebook.around("event"):
                extensions = self.rulebook.stamped(extensions)
            event = Event(event, name, data, id=id, source=self.source, time=time, extensions=extensions)
        if event.data is not None:
            event.check_size(self.limits.max_event_bytes)
        return event

    def _running(self) -> Context[Any] | None:
        """Return what the running code is part of, however deep: a run of a turn of this bus."""
        return None if RUNNING.get() is None else running(self.rulebook.family)

    def _refuse_inside_turn(self, verb: str) -> None:
        ctx = self._running()
        if ctx is not None:
            raise SubjectStateError(
                f"{verb} inside {ctx.turn}: a turn writes its own subject only, and waits for nobody; send the "
                f"other one a message"
            )

    # -- time

    @property
    def next_due(self) -> datetime | None:
        """When the next timer or retry is due, as far as is known; None if nothing waits."""
        return self._pipeline.next_due if self._pipeline is not None else None

    async def advance(self, to: timedelta | datetime) -> None:
        """Move a virtual clock on, and run what becomes due on the way, each thing at its own moment.

        Args:
            to: how far, or up to which moment (aware); what is due at that moment itself is run. A moment that has
                passed moves nothing.

        Raises:
            TypeError: the bus runs on a clock that cannot be moved.
            ValueError: the way is backwards, or the moment has no time zone.
            SubjectStateError: called inside a turn, which would wait for itself.
            BusClosed: the bus was closed.
        """
        clock = self.clock
        if not isinstance(clock, VirtualClock):
            raise TypeError(f"advance needs a bus on a VirtualClock, this one runs on {type(clock).__name__}")
        self._refuse_inside_turn("advance")
        until = clock.until(to)
        pipeline = self._open_here()
        await pipeline.ready()
        await pipeline.idle()
        while (due := pipeline.next_due) is not None and due <= until:
            clock.move_to(due)
            found = await pipeline.run_due()
            await pipeline.idle()
            if not found and pipeline.next_due == due:
                break  # a store whose own clock is behind this one
        clock.move_to(until)

    # -- subjects

    def subject(self, name: str) -> Subject:
        """Return a subject to be worked on outside a turn: `async with bus.subject(name) as subject: ...`."""
        return self.rulebook.subject_type(name)._detached(name, StoreSession(self))

    async def read(self, name: str) -> Subject:
        """Return a read-only snapshot of a subject, as it was last committed."""
        await self.opened()
        cls = self.rulebook.subject_type(name)
        return cls._of(cls._state_of(await self.store.load(name), Snapshot))

    def forget(self, subject: str | None = None) -> None:
        """Load a subject, or all of them, anew for the next turn, because the store was written to directly."""
        if self._pipeline is not None:
            self._pipeline.forget(subject)
        for forget in self.forgetters:
            forget(subject)

    async def commit_outside(self, commit: Commit) -> tuple[CommitResult, bool, list[Receipt]]:
        """Commit what does not come from a turn, and handle what is in it; for sessions and replays.

        Returns:
            See `Pipeline.commit`.
        """
        self._refuse_inside_turn("store")
        return await self._open_here().commit(commit)

    @property
    def pending(self) -> int:
        """Events that it has taken in and is not done with (a count); over a store of workers, until it is accepted."""
        return self._pipeline.pending if self._pipeline is not None else 0

    # -- what failed

    async def dead_letters(
        self, *, rule: str | None = None, subject: str | None = None, event_type: str | None = None
    ) -> AsyncIterator[DeadLetter]:
        """Go through the dead letters, oldest first; with arguments, through those for which all of them hold."""
        await self.opened()
        async for letter in upkeep.dead_letters(self.store, rule=rule, subject=subject, event_type=event_type):
            yield letter

    async def replay(self, dead_letter: str) -> Receipt:
        """Run what failed again: the one rule on its event, or the whole event if that was refused.

        Returns:
            What came of it; if it failed again, there is a new dead letter, or a retry waits.

        Raises:
            UnknownDeadLetter: there is none of this id.
        """
        self._refuse_inside_turn("replay")
        return await (await self._parking()).replay(dead_letter)

    async def replay_all(
        self, *, rule: str | None = None, subject: str | None = None, event_type: str | None = None
    ) -> list[Receipt]:
        """Replay the dead letters for which all arguments hold, each once, oldest first, one after the other."""
        self._refuse_inside_turn("replay")
        letters = [letter async for letter in self.dead_letters(rule=rule, subject=subject, event_type=event_type)]
        return await (await self._parking()).replay_all(letters)

    async def discard(self, dead_letter: str) -> None:
        """Remove a dead letter for good.

        Raises:
            UnknownDeadLetter: there is none of this id.
        """
        await self.opened()
        if not await self.store.discard(dead_letter):
            raise UnknownDeadLetter(f"no dead letter {dead_letter!r}: replayed or discarded, or mistyped")

    async def parked(self, subject: str | None = None) -> AsyncIterator[Retry]:
        """Go through what is parked: rules that failed for good, whose subjects wait until somebody resumes them."""
        await self.opened()
        async for retry in upkeep.parked(self.store, subject):
            yield retry

    async def resume(self, subject: str) -> list[Receipt]:
        """Run what is parked of a subject again, each rule on its event; when that succeeds the subject goes on.

        Returns:
            What came of each; what failed again is parked again, by its policy. Nothing if nothing is parked.
        """
        self._refuse_inside_turn("resume")
        return await (await self._parking()).resume(subject)

    async def skip(self, subject: str) -> list[DeadLetter]:
        """Give up what is parked of a subject, and go on with the subject.

        Returns:
            The dead letters that it is now; nothing if nothing is parked.
        """
        self._refuse_inside_turn("skip")
        return await (await self._parking()).skip(subject)

    async def _parking(self) -> Parking:
        pipeline = self._open_here()
        await pipeline.ready()  # while it is read what is parked, nothing may be taken away
        return pipeline.parking

    async def migrate_subjects(self, *, dry_run: bool = False) -> AsyncIterator[Migrated]:
        """Bring all stored subjects to the schema version that their class declares; see `Migrated`.

        Args:
            dry_run: store nothing, only find out.
        """
        await self.opened()
        async for migrated in upkeep.migrate_subjects(self.store, self.rulebook, dry_run=dry_run):
            self.forget(migrated.subject)
            yield migrated

    # -- life

    async def start(self) -> None:
        """Open the store, and take up what it holds: pending events, waiting retries, timers."""
        if self._pipeline is not None and self._pipeline.is_closing:
            await self.close()
        self._is_closed = False
        await self._here().ready()

    async def opened(self) -> None:
        """See to it that the store may be read: open a bus that was not opened yet; leave a closed one closed."""
        pipeline = self._pipeline
        if self._is_closed or (pipeline is not None and pipeline.loop is not asyncio.get_running_loop()):
            return
        await self._here().ready()

    async def idle(self) -> None:
        """Wait until all that was accepted is handled, but for what waits for a timer or a retry."""
        self._refuse_inside_turn("idle")
        if self._pipeline is not None:
            await self._here().idle()

    async def close(self) -> None:
        """Take no more events, wait until those that were accepted are handled, and let go of the store."""
        self._refuse_inside_turn("close")
        self._is_closed = True
        if self._pipeline is not None:
            pipeline = self._here()
            await pipeline.close()
            if self._pipeline is pipeline:
                self._pipeline = None

    async def __aenter__(self) -> Self:
        await self.start()
        self._entered += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._entered -= 1
        if not self._entered:
            await self.close()

    def _open_here(self) -> Pipeline | Producer:
        pipeline = self._pipeline
        if pipeline is not None and pipeline.loop is asyncio.get_running_loop() and not self._is_closed:
            return pipeline
        if self._is_closed:
            raise BusClosed("the bus is closed and takes no more events; enter it again with 'async with'")
        return self._here()

    def _here(self) -> Pipeline | Producer:
        """Return the pipeline of the running event loop; if the bus was open on one that has ended, a new one."""
        loop = asyncio.get_running_loop()
        with self._lock:
            if (pipeline := self._pipeline) is not None:
                if pipeline.loop is loop:
                    return pipeline
                if pipeline.loop.is_running():
                    raise BusInUse(
                        "the bus is open on the event loop of another thread; hand the coroutine over to that loop "
                        "with asyncio.run_coroutine_threadsafe"
                    )
                pipeline.abandon()
            self._pipeline = pipeline = self._new_pipeline(loop, pipeline)
            return pipeline

    def _new_pipeline(self, loop: asyncio.AbstractEventLoop, before: Pipeline | Producer | None) -> Pipeline | Producer:
        if is_shared(self.store):
            return Producer(self, self.store, loop, self._context)
        return Pipeline(self, loop, self._context, before=before if isinstance(before, Pipeline) else None)

    def __repr__(self) -> str:
        return f"<EventBus {sum(1 for _ in self.rulebook.rules())} rules over {type(self.store).__name__}>"


def _check_alone(verb: str, *more: object) -> None:
    if any(one is not None for one in more):
        raise TypeError(f"{verb}: a whole event says everything itself; change a copy of it with event.replace(...)")
