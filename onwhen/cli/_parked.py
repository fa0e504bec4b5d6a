"""Parked subjects: listed, resumed, or made to skip what they stand at.

Belongs here: which ones are meant, and what is shown of them. What becomes of a retry is the bus's to decide.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

from onwhen.cli._app import NamedApp
from onwhen.cli._fitting import Meant
from onwhen.cli._forms import ago, cut, error_text, rfc3339, seconds_text
from onwhen.cli._listing import Column, Output, say, show_rows
from onwhen.cli._opening import is_for_workers, reading, writing
from onwhen.cli._options import UsageError
from onwhen.cli._remote import Failed, run_by_workers, told
from onwhen.cli._running import rules_on
from onwhen.cli._streams import merged
from onwhen.engine.clock import SystemClock
from onwhen.engine.store import Retry, Store
from onwhen.engine.upkeep import skip

__all__ = ["list_parked", "resume_parked", "skip_parked"]

_SUBJECT: Final = 100  # characters of a subject's name that a replay shows (a count)


async def list_parked(url: str | None, output: Output) -> None:
    """Show what subjects are parked at, those that are parked longest first."""
    now = SystemClock().now()
    columns = (
        Column[Retry]("parked for", lambda retry: seconds_text(ago(retry.due, now)), number=True),
        Column[Retry]("subject", lambda retry: retry.subject),
        Column[Retry]("rule", lambda retry: retry.rule or "(whole event)"),
        Column[Retry]("event", lambda retry: retry.event.type),
        Column[Retry]("attempts", lambda retry: str(retry.attempt - 1), number=True),
        Column[Retry]("error", lambda retry: error_text(retry.failure)),
    )

    def facts(retry: Retry) -> dict[str, Any]:
        failure = retry.failure
        return {
            "subject": retry.subject,
            "rule": retry.rule,
            "event": retry.event.to_dict(),
            "error": {"type": failure.type, "message": failure.message, "traceback": failure.traceback},
            "attempts": retry.attempt - 1,
            "first_failed": rfc3339(retry.first_failed),
            "parked": rfc3339(retry.due),
            "parked_seconds": ago(retry.due, now),
        }

    async with reading(url) as store:
        await show_rows(_parked(store), columns, facts, output, "No subject is parked.")


def _parked(store: Store) -> AsyncGenerator[Retry, None]:
    """Go through the parked retries of all partitions, by when they were parked."""
    return merged([_parked_in(store, number) for number in range(store.partitions)], lambda retry: retry.due)


async def _parked_in(store: Store, partition: int) -> AsyncGenerator[Retry, None]:
    async for retry in store.retries(partition):
        if retry.parked:
            yield retry


def _check(subjects: Sequence[str], all: bool) -> None:
    if not subjects and not all:
        raise UsageError("which subjects? name them, or --all")
    if subjects and all:
        raise UsageError("subjects are chosen by their names, or by --all")


async def _chosen(store: Store, subjects: Sequence[str]) -> list[str]:
    """Return the subjects that are meant, each once; all that are parked if none is named.

    Raises:
        UsageError: one of them is not parked.
    """
    parked = dict.fromkeys([retry.subject async for retry in _parked(store)])
    for subject in subjects:
        if subject not in parked:
            raise UsageError(f"{subject} is not parked; 'onwhen parked list' shows those that are")
    return list(dict.fromkeys(subjects) or parked)


async def resume_parked(
    url: str | None, app: NamedApp, subjects: Sequence[str], all: bool, force: bool = False, wait: float = 0.0
) -> int:
    """Run what subjects are parked at once more, one subject after the other, and tell what came of each.

    Args:
        url: where the store is; None for where the setting says.
        app: APP, found.
        subjects: which ones.
        all: every one that is parked before anything is run.
        force: go on even if APP has no rule for some of what would be handled.
        wait: how long to wait, if workers share the store and so it is they who run it (seconds).

    Returns:
        The exit code: 1 if something failed again, or no worker has handled it in time.
    """
    _check(subjects, all)

    async def retries(store: Store) -> list[Retry]:
        chosen = await _chosen(store, subjects)
        found: dict[str, list[Retry]] = {subject: [] for subject in chosen}
        async for retry in _parked(store):
            if retry.subject in found:
                found[retry.subject].append(retry)
        return [retry for subject in chosen for retry in found[subject]]

    if is_for_workers(url):
        return told(await run_by_workers(url, app, retries, _label, force=force, wait=wait), "resume")
    done = failed = 0

    async def choose(store: Store) -> list[Meant]:
        return [Meant.of(retry) for retry in await retries(store)]

    async with rules_on(url, app, choose, force=force) as running:
        for subject in dict.fromkeys(meant.subject for meant in running.meant):
            for receipt in await running.bus.resume(subject):
                running.say_what_came(_named(receipt.event.type, subject), receipt)
                done, failed = done + 1, failed + (not receipt.ok)
    say(f"{done:,} resumed; {failed:,} of them with failures." if failed else f"{done:,} resumed.")
    return 1 if failed else 0


def _label(failed: Failed) -> str:
    return _named(failed.event.type, failed.subject)


def _named(type: str, subject: str) -> str:
    return f"{type} to {cut(subject, _SUBJECT)}"


async def skip_parked(url: str | None, subjects: Sequence[str], all: bool) -> None:
    """Make dead letters of what subjects are parked at, without any rules."""
    _check(subjects, all)
    async with writing(url) as store:
        chosen = set(await _chosen(store, subjects))
        waiting = [retry async for retry in _parked(store) if retry.subject in chosen]
        letters = await skip(store, waiting, SystemClock().now())
    where = {0: "", 1: "; 'onwhen deadletters list' shows it"}.get(
        len(letters), "; 'onwhen deadletters list' shows them"
    )
    say(f"{len(letters):,} skipped{where}.")
