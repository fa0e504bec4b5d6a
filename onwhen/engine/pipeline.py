"""The way of events through an open bus: accepted, handled in a turn, committed, followed up; timers and retries.

Belongs here: everything that lives as long as a bus is open on one event loop. It must not know how rules are
matched or run (`rulebook`, `turns`), how work is ordered (`dispatch`), or what a store is made of. All that it
holds is also in the store: a pipeline can be thrown away at any moment, and another one takes up from there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from onwhen.engine.arrivals import Arrivals, Call
from onwhen.engine.dispatch import Dispatcher
from onwhen.engine.events import Event
from onwhen.engine.handling import Handling, Ran, Sent
from onwhen.engine.intake import Intake
from onwhen.engine.opening import Opening
from onwhen.engine.outcomes import Outcome, Receipt
from onwhen.engine.outside import OutsideCommits
from onwhen.engine.parking import Parking
from onwhen.engine.partitions import partition_of
from onwhen.engine.promotion import Promotion
from onwhen.engine.recovery import Held, Suspects, read_held
from onwhen.engine.resend import a_few_times, commit_surely
from onwhen.engine.schedule import Schedule
from onwhen.engine.store import Answer, Commit, CommitResult, Retry
from onwhen.engine.turns import Turn
from onwhen.engine.work import Cascade, Work, pending
from onwhen.errors import StoreError

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus

__all__ = ["Pipeline"]


class Pipeline:
    """A bus, open on one event loop.

    Args:
        bus: whose rules, store, clock, limits and observers are used.
        loop: the event loop; everything here is called on its thread.
        context: context variables of turns that nobody has just asked for: timers, retries, what was pending.
        before: the pipeline of an event loop that has ended in this process; so nothing has killed that.
    """

    def __init__(
        self, bus: EventBus, loop: asyncio.AbstractEventLoop, context: Context, before: Pipeline | None = None
    ) -> None:
        self.loop = loop
        self.context = context
        self.is_open = False
        self.is_closing = False
        self._has_given_up = False
        self._bus = bus
        self._store = bus.store
        self._tally = bus.tally
        self._partitions = bus.store.partitions
        self._is_volatile = bus.store.volatile
        self._dispatcher: Dispatcher[Work] = Dispatcher(self._handle, bus.limits.max_concurrent_turns, loop)
        self.parking = Parking(bus, self._dispatcher, self._goes_on, context)
        self._arrivals = Arrivals(self._take_up)
        self._intakes = [
            Intake(n, self._store, self._arrivals, self.ready, self._log_ahead, self._goes_on, bus.tally)
            for n in range(self._partitions)
        ]
        self._schedule = Schedule(bus.clock, loop, context, self._promote, self._dispatcher, self._submit)
        self._promotion = Promotion(
            self._store,
            self._arrivals,
            self._schedule.agenda.stored_timer,
            self._log_ahead,
            self._goes_on,
            context,
            bus.tally,
        )
        self._suspects = Suspects(self._store, self._dispatcher.one_by_one)
        self._handling = Handling(bus, loop, self._suspects, self._goes_on, self._send)
        self._is_in_trouble = False
        # What ended with the process could not be read here.
        self._may_find_suspects = before is None and not self._is_volatile
        self._outside = OutsideCommits(
            self._store, self._dispatcher, self._arrivals, self.ready, self._log_ahead, self.forget, self._goes_on
        )
        self._opening = Opening(self._dispatcher, context, self._read, self._go_on, _nobody_is_told)
        self._closing = asyncio.Lock()

    # -- life

    async def ready(self) -> None:
        """Wait until the store is open, and what it holds is taken up: pending events, retries, timers."""
        if self.is_open:
            return
        await asyncio.shield(self._opening.begin())

    async def _read(self) -> Sequence[Held]:
        was_closed = await self._store.open(self._bus.clock)
        # All of it is read before any of it is handled: if reading fails, it is read again another time.
        held = await read_held(self._store, self._bus.clock)
        if self._may_find_suspects and not was_closed:
            await self._suspects.find(held, self._bus.clock.now())
        return held

    async def _go_on(self, held: Sequence[Held]) -> None:
        self.is_open = True
        self._go_on_with(held)
        self._dispatcher.pump()
        await self._schedule.begin()

    def _go_on_with(self, held: Sequence[Held]) -> None:
        """Take up what was left; what may have killed the process before anything else."""
        suspected: list[Work] = []
        others: list[Work] = []
        for partition in held:
            if partition.pending:
                self._promotion.known(partition.partition, partition.pending[-1].position)
            for retry in partition.retries:
                if (starts := partition.suspected.get(retry.key)) is not None:
                    suspected.append(Work(retry.event, self.context, retry=retry, starts=starts))
                    self._hold(retry)
                else:
                    self._wait_for(retry)
            for entry in partition.pending:
                starts = partition.suspected.get(entry.position)
                work = Work(entry.event, self.context, position=entry.position, starts=starts)
                (others if starts is None else suspected).append(work)
        self._suspects.enter(suspected)
        self._send_on(suspected)
        self._send_on(others)

    async def idle(self) -> None:
        """Wait until all that was accepted is handled, but for what waits for a timer or a retry."""
        await self._dispatcher.idle()

    @property
    def pending(self) -> int:
        """How many events are accepted, or about to be, and not handled (a count)."""
        return sum(1 for _ in self._dispatcher.all_work()) + sum(1 for line in self._intakes for _ in line.work())

    async def close(self) -> None:
        """Wait until all is handled, and let go of the store; a store that does not answer is not waited for."""
        self.is_closing = True
        async with self._closing:
            await self.idle()
            self._schedule.agenda.disarm()
            self._dispatcher.close()
            self.is_open = False
            self._let_go()
            await self._store.close()

    def _let_go(self) -> None:
        """Let those go who wait for what is left in the store; nobody does it here any more."""
        for left in (self._dispatcher.all_work(), self._arrivals.work(), *(intake.work() for intake in self._intakes)):
            for work in tuple(left):
                work.settle()

    def abandon(self) -> None:
        """Ring no more, because the event loop has ended, perhaps in the middle of turns; leave all in the store."""
        self._let_go()
        self._schedule.agenda.disarm()
        for subject in self._dispatcher.active_subjects():
            if (work := self._unlogged(subject)) is not None:
                with suppress(StopIteration):
                    self._log(work).send(None)  # a volatile store answers at once

    def forget(self, subject: str | None = None) -> None:
        """Load a subject, or all of them, anew for their next turn."""
        self._handling.forget(subject)

    # -- accepting

    def accept(
        self,
        event: Event,
        receipt: Receipt,
        cascade: Cascade,
        now: datetime | None = None,
        bookmark: tuple[str, str] | None = None,
        explain: bool = False,
    ) -> None:
        """Take an event in; the cascade is told when it, and what follows from it, is handled or has failed."""
        work = Work(event, copy_context(), None, receipt, cascade, None, now, True)
        work.explains = explain
        is_fresh = self._is_volatile and self.is_open and not (event.has_id or bookmark)
        if is_fresh and self._dispatcher.do(event.subject, work):
            self._tally.accepted += 1
            return
        work.now, work.unlogged = None, False
        self._put(work, bookmark)

    async def append(
        self, event: Event, receipt: Receipt, bookmark: tuple[str, str] | None, explain: bool = False
    ) -> None:
        """Take an event in, and wait until it is accepted; `receipt.handled` waits for the rest.

        Raises:
            BaseException: why it is not known to be accepted.
        """
        cascade = Cascade(is_expected=False)
        accepted = self.loop.create_future()
        receipt._settled = cascade.settled
        self._put(Work(event, copy_context(), None, receipt, cascade, accepted=accepted, explains=explain), bookmark)
        await accepted
        if cascade.error is not None:
            raise cascade.error

    def _put(self, work: Work, bookmark: tuple[str, str] | None) -> None:
        work.bookmark = bookmark
        intake = self._intakes[self._partition_of(work.event.subject)]
        if intake.put(work):
            self._dispatcher.start(self._take_in(intake), work.context.copy())

    async def _take_in(self, intake: Intake) -> None:
        self._dispatcher.expect()
        try:
            await intake.run()
        finally:
            self._dispatcher.expected()

    def _take_up(self, works: Sequence[Work]) -> None:
        """Let work into the lanes, and start it."""
        if self.loop.is_running():  # else it is gone, and calls to the store are only being cleared away
            self._send_on(works)
            self._dispatcher.pump()

    def _send_on(self, works: Sequence[Work]) -> None:
        for work in works:
            if work.retry is not None:
                self._dispatcher.submit_urgent(work.event.subject, work)
            elif work.again and self._knows(work):
                work.duplicate()
            else:
                # One that was accepted before, is pending, and not known here, is ours: the answer to it was lost.
                self._submit(work)

    def _knows(self, work: Work) -> bool:
        at = work.position
        own = any(known.position == at for known in self._dispatcher.work_of(work.event.subject))
        # What has its id may be addressed to somebody else.
        return own or any(known.position == at for known in self._dispatcher.all_work())

    def _submit(self, work: Work) -> None:
        if not self._dispatcher.submit(work.event.subject, work):
            self._let_wait(work)

    def _let_wait(self, work: Work) -> None:
        """Let the emitter go, because the subject waits for a retry that may be hours away."""
        if work.starts is not None:
            self._suspects.leave(work)  # or all others would be worked on one by one for hours
        if work.receipt is not None and work.receipt.status == "accepted":
            work.receipt.status = "waiting"
        work.settle()

    # -- handling one event

    async def _handle(self, work: Work) -> None:
        try:
            if self._has_given_up:
                raise StoreError("the bus is closing, and its store does not answer; this is left in the store")
            try:
                refused = None
                turning = self._handling.hot(work) if self._is_volatile else None
                if turning is not None:
                    ran = await turning
                    if isinstance(ran, BaseException):
                        refused = ran
                    elif await self._is_stored(work, ran):
                        return
                committed = await self._handling.committed(work, refused)
            except BaseException:
                if work.unlogged and self.loop.is_running():  # else it is gone, and this is only being cleared away
                    await self._log(work)
                raise
            self._follow_up(work, committed.turn, committed.commit, committed.result, committed.call)
        finally:
            if work.starts is not None:
                self._suspects.leave(work)

    async def _is_stored(self, work: Work, ran: Ran) -> bool:
        """Commit a turn to a volatile store; False if it has to be run again on newer state."""
        commit = ran.commit
        if commit.messages:
            await self._log_ahead((event.subject for event in commit.messages), own=work)
        result = await self._store.commit(commit)
        if result.answer is not Answer.OK:
            self._tally.conflicts += 1
            return False
        work.unlogged = False
        self._handling.keep(ran, result)
        self._follow_up(work, ran.turn, commit, result, None)
        return True

    def _unlogged(self, subject: str) -> Work | None:
        """Return the work that is being done on a subject, if its event was not put into the log."""
        work = self._dispatcher.active_on(subject)
        return work if work is not None and work.unlogged else None

    async def _log(self, work: Work) -> None:
        """Put an event that was to be handled at once into the log after all."""
        if work.unlogged:
            (accepted,) = await self._store.append(self._partition_of(work.event.subject), (work.event,))
            work.position, work.unlogged = accepted.position, False

    async def _log_ahead(self, subjects: Iterable[str], own: Work | None = None) -> None:
        """Put into the log what is ahead there of something that is about to be put there, `own` excepted."""
        for name in subjects:
            if (ahead := self._unlogged(name)) is not None and ahead is not own:
                await self._log(ahead)

    async def _send(self, work: Work, commit: Commit) -> Sent:
        """Send the commit of a turn; what it appends arrives in the order of the log."""
        if self._is_volatile:
            if commit.messages:
                await self._log_ahead((event.subject for event in commit.messages), own=work)
            sent = Sent(await self._store.commit(commit))
        elif not commit.messages:
            sent = Sent(*await commit_surely(self._store, commit, self._goes_on))
        else:
            sent = await self._send_messages(commit)
        if sent.result.answer is not Answer.CONFLICT:
            work.unlogged = False
            self._is_in_trouble = False
        return sent

    async def _send_messages(self, commit: Commit) -> Sent:
        call = self._arrivals.calling()

        def refused_by_store() -> None:
            nonlocal call
            self._arrivals.arrived(call, ())  # it keeps nobody else waiting until there is room for it
            call = self._arrivals.calling()

        try:
            result, is_first_answer = await commit_surely(self._store, commit, self._goes_on, refused_by_store)
        except BaseException:
            self._arrivals.arrived(call, ())
            raise
        call.late = not is_first_answer
        if result.answer is Answer.CONFLICT:
            self._arrivals.arrived(call, ())
        return Sent(result, is_first_answer, call)

    def _goes_on(self, tries: int, error: StoreError) -> bool:
        """Tell whether to ask the store again; once that is given up, nothing more is begun."""
        self._tally.store_errors += 1
        if not a_few_times(tries, error) and not self._is_in_trouble:
            self._is_in_trouble = True  # perhaps nobody emits, and so nobody would be told
            message = f"the store has failed {tries} times in a row; it is asked again until it answers"
            self.loop.call_exception_handler({"message": message, "exception": error})
        if self.is_closing and not a_few_times(tries, error):
            # What a commit of which nobody knows has left behind must not be overtaken.
            self._has_given_up = True
            self._arrivals.give_up()
        return not self._has_given_up

    def _partition_of(self, subject: str) -> int:
        return 0 if self._partitions == 1 else partition_of(subject, self._partitions)

    # -- what a turn has left

    def _follow_up(self, work: Work, turn: Turn, commit: Commit, result: CommitResult, call: Call | None) -> None:
        """Send on what a turn has left, and let those go on who wait for it."""
        if work.receipt is not None and result.answer is not Answer.FENCED:
            # One that was accepted before, and is handled by now: the answer that it is pending came late.
            work.receipt.status = "duplicate" if result.answer is Answer.DONE and work.again else "handled"
        outcome: Outcome | None = None
        sent: Sequence[Work] = ()
        if work.retry is not None:
            self._dispatcher.release(work.retry.subject, work.retry.key)
        if result.answer is not Answer.OK:
            self._tally.refused(result.answer)
        else:
            self._tally.committed += 1
            if commit.messages or commit.timers or commit.retries or commit.dead or work.retry is not None:
                self._tally.left(commit)
            outcome = turn.outcome()
            if work.receipt is not None:
                work.receipt._outcome = outcome
            for retry in commit.retries:
                self._wait_for(retry)
            if commit.messages:
                sent = pending([work.child(event, None) for event in commit.messages], result)
            for timer in commit.timers:
                self._schedule.agenda.timer(timer.due)
        if call is not None:
            self._arrivals.arrived(call, sent)
        elif sent:
            self._send_on(sent)
        if outcome is not None and self._bus.observers:
            self._handling.tell(outcome, partial(self._dispatcher.interrupt, work))
        work.settle()

    def _hold(self, retry: Retry) -> None:
        if retry.in_order:
            for waiting in self._dispatcher.hold(retry.subject, retry.key):
                self._let_wait(waiting)

    def _wait_for(self, retry: Retry) -> None:
        self._hold(retry)
        if not retry.parked:
            self._schedule.agenda.retry(retry)

    # -- timers and retries

    @property
    def next_due(self) -> datetime | None:
        """When the next timer or retry is due, as far as is known; None if nothing waits."""
        return self._schedule.next_due

    async def run_due(self) -> bool:
        """Start what has become due; see `Schedule.run`."""
        return await self._schedule.run()

    async def _promote(self) -> bool:
        return await self._promotion.run(self._dispatcher.active_subjects())

    # -- commits that do not come from a turn

    async def commit(self, commit: Commit) -> tuple[CommitResult, bool, list[Receipt]]:
        """Commit what does not come from a turn; see `OutsideCommits.commit`."""
        return await self._outside.commit(commit)


def _nobody_is_told(error: BaseException) -> None:
    """Who waits for the store to be open is told by that."""
