"""The handling of one partition, for as long as this process owns it.

Belongs here: what one owner does with one token: read what is held, read on, run turns, relay, and end. It must not
know how a partition is acquired, nor of other partitions. All that it holds is also in the store: when in doubt whether
the store still is what it was, a tenure is thrown away, and the partition acquired anew, with another token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from onwhen.engine.dispatch import LATER, Dispatcher
from onwhen.engine.feed import Feed
from onwhen.engine.handling import Committed, Handling, Ran, Sent
from onwhen.engine.promise import Promise
from onwhen.engine.recovery import Held, Suspects, read_begun
from onwhen.engine.relay import Relay
from onwhen.engine.resend import a_few_times, commit_surely, pause
from onwhen.engine.room import Room
from onwhen.engine.schedule import Schedule
from onwhen.engine.shared import Acquired, SharedStore, Token
from onwhen.engine.store import Answer, Commit, CommitResult, LogEntry, Retry, RetryKey
from onwhen.engine.work import Work
from onwhen.errors import StoreError

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus

__all__ = ["Tenure"]

_LAST: Final = 5.0  # seconds that turns which are cancelled may take to end


class _Known(msgspec.Struct, frozen=True):
    """What has to be known of a retry until it is due; a parked one may never be, so its event is left in the store."""

    subject: str
    in_order: bool
    parked: bool


class Tenure:
    """A partition that is owned.

    Args:
        bus: whose rules, clock, limits and observers are used.
        store: the bus's store.
        partition: which one.
        token: what makes us its owner.
        acquired: what was answered when it was acquired.
        trusted_until: moment of the loop's clock up to which nobody else can own it, as far as is known.
        loop: the event loop.
        context: context variables of turns.
        prefetch: how many events are read ahead (a count).
        alone: held while something is handled that may have killed its process, whichever partition it is in: else
            what merely begins at the same time as the culprit would be blamed as well.
        room: for turns that wait for their commits, shared by all partitions of a worker.

    Attributes:
        trusted_until: see above; whoever renews the lease moves it on.
        turns: how many turns were committed (a count).
        began: moment of the loop's clock at which it began.
        problem: why it has ended, or is about to; None if it was not by an error.
        is_lost: somebody else owns the partition.
    """

    def __init__(
        self,
        bus: EventBus,
        store: SharedStore,
        partition: int,
        token: Token,
        acquired: Acquired,
        *,
        trusted_until: float,
        loop: asyncio.AbstractEventLoop,
        context: Context,
        prefetch: int,
        alone: asyncio.Lock,
        room: Room,
    ) -> None:
        self.partition = partition
        self.token = token
        self.trusted_until = trusted_until
        self.turns = 0
        self.began = loop.time()
        self.problem: BaseException | None = None
        self.is_lost = False
        self._touched = acquired.touched
        self._was_released = acquired.was_released
        self._bus = bus
        self._tally = bus.tally
        self._store = store
        self._loop = loop
        self._context = context
        self._prefetch = prefetch
        self._alone = alone
        self._is_over = False
        self._over = asyncio.Event()
        self._dispatcher: Dispatcher[Work] = Dispatcher(self._handle, bus.limits.max_concurrent_turns, loop, room)
        self._suspects = Suspects(store, self._dispatcher.one_by_one)
        self._handling = Handling(bus, loop, self._suspects, self._goes_on, self._send, token)
        self._schedule = Schedule(bus.clock, loop, context, self._fire, self._dispatcher, self._submit_retry)
        self._feed = Feed(store, partition, self._dispatcher, self._work, self._leave, prefetch)
        self._relay = Relay(store, partition, token, loop, bus.tally)
        self._known: dict[RetryKey, _Known] = {}  # retries that wait, parked ones included
        self._run_meanwhile: set[RetryKey] | None = None  # those that are run while the store is looked at
        self._renewals = 0
        self._are_touched = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- life

    async def run(self) -> None:
        """Do the partition's work until `end` is called, the partition is lost, or the store is in doubt.

        Turns that are under way then may go on for a while; `settled` waits for them.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                for part in (self._begin, self._relay.run):
                    self._start(part)
                await self._over.wait()
                for task in self._tasks:
                    task.cancel()
        finally:
            self.end()
            self._schedule.agenda.disarm()

    def end(self, problem: BaseException | None = None) -> None:
        """Begin nothing more.

        Args:
            problem: why, if it is not because somebody wants it so.
        """
        if self.problem is None:
            self.problem = problem
        self._is_over = True
        self._dispatcher.halt()
        self._over.set()

    async def settled(self, patience: float) -> None:
        """Wait until nothing of it is done any more.

        Args:
            patience: how long (seconds).
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._dispatcher.idle()

    async def cut_short(self) -> None:
        """Cancel what is still done; a commit that is under way has its answer first."""
        self.end()
        self._dispatcher.cancel()
        await self.settled(_LAST)
        self._dispatcher.close()

    def lose(self) -> None:
        """Begin nothing more, because somebody else owns the partition."""
        self.is_lost = True
        self.end(StoreError(f"partition {self.partition} is owned by somebody else"))

    @property
    def is_over(self) -> bool:
        """Whether it begins nothing more."""
        return self._is_over

    @property
    def is_busy(self) -> bool:
        """Whether something is done, or could be done now."""
        return self._dispatcher.is_busy()

    def oldest(self) -> datetime | None:
        """Return when the oldest event was accepted that could be handled: what waits behind a retry cannot."""
        return min((work.since for work in self._dispatcher.not_held() if work.since is not None), default=None)

    def relay_trouble(self, longer_than: float) -> str:
        """Return which partition takes no messages, and why; see `Relay.trouble`."""
        return self._relay.trouble(longer_than)

    def active(self) -> list[Work]:
        """Return what is being done."""
        return [work for name in self._dispatcher.active_subjects() if (work := self._dispatcher.active_on(name))]

    def allow(self, turns: int, hot_subjects: int) -> None:
        """Run so many turns at once (a count), and keep so many subjects (a count)."""
        self._dispatcher.allow(turns)
        self._handling.most_hot = hot_subjects

    def check_trust(self) -> None:
        """End if the lease was not renewed for so long that somebody else may own the partition."""
        if not self._is_over and self._loop.time() >= self.trusted_until:
            self.end(StoreError(f"partition {self.partition}: its lease was not renewed in time"))

    def renewed(self, trusted_until: float, touched: int) -> None:
        """Note that the lease was renewed, and whether somebody else has changed what we hold."""
        self.trusted_until = trusted_until
        self._renewals += 1
        if touched != self._touched:
            self._touched = touched
            self._are_touched.set()

    def forget(self, subject: str | None = None) -> None:
        """Load a subject, or all of them, anew for their next turn."""
        self._handling.forget(subject)

    def _start(self, part: Callable[[], Awaitable[None]]) -> None:
        if self._is_over or self._group is None:
            return
        task = self._group.create_task(self._guarded(part), context=self._context.copy())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, part: Callable[[], Awaitable[None]]) -> None:
        try:
            await part()
        except Exception as error:
            self._tally.store_errors += isinstance(error, StoreError) and error is not self.problem
            self.end(error)
        except asyncio.CancelledError:
            if not self._is_over:  # not by us: perhaps a future of the store's was cancelled
                self.end(StoreError(f"partition {self.partition}: a call to the store was cut off"))
            raise

    # -- what is held when it begins

    async def _begin(self) -> None:
        """Take up what is held: what may have killed the owner before, ahead of everything else."""
        if self._was_released:
            held = Held(partition=self.partition, retries=await self._retries(), pending=[])
        else:
            held = await read_begun(self._store, self.partition, self._prefetch)
            await self._suspects.find([held], self._bus.clock.now())
        suspected = held.suspected
        for retry in held.retries:
            if (starts := suspected.get(retry.key)) is None:
                self._wait_for(retry)
            else:
                self._note(retry)
                work = Work(retry.event, self._context, retry=retry, starts=starts)
                self._suspects.enter([work])
                self._dispatcher.submit_urgent(retry.subject, work)
        first = [self._work(entry, suspected[entry.position]) for entry in held.pending if entry.position in suspected]
        self._suspects.enter(first)
        self._feed.take_first(first)
        for part in (self._look_after_retries, self._feed.go_back, self._feed.follow):
            self._start(part)
        await self._schedule.begin()

    async def _retries(self) -> list[Retry]:
        return [retry async for retry in self._store.retries(self.partition)]

    def _work(self, entry: LogEntry, starts: int | None = None) -> Work:
        return Work(entry.event, self._context, position=entry.position, starts=starts, since=entry.accepted)

    def _leave(self, work: Work) -> None:
        """Note that work will be done another time."""
        if work.starts is not None:
            self._suspects.leave(work)

    async def _look_after_retries(self) -> None:
        while True:
            await self._are_touched.wait()
            self._are_touched.clear()
            await self._look_again()

    async def _look_again(self) -> None:
        """Take up retries that somebody else has set, and let go of those that somebody has taken away."""
        self._relay.wake()
        before = dict(self._known)
        run_meanwhile = self._run_meanwhile = set()
        found = {retry.key: retry for retry in await self._retries()}
        self._run_meanwhile = None
        for key, known in before.items():
            if key not in found and key in self._known:
                self._let_go(known.subject, key)
        for key, retry in found.items():
            if key not in run_meanwhile:
                self._wait_for(retry)
        self._dispatcher.pump()

    # -- handling one event

    async def _handle(self, work: Work) -> object:
        try:
            if work.starts is not None:
                await self._handle_alone(work)
            elif self._may_begin():
                refused = None
                if (turning := self._handling.hot(work)) is not None:
                    ran = await turning
                    if not isinstance(ran, BaseException):
                        self._commit(work, ran)  # most turns come here, and wait for the store without a task
                        return LATER
                    refused = ran
                self._follow_up(work, await self._handling.committed(work, refused))
        except StoreError as error:
            self.end(error)
        finally:
            self._leave(work)
        self._done(work)
        return None

    def _commit(self, work: Work, ran: Ran) -> None:
        answer, tell = self._store.commit(ran.commit), partial(self._answered, work, ran)
        if isinstance(answer, Promise):
            answer.then(tell)
        else:
            asyncio.ensure_future(answer).add_done_callback(tell)

    async def _handle_alone(self, work: Work) -> None:
        async with self._alone:
            if self._may_begin():
                self._follow_up(work, await self._handling.committed(work))

    def _answered(self, work: Work, ran: Ran, answer: Promise[CommitResult] | asyncio.Future[CommitResult]) -> None:
        """Take the store's first answer to the commit of a turn."""
        subject = work.event.subject
        try:
            result = answer.result()
            if result.answer is Answer.CONFLICT:
                self._tally.conflicts += 1
                self._dispatcher.again(subject)  # it is not in memory any more, so it is loaded
                return
            if result.answer is Answer.OK:
                self._handling.keep(ran, result)
            self._follow_up(work, Committed(ran.turn, ran.commit, result, None))
        except (StoreError, asyncio.CancelledError) as error:
            self._tally.store_errors += 1
            self.end(StoreError("a commit was cut off") if isinstance(error, asyncio.CancelledError) else error)
            self._dispatcher.start(self._settle(work, ran), work.context.copy())
            return
        except Exception as error:
            self.end(error)
        self._done(work)
        self._dispatcher.finish(subject)

    async def _settle(self, work: Work, ran: Ran) -> None:
        """Send a commit again, whose answer was an error, so that it is over before somebody else begins."""
        try:
            await pause(1)
            sent = await self._send(work, ran.commit)
            if sent.result.answer is Answer.DONE:
                # There is only one who has the token, so it is the first one that was stored.
                sent = Sent(CommitResult(Answer.OK, None, [None] * len(ran.commit.messages)))
            self._follow_up(work, Committed(ran.turn, ran.commit, sent.result, None))
        except StoreError as error:
            self.end(error)
        finally:
            self._dispatcher.finish(work.event.subject)

    def _done(self, work: Work) -> None:
        if work.position is not None:
            self._feed.done(work.event.subject)

    def _may_begin(self) -> bool:
        self.check_trust()
        return not self._is_over

    async def _send(self, work: Work, commit: Commit) -> Sent:
        """Send the commit of a turn. If it has to be sent again, the token is still the old one."""
        result, is_first_answer = await commit_surely(self._store, commit, self._settles, looks_up=False)
        return Sent(result, is_first_answer)

    def _settles(self, tries: int, error: StoreError) -> bool:
        """Find out what a commit has come to; but whatever it is, the store may not be what it was."""
        self._tally.store_errors += 1
        self.end(error)
        return a_few_times(tries, error)

    def _goes_on(self, tries: int, error: StoreError) -> bool:
        """Ask for nothing twice: after an error, all that is known here is in doubt."""
        self._tally.store_errors += 1
        return False

    def _follow_up(self, work: Work, committed: Committed) -> None:
        """Take note of what a turn has left."""
        commit, result = committed.commit, committed.result
        if work.retry is not None:
            self._let_go(work.retry.subject, work.retry.key)
            if self._run_meanwhile is not None:
                self._run_meanwhile.add(work.retry.key)
        if result.answer is not Answer.OK:
            self._tally.refused(result.answer)
            if result.answer is Answer.FENCED:
                self.lose()
            return
        self.turns += 1
        self._tally.committed += 1
        if commit.messages or commit.timers or commit.retries or commit.dead or work.retry is not None:
            self._tally.left(commit)
        for retry in commit.retries:
            self._wait_for(retry)
        for timer in commit.timers:
            self._schedule.agenda.timer(timer.due)
        if None in result.appended:
            self._relay.wake()
        if self._bus.observers:
            self._handling.tell(committed.turn.outcome(), partial(self._dispatcher.interrupt, work))

    # -- retries and timers

    def _wait_for(self, retry: Retry) -> None:
        known = self._known.get(retry.key)
        if known is not None:
            if (known.parked, known.in_order) == (retry.parked, retry.in_order):
                return  # it was seen in the store before the answer came that it is there, or the other way round
            self._let_go(known.subject, retry.key)  # somebody has set another one in its place
        self._note(retry)
        if not retry.parked:
            self._schedule.agenda.retry(retry)

    def _note(self, retry: Retry) -> None:
        self._known[retry.key] = _Known(retry.subject, retry.in_order, retry.parked)
        if retry.in_order:
            self._dispatcher.hold(retry.subject, retry.key)
            self._feed.hold(retry.subject)

    def _let_go(self, subject: str, key: RetryKey) -> None:
        self._known.pop(key, None)
        self._dispatcher.release(subject, key)
        self._feed.reconsider(subject)

    def _submit_retry(self, work: Work) -> None:
        self._dispatcher.submit(work.event.subject, work)

    async def _fire(self) -> bool:
        """Have timers moved that are due; the feed reads them."""
        renewals = self._renewals
        try:
            fired = await self._store.fire(self.partition)
        except StoreError as error:
            self._tally.store_errors += 1
            self.end(error)
            raise
        self._tally.timers_fired += fired.moved
        if fired.next_due is not None:
            self._schedule.agenda.stored_timer(fired.next_due)
        if fired.elsewhere:
            self._relay.wake()
            # By ourselves, and nothing but the outbox. But a renewal that came meanwhile may have counted this already:
            # counted twice, it would hide the next time that somebody else touches the partition.
            self._touched += renewals == self._renewals
        return fired.moved > 0
