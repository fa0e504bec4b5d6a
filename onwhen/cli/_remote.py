"""Running once more what failed, on a store that workers share: they run it, and this tells what came of it.

Belongs here: what is put into the store for them, and how it is seen there that they have done it. It must not know
which commands ask for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Final, TypeAlias

from onwhen.cli._app import NamedApp, make_bus
from onwhen.cli._fitting import Meant, Waiting, check_app
from onwhen.cli._forms import clean, cut, shortly
from onwhen.cli._listing import say
from onwhen.cli._opening import writing
from onwhen.cli._options import check_wait
from onwhen.engine.clock import SystemClock
from onwhen.engine.partitions import partition_of
from onwhen.engine.resend import a_few_times, commit_surely
from onwhen.engine.shared import SharedStore, is_shared
from onwhen.engine.store import Answer, Commit, DeadLetter, Failure, Retry, Store, key_of
from onwhen.engine.upkeep import again, commit_whatever_version, resumed

__all__ = ["Failed", "Rerun", "run_by_workers", "told"]

Failed: TypeAlias = DeadLetter | Retry
"""What failed for good: a dead letter, or a retry that is parked."""

_ERROR: Final = 300  # characters of an error that are shown (a count)
_LATER: Final = 32  # attempts that may have been made until it is looked at (a count)
_FIRST_PAUSE: Final = 0.02  # seconds between two looks whether it is done
_LONGEST_PAUSE: Final = 0.5  # seconds
_HANDLED: Final = "handled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerun:
    """How much was run once more.

    Attributes:
        done: things that were put in to be run (a count); those that somebody else took first are not among them.
        failed: those of them that failed again (a count).
        open: those that no worker has handled in time (a count).
    """

    done: int
    failed: int
    open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sent:
    label: str
    partition: int
    retry: Retry


async def run_by_workers(
    url: str | None,
    app: NamedApp,
    choose: Callable[[Store], Awaitable[Sequence[Failed]]],
    label: Callable[[Failed], str],
    *,
    force: bool,
    wait: float,
) -> Rerun:
    """Let the workers run what failed once more, and print what came of each.

    Args:
        url: where the store is; None for where the setting says.
        app: APP, found; no rule of it is run, but there has to be one for what is meant.
        choose: finds what is meant.
        label: names it in a line.
        force: go on even if no rule is for some of it.
        wait: how long to wait for the workers (seconds).

    Raises:
        UsageError: the store cannot be opened; something that is meant is not there; it is not the right app; or it
                cannot be waited for so long.
    """
    check_wait(wait)
    async with writing(url) as store:
        assert is_shared(store)
        meant = await choose(store)
        if not force:
            check_app(app.name, make_bus(app.app, store=store).rulebook, Waiting(), [Meant.of(one) for one in meant])
        deadline = monotonic() + wait
        sent = [one for each in meant if (one := await _send(store, each, label(each))) is not None]
        failed = left = 0
        for one in sent:
            if not await _is_handled(store, one, deadline):
                left += 1
                _print(one.label, "not handled yet")
                continue
            what = await _outcome(store, one)
            failed += what != _HANDLED
            _print(one.label, what)
        return Rerun(done=len(sent), failed=failed, open=left)


def told(rerun: Rerun, verb: str) -> int:
    """Tell how much was run once more; return the exit code.

    Args:
        rerun: how much that was.
        verb: what was done, "replay" or "resume".
    """
    done = f"{rerun.done:,} {verb}{'d' if verb.endswith('e') else 'ed'}"
    more = [f"{rerun.failed:,} of them with failures"] if rerun.failed else []
    if rerun.open:
        more.append(f"{rerun.open:,} not handled yet: the workers do it when they come to it, --wait waits longer")
    say(f"There was nothing to {verb}." if not rerun.done else f"{'; '.join([done, *more])}.")
    return 1 if more else 0


def _print(label: str, what: str) -> None:
    print(clean(f"{label}: {what}"), flush=True)


async def _send(store: SharedStore, failed: Failed, label: str) -> _Sent | None:
    """Put in a retry that is due now; None if what failed is not there any more."""
    now = SystemClock().now()
    retry = again(failed, now) if isinstance(failed, DeadLetter) else resumed(failed, now)
    partition = partition_of(failed.subject, store.partitions)

    async def commit(commit: Commit) -> Answer:
        return (await commit_surely(store, commit, a_few_times))[0].answer

    stored = await commit_whatever_version(
        store,
        Commit(
            partition=partition,
            subject=failed.subject,
            retries=[retry],
            revived=[failed.id] if isinstance(failed, DeadLetter) else (),
            retried=None if isinstance(failed, DeadLetter) else failed.key,
        ),
        commit,
    )
    return _Sent(label=label, partition=partition, retry=retry) if stored else None


async def _is_handled(store: SharedStore, sent: _Sent, deadline: float) -> bool:
    pause = _FIRST_PAUSE
    while await store.waiting(sent.partition, [sent.retry.key]):
        if monotonic() >= deadline:
            return False
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return True


async def _outcome(store: SharedStore, sent: _Sent) -> str:
    """Say what came of it, by what it has left behind."""
    retry = sent.retry
    letter = await store.dead_letter(key_of(retry.event, retry.rule))
    if letter is not None:
        return f"failed again: {_error(letter.failure)}"
    later = [key_of(retry.event, retry.rule, retry.attempt + more) for more in range(1, _LATER + 1)]
    if not await store.waiting(sent.partition, later):
        return _HANDLED
    about = (retry.event.source, retry.event.id, retry.rule)
    async for other in store.retries(sent.partition):
        if (other.event.source, other.event.id, other.rule) == about:
            return f"failed again, {_then(other.parked, other.due)}: {_error(other.failure)}"
    return _HANDLED


def _then(is_parked: bool, due: datetime) -> str:
    return "and is parked" if is_parked else f"to be retried at {shortly(due)}"


def _error(failure: Failure) -> str:
    return cut(f"{failure.type.rpartition('.')[2]}: {failure.message}", _ERROR)
