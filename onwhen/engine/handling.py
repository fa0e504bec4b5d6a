"""The handling of one event: turns, until one of them has had its answer from the store; and the state kept for more.

Belongs here: loading, running, committing, and running again on newer state. It must not know where work comes from,
in which order it is done, nor what becomes of what a turn has left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from onwhen.engine.arrivals import Call
from onwhen.engine.endings import timed
from onwhen.engine.explaining import is_sampled
from onwhen.engine.outcomes import Outcome
from onwhen.engine.partitions import partition_of
from onwhen.engine.recovery import Suspects
from onwhen.engine.resend import GoesOn, pause
from onwhen.engine.state import State
from onwhen.engine.store import Answer, Commit, CommitResult
from onwhen.engine.subjects import Subject
from onwhen.engine.turns import Turn
from onwhen.engine.work import Work
from onwhen.errors import MigrationError, RuleTimeout, StoreConflict, StoreError

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus

__all__ = ["Committed", "Handling", "Ran", "Sent"]

_MAX_CONFLICTS: Final = 100  # each one means that somebody else has committed, so this is somebody who never stops
_MAX_CANCELS: Final = 3  # turns of one event; whoever cancels a turn is most often its own rule, and does it again

_Hot: TypeAlias = "dict[str, tuple[type[Subject], State]]"


class Sent(msgspec.Struct, frozen=True):
    """A commit that was sent.

    Attributes:
        result: what the store has answered.
        is_first_answer: it was had at the first try; else the version in it is not known.
        call: where the messages of the commit arrive; None if it has none.
    """

    result: CommitResult
    is_first_answer: bool = True
    call: Call | None = None


class Ran(msgspec.Struct):
    """A turn that was run, and is not committed.

    Attributes:
        turn: the turn.
        commit: what it leaves.
        known: class and state of its subject, as the turn has left it.
        refused: why the event was refused as a whole, if it was.
    """

    turn: Turn
    commit: Commit
    known: tuple[type[Subject], State]
    refused: BaseException | None


class Committed(msgspec.Struct, frozen=True):
    """A turn that is over, and what it has come to."""

    turn: Turn
    commit: Commit
    result: CommitResult
    call: Call | None


class Handling:
    """Handles events, one at a time per subject, and keeps the subjects that it has seen last.

    Args:
        bus: whose rules, store, clock and limits are used.
        loop: the event loop.
        suspects: notes beginnings of what may have killed a process.
        goes_on: whether to ask the store again.
        send: sends a commit, and finds out what it has come to; the work is what the turn was about.
        token: the owner's token of the partition; None where nobody can take over.

    Attributes:
        most_hot: how many subjects are kept (a count).
    """

    def __init__(
        self,
        bus: EventBus,
        loop: asyncio.AbstractEventLoop,
        suspects: Suspects,
        goes_on: GoesOn,
        send: Callable[[Work, Commit], Awaitable[Sent]],
        token: str | None = None,
    ) -> None:
        self.most_hot = bus.limits.hot_subjects
        self._share = bus.limits.explain_sample
        self._bus = bus
        self._store = bus.store
        self._tally = bus.tally
        self._partitions = bus.store.partitions
        self._loop = loop
        self._suspects = suspects
        self._goes_on = goes_on
        self._send = send
        self._token = token
        self._hot: _Hot = {}

    def forget(self, subject: str | None = None) -> None:
        """Load a subject, or all of them, anew for their next turn."""
        if subject is not None:
            self._hot.pop(subject, None)
        else:
            self._hot = {}  # a turn that is running returns its state to the old one

    async def committed(self, work: Work, refused: BaseException | None = None) -> Committed:
        """Run turns until one of them has had its answer from the store; from then on the event is handled.

        Args:
            work: the event.
            refused: why no rule is to be run.

        Raises:
            StoreError: nobody goes on asking the store; whoever waits for the work was let go.
        """
        tries = conflicts = 0
        if work.cancels > _MAX_CANCELS:
            refused = asyncio.CancelledError(f"{work.cancels} turns of this event were cancelled in a row")
        while True:
            try:
                if work.starts is not None and refused is None:
                    refused = await self._suspects.begin(work, work.starts)
                committed = await self._attempt(work, refused)
                if committed is not None:
                    return committed
                conflicts += 1
                if conflicts > _MAX_CONFLICTS:
                    name = work.event.subject
                    refused = StoreConflict(f"{name} was changed by others during {conflicts} turns in a row")
            except StoreError as error:
                # The event is safe in the log. Later ones of the subject wait behind it, so that order is kept.
                tries += 1
                if not self._goes_on(tries, error):
                    work.settle()
                    raise
                await pause(tries)
            except BaseException as error:
                if not self._is_refusal(work, error, refused):
                    raise
                refused = error

    def _is_refusal(self, work: Work, error: BaseException, before: BaseException | None) -> bool:
        """Tell whether an error is not a rule's failure, but the event must not block its subject for ever."""
        if not self._loop.is_running():
            return False  # it is gone, and this is only being cleared away
        is_late_again = isinstance(error, RuleTimeout) and not isinstance(before, RuleTimeout)
        if isinstance(error, Exception | GeneratorExit) and (before is None or is_late_again):
            return True
        if isinstance(error, asyncio.CancelledError):
            work.cancels += 1
        return False

    def hot(self, work: Work) -> Coroutine[Any, Any, Ran | BaseException] | None:
        """Return a turn to be awaited, if its subject is in memory and nothing is odd about it; else None.

        It is left to the caller to commit what it returns; if that is an error, the event has to be refused for it.
        """
        if work.starts is not None or work.cancels:
            return None
        known = self._hot.pop(work.event.subject, None)
        return self._run_hot(work, known) if known is not None else None

    async def _run_hot(self, work: Work, known: tuple[type[Subject], State]) -> Ran | BaseException:
        turn = self._begin(work, known, None)
        try:
            if (rest := self._run(turn)) is not None:
                await rest
        except BaseException as error:
            if not self._is_refusal(work, error, None):
                raise
            return error
        return self._ended(turn, work, known)

    def keep(self, ran: Ran, result: CommitResult) -> None:
        """Keep the subject of a turn that was committed, and had its answer at the first try."""
        if ran.refused is None:
            hot, state = self._hot, ran.turn.state
            state.committed(ran.commit.write, result.version)
            if len(hot) >= self.most_hot:
                self._make_room()
            hot[state.name] = ran.known

    def _make_room(self) -> None:
        hot = self._hot
        while len(hot) >= self.most_hot:
            del hot[next(iter(hot))]  # the one that was not used for longest

    def tell(self, outcome: Outcome, interrupt: Callable[[BaseException], None]) -> None:
        """Tell the bus's observers what a turn has come to.

        Args:
            outcome: what they are told.
            interrupt: called with an error that is to end the program.
        """
        for observer in tuple(self._bus.observers):
            try:
                observer(outcome)
            except (KeyboardInterrupt, SystemExit) as error:
                interrupt(error)
            except BaseException as error:
                details = {"message": f"the observer {observer!r} failed", "exception": error}
                self._loop.call_exception_handler(details)

    async def _attempt(self, work: Work, refused: BaseException | None) -> Committed | None:
        """Run one turn and commit it; None if it has to be run again on newer state."""
        name = work.event.subject
        # Taken out while the turn changes it: if that ends badly, the next turn must not see what is half done.
        known = self._hot.pop(name, None)
        if known is None or refused is not None:
            known, refused = await self._load(name, refused)
        turn = self._begin(work, known, refused)
        if (rest := self._run(turn)) is not None:
            await rest
        ran = self._ended(turn, work, known)
        sent = await self._send(work, ran.commit)
        result = sent.result
        if result.answer is Answer.CONFLICT:
            self._tally.conflicts += 1
            return None
        if result.answer is Answer.OK and sent.is_first_answer:
            self.keep(ran, result)
        return Committed(ran.turn, ran.commit, result, sent.call)

    def _begin(self, work: Work, known: tuple[type[Subject], State], refused: BaseException | None) -> Turn:
        event, share = work.event, self._share
        turn = Turn.of(event, known[0], known[1], self._bus, work.retry, refused, work.now)
        if work.explains or (share > 0 and is_sampled(event.correlation_id, share)):
            turn.explains = True
        return turn

    def _run(self, turn: Turn) -> Awaitable[None] | None:
        """Run a turn as far as that goes without waiting; return what is left of it to be awaited."""
        seconds = self._bus.limits.turn_timeout
        return turn.run() if seconds is None else timed(turn.run(), turn, seconds, self._loop)

    def _ended(self, turn: Turn, work: Work, known: tuple[type[Subject], State]) -> Ran:
        # One that leaves nothing is committed as well: it may have read what was out of date.
        partition = 0 if self._partitions == 1 else partition_of(work.event.subject, self._partitions)
        return Ran(turn, turn.commit(partition, self._token, work.position), known, turn.refused)

    async def _load(
        self, name: str, refused: BaseException | None
    ) -> tuple[tuple[type[Subject], State], BaseException | None]:
        self._tally.loads += 1
        record = await self._store.load(name)
        cls = self._bus.rulebook.subject_type(name)
        if refused is None:
            try:
                return (cls, cls._state_of(record)), None
            except MigrationError as error:
                refused = error
        return (Subject, Subject._state_of(record)), refused
