"""Commits that do not come from a turn: a subject stored by a program, a dead letter replayed, a parked rule resumed.

Belongs here: how such a commit is made for somebody who waits for it and for all that follows. It must not know
what is in it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import copy_context
from functools import partial

from onwhen.engine.arrivals import Arrivals, Call
from onwhen.engine.dispatch import Dispatcher
from onwhen.engine.outcomes import Receipt
from onwhen.engine.resend import GoesOn, a_few_times, commit_surely, insist, positions
from onwhen.engine.store import Answer, Commit, CommitResult, Retry, Store
from onwhen.engine.work import Cascade, Work, pending
from onwhen.errors import StoreError

__all__ = ["OutsideCommits"]


class OutsideCommits:
    """Makes commits for callers from outside.

    Args:
        store: where to.
        dispatcher: whose `idle` is to wait for them.
        arrivals: where what they send goes.
        ready: awaited before the first one is made.
        log_ahead: called with names of subjects before anything of theirs is put into the log.
        forget: called with the name of a subject that was written.
        goes_on: whether to ask the store again what nobody waits for.
        others_handle: it is others who handle what is in the store, and they read it there.
    """

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher[Work],
        arrivals: Arrivals,
        ready: Callable[[], Awaitable[None]],
        log_ahead: Callable[[Iterable[str]], Awaitable[None]],
        forget: Callable[[str], None],
        goes_on: GoesOn,
        *,
        others_handle: bool = False,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._arrivals = arrivals
        self._ready = ready
        self._log_ahead = log_ahead
        self._forget = forget
        self._goes_on = goes_on
        self._others_handle = others_handle

    async def commit(self, commit: Commit) -> tuple[CommitResult, bool, list[Receipt]]:
        """Commit, and wait until the messages and retries in it, and all that follows, are handled.

        Returns:
            The answer, whether it was had at the first try (else the version in it is not known), and receipts of
            the messages and the retries.

        Raises:
            StoreError: it is not known whether the commit is stored.
        """
        context, cascade = copy_context(), Cascade()
        works = [Work(event, context, receipt=Receipt(event), cascade=cascade) for event in commit.messages]
        works += [
            Work(retry.event, context, receipt=Receipt(retry.event), cascade=cascade, retry=retry)
            for retry in commit.retries
        ]
        answers: list[tuple[CommitResult, bool]] = []
        self._dispatcher.start(self._commit(commit, works, cascade, answers), context.copy())
        await cascade.settled()
        return *answers[0], [work.receipt for work in works if work.receipt is not None]

    async def _commit(
        self, commit: Commit, works: Sequence[Work], cascade: Cascade, answers: list[tuple[CommitResult, bool]]
    ) -> None:
        self._dispatcher.expect()
        call: Call | None = None
        sent: Sequence[Work] = ()
        try:
            await self._ready()
            await self._log_ahead(event.subject for event in commit.messages)
            call = self._arrivals.calling()
            result, is_first_answer = await commit_surely(self._store, commit, a_few_times)
            call.late = not is_first_answer
            is_sure = not call.late or self._others_handle or await insist(partial(self._has, commit), a_few_times)
            if result.answer is Answer.OK and not is_sure:
                # What it takes away is gone, but by somebody else's hand: a dead letter was discarded meanwhile.
                result = CommitResult(Answer.DONE)
            answers.append((result, is_first_answer))
            if result.answer is Answer.OK:
                self._forget(commit.subject)
                cascade.pending += len(works)
                messages, retries = works[: len(commit.messages)], works[len(commit.messages) :]
                if self._others_handle and call.late:
                    _note_handled(messages, result)
                sent = [*pending(messages, result), *retries]
            cascade.settle()
        except BaseException as error:
            cascade.error = error
            cascade.settle()
            if call is not None and isinstance(error, StoreError) and not self._others_handle:
                sent, call.late = await self._find(commit), True
            if not isinstance(error, Exception):
                raise
        finally:
            if call is not None:
                self._arrivals.arrived(call, sent)
            self._dispatcher.expected()

    async def _waiting(self, commit: Commit) -> list[Retry]:
        """Return the retries of a commit that are in the store."""
        keys = {retry.key for retry in commit.retries}
        if not keys:
            return []
        waiting = self._store.retries(commit.partition)
        return [retry async for retry in waiting if retry.key in keys and not retry.parked]

    async def _has(self, commit: Commit) -> bool:
        """Tell whether the store has the retries of a commit that was stored: nobody runs them before it is known."""
        return len(await self._waiting(commit)) == len(commit.retries)

    async def _find(self, commit: Commit) -> list[Work]:
        """Return what a commit has left to do, if it was stored after all and nobody could be told."""
        context = copy_context()

        async def look() -> list[Work]:
            stand = await positions(self._store, commit.messages)
            found = [
                Work(event, context, position=position)
                for event, position in zip(commit.messages, stand, strict=True)
                if position is not None
            ]
            found += [Work(retry.event, context, retry=retry) for retry in await self._waiting(commit)]
            return found

        self._forget(commit.subject)
        try:
            return await insist(look, self._goes_on)
        except StoreError:
            return []  # the bus is closing; what is in the store is taken up when it is opened again


def _note_handled(works: Sequence[Work], result: CommitResult) -> None:
    """Say of messages that were looked for in the log, and are not there any more, that others have handled them."""
    for work, position in zip(works, result.appended, strict=True):
        if position is None and work.receipt is not None:
            work.receipt.status = "handled"
