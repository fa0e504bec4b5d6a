"""The in-process engine: events come in, turns are run and committed, messages go on, timers and retries fire.

Belongs here: the way of one event from `emit` to its receipt, and the bus's life. It must not know how rules
are matched or run (`rulebook`, `turns`), how work is ordered (`dispatch`), or what a store is made of.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, Self

from onwhen.engine import agenda
from onwhen.engine.chain import Middleware, Scope
from onwhen.engine.clock import Clock, SystemClock, VirtualClock
from onwhen.engine.dispatch import Dispatcher
from onwhen.engine.events import DEFAULT_SOURCE, Event
from onwhen.engine.handlers import Handlers, handlers_of
from onwhen.engine.limits import Limits
from onwhen.engine.outcomes import Outcome, Receipt
from onwhen.engine.partitions import partition_of
from onwhen.engine.rulebook import Rulebook
from onwhen.engine.rules import RuleSet
from onwhen.engine.sessions import StoreSession
from onwhen.engine.state import Snapshot, State
from onwhen.engine.store import Answer, Commit, CommitResult, DeadLetter, Position, Retry, Store
from onwhen.engine.subjects import Subject
from onwhen.engine.turns import CURRENT, Turn
from onwhen.engine.work import Cascade, Work
from onwhen.errors import BusClosed, MigrationError, StoreError, SubjectStateError, UnknownDeadLetter

__all__ = ["EventBus"]

_READ_BATCH: Final = 1000
_PAUSES: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between tries while the store fails
_FATAL: Final = (KeyboardInterrupt, SystemExit, GeneratorExit)


class EventBus:
    """Runs rules on events, in this process, over a store.

    `async with bus:` picks up what the store still holds, and on leaving waits until all is handled. Without it
    the bus opens at the first `emit`.

    Args:
        *rule_sets: what to include from the start.
        store: where subjects, accepted events, timers and dead letters are kept.
        clock: where the time comes from; by default the machine's.
        limits: what is allowed; see `Limits`.
        source: the CloudEvents source of what is emitted through this bus.
    """

    def __init__(
        self,
        *rule_sets: RuleSet,
        store: Store,
        clock: Clock | None = None,
        limits: Limits | None = None,
        source: str = DEFAULT_SOURCE,
    ) -> None:
        self.store = store
        self.clock: Clock = clock or SystemClock()
        self.limits = limits or Limits()
        self.source = source
        self.rulebook = Rulebook()
        self._partitions = store.partitions
        self._dispatcher: Dispatcher[Work] = Dispatcher(self._handle, self.limits.max_concurrent_turns)
        self._agenda = agenda.Agenda(self.clock, self._ring)
        self._hot: dict[str, tuple[type[Subject], State]] = {}
        self._observers: list[Callable[[Outcome], None]] = []
        self.module_sets: dict[str, RuleSet] = {}
        self._is_open = False
        self._is_closed = False
        self._opening: asyncio.Future[None] | None = None
        self.include(*rule_sets)

    # -- rules and middleware

    def include(self, *rule_sets: RuleSet) -> None:
        """Take rule sets in; including one twice, or importing its module twice, does it once."""
        self.rulebook.include(*rule_sets)
        self._hot.clear()  # a subject may have another class now

    def exclude(self, *rule_sets: RuleSet) -> None:
        """Take rule sets out again."""
        self.rulebook.exclude(*rule_sets)
        self._hot.clear()

    def use(self, middleware: Middleware, *, scope: Scope = "rule") -> None:
        """Wrap a middleware around every rule, or around every event (scope="event"); the first one is outermost."""
        self.rulebook.use(middleware, scope)

    def handlers(self) -> Handlers:
        """Return decorators and `emit` for modules whose rules belong to this bus alone.

        Rules are put into a rule set named after their module, so their ids are `module.function`.
        """
        return handlers_of(self)

    def observe(self, observer: Callable[[Outcome], None]) -> Callable[[], None]:
        """Call `observer` with every committed turn; return a function that ends that. It must not raise."""
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    def twin(self, *, store: Store, clock: Clock | None = None) -> EventBus:
        """Return another bus with the same rules, middleware and limits over another store."""
        twin = EventBus(store=store, clock=clock, limits=self.limits, source=self.source)
        twin.rulebook = self.rulebook.copy()
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
    ) -> Receipt:
        """Send an event, and wait until it and all messages that follow from it are handled.

        Inside a turn, however deep, the event is the turn's own: it is recorded and leaves with the commit.
        Cancelling `emit` stops the waiting only: an accepted event is handled all the same.

        Args:
            event: a type, or a whole event.
            subject: whom it is addressed to; needed with a type.
            data: a JSON value, or bytes.
            id: id of the event; a second event of the same source and id is not accepted.
            time: when it happened, aware; by default now.
            extensions: further CloudEvents attributes.

        Returns:
            What every rule did. A failure is in there, not raised; see `Receipt.raise_for_failure`.

        Raises:
            InvalidEvent: the event is not as it must be; nothing was accepted.
            BusClosed: the bus was closed.
        """
        turn = CURRENT.get()
        if turn is not None and not turn.is_over and turn.family is self.rulebook.family:
            return self._record(turn, event, subject, data, extensions)
        if not isinstance(event, Event):
            name: Any = subject.name if isinstance(subject, Subject) else subject
            moment = time or self.clock.now()
            event = Event(event, name, data, id=id, source=self.source, time=moment, extensions=extensions)
        event.check_size(self.limits.max_event_bytes)
        if self._is_closed:
            raise BusClosed("the bus is closed and takes no more events; enter it again with 'async with'")
        receipt, cascade = Receipt(event), Cascade()
        self._dispatcher.start(self._accept(event, receipt, cascade))
        if cascade.pending or cascade.error is not None:
            await cascade.settled()
        return receipt

    def _record(
        self,
        turn: Turn,
        event: str | Event,
        subject: str | Subject | None,
        data: Any,
        extensions: Mapping[str, str | int | bool] | None,
    ) -> Receipt:
        ctx = turn.running
        assert ctx is not None
        if isinstance(event, Event):
            extensions = event.extensions or None
            recorded = turn.emit(ctx, event.type, event.data, event.subject, None, None, extensions)
        else:
            recorded = turn.emit(ctx, event, data, subject, None, None, extensions)
        return Receipt(recorded, "recorded")

    async def _accept(self, event: Event, receipt: Receipt, cascade: Cascade) -> None:
        with self._dispatcher.busy():
            try:
                if not self._is_open:
                    await self.start()
                (position,) = await self.store.append(self._partition_of(event.subject), (event,))
            except BaseException as error:
                cascade.error = error
                cascade.settle()
                if isinstance(error, _FATAL):
                    raise
                return
            if position is None:
                receipt.status = "duplicate"
                cascade.settle()
            else:
                self._submit(Work(event, position, receipt, cascade))

    def _submit(self, work: Work) -> None:
        if not self._dispatcher.submit(work.event.subject, work):
            self._let_wait(work)

    @staticmethod
    def _let_wait(work: Work) -> None:
        """Let the emitter go, because the subject waits for a retry that may be hours away."""
        if work.receipt is not None:
            work.receipt.status = "waiting"
        work.settle()

    # -- handling one event

    async def _handle(self, work: Work) -> None:
        tries = 0
        while True:
            try:
                if await self._attempt(work):
                    return
            except _FATAL as error:
                if work.cascade is not None:
                    work.cascade.error = error
                work.settle()
                raise
            except StoreError:
                # The event is safe in the log. Later ones of the subject wait behind it, so that order is kept.
                self._hot.pop(work.event.subject, None)
                await asyncio.sleep(_PAUSES[min(tries, len(_PAUSES) - 1)])
                tries += 1

    async def _attempt(self, work: Work) -> bool:
        """Run one turn and commit it; False if it has to be run again on newer state."""
        name = work.event.subject
        turn = await self._turn(work)
        await turn.run()
        partition = self._partition_of(name)
        commit, write = turn.commit(partition, token=None, handled=work.position)
        result = await self.store.commit(commit)
        if result.answer is not Answer.OK:
            self._hot.pop(name, None)
            if result.answer is Answer.CONFLICT:
                return False
            if work.receipt is not None:
                work.receipt.status = "duplicate"
            work.settle()
            return True
        turn.state.committed(write, result.version)
        self._keep_hot(name, type(turn.subject), turn.state)
        self._follow_up(work, turn, commit, result)
        return True

    async def _turn(self, work: Work) -> Turn:
        name = work.event.subject
        hot = self._hot.get(name)
        error: MigrationError | None = None
        if hot is None:
            record = await self.store.load(name)
            cls = self.rulebook.subject_type(name)
            try:
                hot = cls, cls._state_of(record)
            except MigrationError as refused:
                hot, error = (Subject, Subject._state_of(record)), refused
        return Turn(
            event=work.event,
            subject_type=hot[0],
            state=hot[1],
            rulebook=self.rulebook,
            limits=self.limits,
            clock=self.clock,
            read=self.read,
            retry=work.retry,
            refused=error,
        )

    def _follow_up(self, work: Work, turn: Turn, commit: Commit, result: CommitResult) -> None:
        """Send on what a committed turn has left."""
        outcome = turn.outcome()
        receipt, cascade = work.receipt, work.cascade
        if receipt is not None:
            receipt._outcome = outcome
            receipt.status = "handled"
        for event, position in zip(commit.messages, result.appended, strict=True):
            child = None
            if cascade is not None and receipt is not None:
                child = Receipt(event)
                receipt.cascade.append(child)
                cascade.pending += 1
            self._submit(Work(event, position, child, cascade))
        for timer in commit.timers:
            self._agenda.timer(timer.due)
        for retry in commit.retries:
            self._wait_for(retry)
        if work.retry is not None and work.retry.in_order:
            self._dispatcher.release(commit.subject)
        for observer in self._observers:
            observer(outcome)
        work.settle()

    def _wait_for(self, retry: Retry) -> None:
        self._agenda.retry(retry)
        if retry.in_order:
            for waiting in self._dispatcher.hold(retry.subject):
                self._let_wait(waiting)

    def _keep_hot(self, name: str, cls: type[Subject], state: State) -> None:
        hot = self._hot
        if name not in hot and len(hot) >= self.limits.hot_subjects:
            del hot[next(iter(hot))]
        hot[name] = (cls, state)

    def _partition_of(self, subject: str) -> int:
        return 0 if self._partitions == 1 else partition_of(subject, self._partitions)

    # -- timers and retries

    def _ring(self) -> None:
        self._dispatcher.start(self._run_due())

    async def _run_due(self) -> None:
        with self._dispatcher.busy():
            if self._agenda.timers_are_due():
                await self._promote()
            for retry in self._agenda.take_due_retries():
                work = Work(retry.event, None, retry=retry)
                if retry.in_order:
                    self._dispatcher.submit_urgent(retry.subject, work)
                else:
                    self._submit(work)
            self._agenda.arm()

    async def _promote(self) -> None:
        upcoming: list[datetime] = []
        for partition in range(self._partitions):
            promoted = await self.store.promote(partition)
            for entry in promoted.entries:
                self._submit(Work(entry.event, entry.position))
            if promoted.next_due is not None:
                upcoming.append(promoted.next_due)
        self._agenda.next_timer = min(upcoming, default=None)

    @property
    def next_due(self) -> datetime | None:
        """When the next timer or retry is due, as far as is known; None if nothing waits."""
        return self._agenda.next_due

    async def advance(self, to: timedelta | datetime) -> None:
        """Move a virtual clock on, and run what becomes due on the way, each thing at its own moment.

        Args:
            to: how far, or up to which moment (aware); what is due at that moment itself is run.

        Raises:
            TypeError: the bus runs on a clock that cannot be moved.
            SubjectStateError: called inside a turn, which would wait for itself.
        """
        clock = self.clock
        if not isinstance(clock, VirtualClock):
            raise TypeError(f"advance needs a bus on a VirtualClock, this one runs on {type(clock).__name__}")
        self._refuse_inside_turn("advance")
        if not self._is_open:
            await self.start()
        until = clock.now() + to if isinstance(to, timedelta) else to
        await self.idle()
        while (due := self.next_due) is not None and due <= until:
            clock.move_to(due)
            await self._run_due()
            await self.idle()
        clock.move_to(until)

    # -- subjects

    def subject(self, name: str) -> Subject:
        """Return a subject to be worked on outside a turn: `async with bus.subject(name) as subject: ...`."""
        return self.rulebook.subject_type(name)._detached(name, StoreSession(self))

    async def read(self, name: str) -> Subject:
        """Return a read-only snapshot of a subject, as it was last committed."""
        cls = self.rulebook.subject_type(name)
        return cls._of(cls._state_of(await self.store.load(name), Snapshot))

    async def commit_outside(self, commit: Commit) -> tuple[CommitResult, list[Receipt]]:
        """Commit what does not come from a turn, and handle the messages in it; for sessions and replays."""
        self._refuse_inside_turn("store")
        if not self._is_open:
            await self.start()
        receipts = [Receipt(event) for event in commit.messages]
        cascade = Cascade()
        outcome: list[CommitResult] = []
        self._dispatcher.start(self._commit_outside(commit, receipts, cascade, outcome))
        await cascade.settled()
        return outcome[0], receipts

    async def _commit_outside(
        self, commit: Commit, receipts: Sequence[Receipt], cascade: Cascade, outcome: list[CommitResult]
    ) -> None:
        with self._dispatcher.busy():
            try:
                result = await self.store.commit(commit)
            except BaseException as error:
                cascade.error = error
                cascade.settle()
                return
            outcome.append(result)
            if result.answer is Answer.OK:
                self._hot.pop(commit.subject, None)
                for receipt, position in zip(receipts, result.appended, strict=True):
                    cascade.pending += 1
                    self._submit(Work(receipt.event, position, receipt, cascade))
                for retry in commit.retries:
                    cascade.pending += 1
                    self._dispatcher.submit_urgent(
                        retry.subject, Work(retry.event, None, Receipt(retry.event), cascade, retry)
                    )
            cascade.settle()

    def _refuse_inside_turn(self, verb: str) -> None:
        turn = CURRENT.get()
        if turn is not None and not turn.is_over and turn.family is self.rulebook.family:
            raise SubjectStateError(
                f"{verb} inside the turn of {turn.event.type} to {turn.state.name}: a turn writes its own subject "
                f"only; send the other one a message"
            )

    # -- dead letters

    def dead_letters(self) -> AsyncIterator[DeadLetter]:
        """Go through the dead letters, oldest first."""
        return self.store.dead_letters()

    async def replay(self, dead_letter: str) -> None:
        """Run what failed again: the one rule on its event, or the whole event if that was refused.

        Raises:
            UnknownDeadLetter: there is none of this id.
        """
        async for letter in self.store.dead_letters():
            if letter.id == dead_letter:
                break
        else:
            raise UnknownDeadLetter(f"no dead letter {dead_letter!r}: replayed or discarded, or mistyped")
        again = Retry(
            subject=letter.subject,
            event=letter.event,
            rule=letter.rule,
            attempt=1,
            due=self.clock.now(),
            in_order=False,
            first_failed=letter.first_failed,
            failure=letter.failure,
        )
        while True:
            record = await self.store.load(letter.subject)
            commit = Commit(
                partition=self._partition_of(letter.subject),
                subject=letter.subject,
                version=record.version,
                retries=[again],
                revived=[letter.id],
            )
            result, _ = await self.commit_outside(commit)
            if result.answer is Answer.DONE:
                raise UnknownDeadLetter(f"dead letter {dead_letter!r} was replayed or discarded meanwhile")
            if result.answer is Answer.OK:
                return

    async def discard(self, dead_letter: str) -> None:
        """Remove a dead letter for good.

        Raises:
            UnknownDeadLetter: there is none of this id.
        """
        if not await self.store.discard(dead_letter):
            raise UnknownDeadLetter(f"no dead letter {dead_letter!r}: replayed or discarded, or mistyped")

    # -- life

    async def start(self) -> None:
        """Open the store, and take up what it holds: pending events, waiting retries, timers."""
        if self._opening is not None:
            await asyncio.shield(self._opening)
            return
        self._opening = asyncio.get_running_loop().create_future()
        try:
            await self.store.open(self.clock)
            for partition in range(self._partitions):
                async for retry in self.store.retries(partition):
                    self._wait_for(retry)
                await self._take_up(partition)
            await self._promote()
            self._agenda.arm()
            self._is_open, self._is_closed = True, False
            self._opening.set_result(None)
        except BaseException as error:
            self._opening.set_exception(error)
            self._opening.exception()  # nobody else may be waiting
            raise
        finally:
            self._opening = None

    async def _take_up(self, partition: int) -> None:
        position: Position | None = None
        while entries := await self.store.read(partition, position, _READ_BATCH):
            for entry in entries:
                self._submit(Work(entry.event, entry.position))
            position = entries[-1].position

    async def idle(self) -> None:
        """Wait until all that was accepted is handled, but for what waits for a timer or a retry."""
        self._refuse_inside_turn("idle")
        await self._dispatcher.idle()

    async def close(self) -> None:
        """Take no more events, wait until those that were accepted are handled, and let go of the store."""
        self._is_closed = True
        await self.idle()
        self._agenda.disarm()
        if self._is_open:
            self._is_open = False
            self._dispatcher.forget()
            self._agenda.clear()
            self._hot.clear()
            await self.store.close()

    async def __aenter__(self) -> Self:
        if not self._is_open:
            await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<EventBus {sum(1 for _ in self.rulebook.rules())} rules over {type(self.store).__name__}>"
