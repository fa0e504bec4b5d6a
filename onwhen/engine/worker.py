"""The partitioned engine: a process that owns some partitions of a shared store, and runs their turns.

Belongs here: living among other workers: which partitions to own, taking and handing over, and noticing that nothing
goes on. It must not know how a partition's work is done (`tenure`), nor of processes, signals and HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from contextlib import suppress
from contextvars import copy_context
from typing import Final, Self, TypeVar
from uuid import uuid4

from onwhen.engine.bus import EventBus
from onwhen.engine.ownership import TRUST, candidates, fair_share, surplus
from onwhen.engine.resend import pause
from onwhen.engine.room import Room
from onwhen.engine.shared import Acquired, PartitionState, SharedStore, Token, is_shared
from onwhen.engine.status import WorkerStatus, told_of
from onwhen.engine.tenure import Tenure
from onwhen.errors import SettingError, StoreCorrupt, StoreError, StoreFormatError, WorkerStalled

__all__ = ["Worker"]

_LONGEST_CYCLE: Final = 1.0  # seconds between looks at who else lives
_LOOK: Final = 5.0  # seconds between looks at how much is pending
_LAST: Final = 10.0  # seconds that handing over may take beyond the grace period
_TRIES: Final = 5  # of handing a partition over (a count)
_OPEN: Final = 192  # turns that wait for their commits at the same time, unless that takes long (a count)
_PATIENCE: Final = 0.3  # of a lease, after which what a lease depends on is asked again


_T = TypeVar("_T")


class Worker:
    """Runs the turns of the partitions that it owns, together with other workers of the same store.

    `async with Worker(bus):` for a worker beside other things, or `await worker.run()` until somebody calls `stop`. It
    opens and closes the bus.

    Args:
        bus: its rules are run; its store is one that processes share.
        id: name of the worker, unique among all that live; by default made up.
        note: what it says of itself to people: host and process.
        lease: how long a partition stays its own if it stands still (seconds). Its partitions are taken over that long
            after it has died.
        own: partitions that it owns, whoever else lives; by default its fair share.
        grace: how long turns may go on when it hands a partition over, or is stopped (seconds).
        prefetch: how many events of each partition are read ahead (a count).
        max_age: an event that is pending for longer makes it not ready (seconds).
        stall: how long it may get nowhere, beyond what a turn is allowed to take (seconds).

    Raises:
        SettingError: a value is out of range, or the store is not one that processes share.
    """

    def __init__(
        self,
        bus: EventBus,
        *,
        id: str | None = None,
        note: str = "",
        lease: float = 10.0,
        own: Collection[int] | None = None,
        grace: float = 30.0,
        prefetch: int = 500,
        max_age: float = 60.0,
        stall: float = 60.0,
    ) -> None:
        for name, value in (("lease", lease), ("grace", grace), ("max_age", max_age), ("stall", stall)):
            if not (type(value) in (int, float) and 0 < value < float("inf")):
                raise SettingError(f"{name}={value!r} must be a number of seconds, more than 0", settings=(name,))
        if type(prefetch) is not int or prefetch < 1:
            raise SettingError(f"prefetch={prefetch!r} must be an int of at least 1", settings=("prefetch",))
        if not is_shared(bus.store):
            raise SettingError(
                f"a worker needs a store that processes share, Redis; {type(bus.store).__name__} belongs to one "
                f"process, whose bus runs the turns itself",
                settings=("store",),
            )
        self.id = id or uuid4().hex
        self.note = note
        self.bus = bus
        self._store: SharedStore = bus.store
        self._lease = lease
        self._cycle_time = min(_LONGEST_CYCLE, lease / 5)
        self._own = None if own is None else frozenset(own)
        self._grace = grace
        self._prefetch = prefetch
        self._max_age = max_age
        self._stall = stall
        self._tenures: dict[int, Tenure] = {}
        self._holding: set[asyncio.Task[None]] = set()
        self._share = 0
        self._round = 0
        self._turns = 0
        self._asked: dict[int, Token] = {}  # partition -> what it was to be acquired with, when nobody answered
        self._left: dict[Token, int] = {}  # of partitions that were not handed over, because nobody answered
        self._states: dict[int, PartitionState] = {}
        self._oldest_ages: dict[int, float] = {}
        self._looked = self._answered = self._progressed = 0.0
        self._turns_before = 0
        self._trouble: StoreError | None = None
        self._broken: Exception | None = None
        self._failures: dict[int, tuple[int, Exception]] = {}  # partition -> how often in a row it failed, and of what
        self._is_stopping = False
        self._started = asyncio.Event()
        self._again = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # -- life

    async def run(self) -> None:
        """Work until `stop` is called; then hand over all that is owned, and return.

        Raises:
            WorkerStalled: it makes no progress; the message says what it waits for.
            StoreFormatError: what is stored is not for this version, or not for these partitions.
            StoreError: the store could not be opened.
        """
        self._loop = asyncio.get_running_loop()
        self._alone = asyncio.Lock()
        self._room = Room(_OPEN, self._loop)
        async with self.bus:
            self._check_own()
            self._looked = float("-inf")
            self._answered = self._progressed = self._loop.time()
            self._trouble = self._broken = None
            self._asked, self._left, self._states, self._oldest_ages, self._failures = {}, {}, {}, {}, {}
            self.bus.forgetters.append(self._forget)
            try:
                await self._live()
            finally:
                self.bus.forgetters.remove(self._forget)
                for tenure in self._tenures.values():
                    tenure.end()
                for task in self._holding:
                    task.cancel()
                await asyncio.gather(*self._holding, return_exceptions=True)
                self._started.clear()
                self._is_stopping = False

    def stop(self) -> None:
        """Take nothing more, finish the turns that are under way, hand over; `run` returns when that is done."""
        self._is_stopping = True
        self._again.set()

    async def started(self) -> None:
        """Wait until it has looked for the first time which partitions it should own."""
        await self._started.wait()

    async def __aenter__(self) -> Self:
        self._task = asyncio.get_running_loop().create_task(self.run())
        waiting = asyncio.ensure_future(self.started())
        try:
            await asyncio.wait((self._task, waiting), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await asyncio.wait((self._task,))
            raise
        finally:
            waiting.cancel()
        if self._task.done():
            await self._task  # raises what is wrong
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop()
        if self._task is not None:
            await self._task

    # -- among others

    async def _live(self) -> None:
        while not (self._is_stopping and not self._holding):
            if self._is_stopping:
                await self._leave()
                return
            self._again.clear()
            await self._cycle()
            self._check_progress()
            await self._pause()

    async def _pause(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._cycle_time):
                await self._again.wait()

    async def _cycle(self) -> None:
        """Say that we live, hand over what is too much, take what is too little."""
        living = await self._answer(self._store.beat(self.id, self.note, self._lease), _PATIENCE * self._lease)
        for tenure in self._tenures.values():
            tenure.check_trust()  # one that is idle would not notice, and nobody would take what it has lost
        if self._own is not None:
            self._share = len(self._own)
        elif living is not None:
            self._share = fair_share(self.id, living, self._store.partitions)
        await self._hand_over_left()
        running = [number for number, tenure in self._tenures.items() if not tenure.is_over]
        if self._own is None:
            for number in surplus(running, self._share):
                self._tenures[number].end()
        if len(running) < self._share:
            await self._take(self._share - len(running))
        if living is not None:
            self._started.set()
        if self._loop.time() >= self._looked + _LOOK:
            states = await self._answer(self._store.partition_states(), self._cycle_time)
            if states is not None:
                self._states = {state.partition: state for state in states}
                self._note_ages()
                self._looked = self._loop.time()

    def _note_ages(self) -> None:
        """Note how old the oldest event of each partition is that could be handled."""
        now, self._oldest_ages = self.bus.clock.now(), {}
        for number, tenure in self._tenures.items():
            if (oldest := tenure.oldest()) is not None:
                self._oldest_ages[number] = max(0.0, (now - oldest).total_seconds())
        for number in self._unowned():
            if (oldest := self._states[number].oldest) is not None:
                self._oldest_ages[number] = max(0.0, (now - oldest).total_seconds())

    async def _answer(self, call: Awaitable[_T], patience: float | None = None) -> _T | None:
        """Return what the store answers; None if it does not, which is noted. A late answer is as good as none.

        Args:
            call: asks it.
            patience: how long it may take (seconds); by default a lease.

        Raises:
            StoreFormatError: what is stored is not for us.
            StoreCorrupt: it is damaged.
        """
        try:
            async with asyncio.timeout(patience or self._lease):
                answer = await call
        except (StoreFormatError, StoreCorrupt):
            raise
        except StoreError as error:
            self.bus.tally.store_errors += 1
            self._trouble = error
        except TimeoutError:
            self.bus.tally.store_errors += 1
            self._trouble = StoreError(f"no answer within {patience or self._lease:g} s")
        else:
            self._answered, self._trouble = self._loop.time(), None
            return answer
        return None

    async def _keep(self, tenure: Tenure) -> None:
        """Renew the lease of a partition, until it is lost, or this is cancelled.

        Each for itself: partitions may be kept on several servers, and one that does not answer must not cost what the
        others have.
        """
        asked = self._loop.time()
        while not tenure.is_lost:
            await asyncio.sleep(max(0.0, asked + self._cycle_time - self._loop.time()))
            asked = self._loop.time()
            try:
                renewing = self._store.renew({tenure.partition: tenure.token}, self._lease)
                # Of one answer that is lost nothing must depend: there is time to ask again while the lease is trusted.
                renewed = await self._answer(renewing, _PATIENCE * self._lease)
            except StoreError as error:
                tenure.end(error)
                return
            if renewed is None:
                tenure.check_trust()
            elif tenure.partition in renewed:
                tenure.renewed(asked + TRUST * self._lease, renewed[tenure.partition].touched)
            else:
                tenure.lose()

    async def _take(self, missing: int) -> None:
        """Acquire partitions that are free, until nothing is missing, or it takes so long that others want renewal."""
        self._round += 1
        until = self._loop.time() + self._cycle_time
        for number in candidates(self._store.partitions, self._tenures, self.id, self._round):
            if missing <= 0 or self._is_stopping or self._loop.time() > until:
                return
            if self._own is not None and number not in self._own:
                continue
            # One that was not answered is asked again with its token: perhaps the partition is ours already. Its lease
            # has run since then, and is renewed within a cycle; should it be over, the token still keeps order.
            token, asked = self._asked.setdefault(number, uuid4().hex), self._loop.time()
            answer = await self._answer(self._acquire(number, token), self._cycle_time)
            if answer is None:
                continue
            del self._asked[number]
            (acquired,) = answer
            if acquired is not None:
                missing -= 1
                self._hold(number, token, acquired, asked + TRUST * self._lease)

    async def _acquire(self, number: int, token: Token) -> tuple[Acquired | None]:
        """Try to take a partition; what is returned is told from no answer at all."""
        return (await self._store.acquire(number, token, self.id, self._lease),)

    def _hold(self, number: int, token: Token, acquired: Acquired, trusted_until: float) -> None:
        tenure = Tenure(
            self.bus,
            self._store,
            number,
            token,
            acquired,
            trusted_until=trusted_until,
            loop=self._loop,
            context=copy_context(),
            prefetch=self._prefetch,
            alone=self._alone,
            room=self._room,
        )
        self._tenures[number] = tenure
        self._allow()
        task = self._loop.create_task(self._tenure(tenure))
        self._holding.add(task)
        task.add_done_callback(self._holding.discard)

    async def _tenure(self, tenure: Tenure) -> None:
        """Run a tenure to its end, and hand the partition over."""
        number, tries = tenure.partition, _TRIES
        keeper = self._loop.create_task(self._keep(tenure))
        try:
            try:
                await tenure.run()
                # Turns of a lost partition cannot be committed; but they should be over before it is ours again.
                await tenure.settled(self._grace if tenure.problem is None else min(self._grace, self._lease))
            except asyncio.CancelledError:
                tries = 1
                raise
            finally:
                await tenure.cut_short()
                keeper.cancel()
                await self._hand_over(tenure, tries)
            if isinstance(tenure.problem, Exception):
                self._failed(tenure, tenure.problem)
                await pause(self._failures[number][0])
            else:
                self._failures.pop(number, None)
        finally:
            keeper.cancel()
            self._turns += tenure.turns
            del self._tenures[number]
            self._allow()
            self._again.set()

    async def _hand_over(self, tenure: Tenure, tries: int) -> None:
        """Release a partition; if nobody answers, its lease runs out."""
        until = self._loop.time() + self._lease
        for tried in range(1, tries + 1):
            if tenure.is_lost:
                return
            if self._loop.time() > until:
                break
            with suppress(StoreFormatError, StoreCorrupt):
                if await self._answer(self._store.release(tenure.partition, tenure.token)) is not None:
                    return
            if tried < tries:
                await pause(tried)
        self._left[tenure.token] = tenure.partition

    async def _hand_over_left(self) -> None:
        """Release what could not be released when it was time: whoever takes it over is to know that nothing died."""
        for token, number in tuple(self._left.items()):
            if await self._answer(self._store.release(number, token), self._cycle_time) is None:
                return  # nobody answers still
            del self._left[token]

    def _failed(self, tenure: Tenure, problem: Exception) -> None:
        if isinstance(problem, StoreError) and not isinstance(problem, StoreFormatError):
            self._trouble = problem
        else:
            self._broken = problem
        before = 0 if tenure.turns else self._failures.get(tenure.partition, (0, problem))[0]
        self._failures[tenure.partition] = before + 1, problem

    def _allow(self) -> None:
        """Divide what is allowed among the partitions that are owned."""
        limits = self.bus.limits
        among = max(1, len(self._tenures))
        for tenure in self._tenures.values():
            tenure.allow(max(1, limits.max_concurrent_turns // among), max(1, limits.hot_subjects // among))

    async def _leave(self) -> None:
        """Hand over all that is owned, in peace, but not for longer than the grace period."""
        for tenure in self._tenures.values():
            tenure.end()
        await self._answer(self._store.beat(self.id, self.note, 0), _PATIENCE * self._lease)
        if self._holding:
            await asyncio.wait(self._holding, timeout=self._grace + _LAST)
        self._left.update({token: number for number, token in self._asked.items()})
        await self._hand_over_left()

    def _forget(self, subject: str | None) -> None:
        for tenure in self._tenures.values():
            tenure.forget(subject)

    def _unowned(self) -> frozenset[int]:
        """Return which partitions nobody owned when it was last looked, and we do not own since."""
        ownerless = (number for number, state in self._states.items() if state.owner is None)
        return frozenset(number for number in ownerless if number not in self._tenures)

    def _check_own(self) -> None:
        most = self._store.partitions
        if self._own is not None and not all(0 <= number < most for number in self._own):
            raise SettingError(f"own={sorted(self._own)}: there are partitions 0 to {most - 1}", settings=("own",))

    # -- progress

    def _check_progress(self) -> None:
        """Note that something was done, or that there was nothing to do.

        Raises:
            WorkerStalled: neither was the case for too long.
            Exception: something failed that never should.
        """
        if self._broken is not None:
            raise self._broken
        now, turns = self._loop.time(), self._count_turns()
        busy = [tenure for tenure in self._tenures.values() if tenure.is_busy]
        failing = self._failing(now)
        if turns != self._turns_before or not (busy or failing):
            self._turns_before, self._progressed = turns, now
        if self._trouble is not None and now - self._answered > self._stall:
            raise WorkerStalled(f"the store has not answered for {now - self._answered:.0f} s: {self._trouble}")
        allowed = self.bus.limits.turn_timeout
        if allowed is None and not failing:
            return
        if now - self._progressed > self._stall + (allowed or 0.0):
            told = f"no turn was committed for {now - self._progressed:.0f} s; under way: {told_of(busy) or 'nothing'}"
            raise WorkerStalled("; ".join([told, *failing]))

    def _failing(self, now: float) -> list[str]:
        """Return which partitions fail again and again, and why; one that has gone on for a while does not."""
        told = {
            number: str(problem)
            for number, (_, problem) in self._failures.items()
            if (tenure := self._tenures.get(number)) is not None
            if tenure.is_over or (now - tenure.began < self._lease and not tenure.turns)
        }
        return [why if why.startswith("partition ") else f"partition {number}: {why}" for number, why in told.items()]

    def _count_turns(self) -> int:
        return self._turns + sum(tenure.turns for tenure in self._tenures.values())

    def status(self) -> WorkerStatus:
        """Return how it fares."""
        owned = frozenset(number for number, tenure in self._tenures.items() if not tenure.is_over)
        is_running = self._started.is_set()
        unowned = self._unowned() if is_running else frozenset()
        shown = owned | unowned
        backlogs = {number: state.backlog for number, state in self._states.items() if number in shown}
        ages = {number: age for number, age in self._oldest_ages.items() if number in shown}
        age = max((ages[number] for number in owned if number in ages), default=None)
        now = self._loop.time() if is_running else 0.0
        reason = ""
        if not is_running:
            reason = "it has not started yet, or has ended"
        elif self._is_stopping:
            reason = "it is being stopped"
        elif self._trouble is not None and now - self._answered > self._lease:
            reason = f"the store has not answered for {now - self._answered:.0f} s: {self._trouble}"
        elif len(owned) < self._share:
            told = [f"it owns {len(owned)} of its share of {self._share} partitions", *self._failing(now)]
            reason = "; ".join(dict.fromkeys(told if self._trouble is None else [*told, str(self._trouble)]))
        elif age is not None and age > self._max_age:
            reason = f"the oldest pending event is {age:.0f} s old, more than {self._max_age:g} s"
        else:
            troubles = (self._tenures[number].relay_trouble(self._max_age) for number in owned)
            reason = next((f"messages are not delivered: {trouble}" for trouble in troubles if trouble), "")
        return WorkerStatus(
            id=self.id,
            owned=owned,
            share=self._share,
            partitions=self._store.partitions if is_running else 0,
            backlog=sum(backlogs[number] for number in owned if number in backlogs),
            oldest_age=age,
            backlogs=backlogs,
            oldest_ages=ages,
            unowned=unowned,
            is_ready=not reason,
            reason=reason,
            turns=self._count_turns(),
            last_progress_age=max(0.0, now - self._progressed) if is_running else 0.0,
        )
