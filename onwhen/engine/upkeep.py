"""Looking after what a store holds: dead letters, parked subjects, state of older schema versions.

Belongs here: what an operator asks for, as commits of its own. It must not know of rules that run, nor of a bus;
whoever has one open on the store lets it know what has changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime
from typing import Final
from uuid import uuid4

import msgspec

from onwhen.engine.partitions import partition_of
from onwhen.engine.resend import a_few_times, commit_surely, pause
from onwhen.engine.rulebook import Rulebook
from onwhen.engine.store import Answer, Commit, DeadLetter, Retry, Store, SubjectRecord, SubjectWrite, key_of
from onwhen.errors import MigrationError, PropertyError, StoreConflict

__all__ = [
    "Migrated",
    "again",
    "commit_whatever_version",
    "dead_letters",
    "given_up",
    "migrate_subjects",
    "parked",
    "resumed",
    "skip",
]

_MAX_TRIES: Final = 100  # each failed one means that somebody else has committed


async def dead_letters(
    store: Store, *, rule: str | None = None, subject: str | None = None, event_type: str | None = None
) -> AsyncIterator[DeadLetter]:
    """Go through the dead letters, oldest first; with arguments, through those for which all of them hold."""
    async for letter in store.dead_letters():
        fits = (
            rule in (None, letter.rule)
            and subject in (None, letter.subject)
            and event_type in (None, letter.event.type)
        )
        if fits:
            yield letter


def again(letter: DeadLetter, now: datetime) -> Retry:
    """Return a dead letter as a retry that is due now: it has all attempts of its policy again."""
    return Retry(
        subject=letter.subject,
        event=letter.event,
        rule=letter.rule,
        attempt=letter.attempts + 1,
        first_attempt=letter.attempts + 1,
        due=now,
        in_order=False,
        first_failed=letter.first_failed,
        failure=letter.failure,
    )


async def parked(store: Store, subject: str | None = None) -> AsyncIterator[Retry]:
    """Go through what is parked, in the order in which it was; of one subject if it is named."""
    own = range(store.partitions) if subject is None else (partition_of(subject, store.partitions),)
    for partition in own:
        async for retry in store.retries(partition):
            if retry.parked and subject in (None, retry.subject):
                yield retry


def resumed(retry: Retry, now: datetime) -> Retry:
    """Return a parked retry as one that is due now: it has all attempts of its policy again."""
    return msgspec.structs.replace(retry, parked=False, due=now, first_attempt=retry.attempt, starts=0)


def given_up(retry: Retry, now: datetime) -> DeadLetter:
    """Return the dead letter of a retry that will not be run."""
    return DeadLetter(
        id=key_of(retry.event, retry.rule),
        subject=retry.subject,
        event=retry.event,
        rule=retry.rule,
        failure=retry.failure,
        attempts=retry.attempt - 1,
        first_failed=retry.first_failed,
        time=now,
    )


async def skip(store: Store, waiting: Iterable[Retry], now: datetime) -> list[DeadLetter]:
    """Give up what is parked.

    Args:
        store: where it is parked.
        waiting: what is given up; what is not there any more is left out.
        now: when that is.

    Returns:
        The dead letters that it is now.

    Raises:
        StoreConflict: others write the subject all the time.
        StoreError: the store does not answer.
    """

    async def send(commit: Commit) -> Answer:
        return (await commit_surely(store, commit, a_few_times))[0].answer

    letters = []
    for retry in waiting:
        commit = Commit(
            partition=partition_of(retry.subject, store.partitions),
            subject=retry.subject,
            retried=retry.key,
            dead=[letter := given_up(retry, now)],
        )
        if await commit_whatever_version(store, commit, send):
            letters.append(letter)
    return letters


async def commit_whatever_version(store: Store, commit: Commit, send: Callable[[Commit], Awaitable[Answer]]) -> bool:
    """Commit what does not depend on the state of its subject, for which a commit has to name the version.

    Args:
        store: where to.
        commit: what is stored; its version is filled in.
        send: sends it, and finds out what it has come to.

    Returns:
        Whether it was stored; if not, what it takes away was not there any more.

    Raises:
        StoreConflict: others write the subject all the time, or it is theirs.
        StoreError: the store does not answer.
    """
    for _ in range(_MAX_TRIES):
        version = (await store.load(commit.subject)).version
        answer = await send(msgspec.structs.replace(commit, version=version))
        if answer is Answer.FENCED:
            raise StoreConflict(f"{commit.subject} is looked after by another process; ask that one")
        if answer is not Answer.CONFLICT:
            return answer is Answer.OK
        await pause(1)
    raise StoreConflict(f"{commit.subject} moved on {_MAX_TRIES} times while it was written; try again later")


class Migrated(msgspec.Struct, frozen=True, kw_only=True):
    """A subject whose class declares another schema version than the stored one.

    Attributes:
        subject: its name.
        stored: schema version that was stored.
        declared: schema version that its class declares.
        error: why its state cannot be brought to that version; then it was left as it is. None if it was migrated.
    """

    subject: str
    stored: int
    declared: int
    error: MigrationError | None = None


async def migrate_subjects(store: Store, rulebook: Rulebook, *, dry_run: bool = False) -> AsyncIterator[Migrated]:
    """Bring all stored subjects to the schema version that their class declares; those that have it are left out.

    Args:
        store: whose subjects.
        rulebook: what knows their classes.
        dry_run: store nothing, only find out.

    Raises:
        StoreError: the store does not answer.
    """
    async for record in store.subjects():
        current: SubjectRecord = record
        while (found := _plan(current, rulebook)) is not None:
            migrated, write = found
            if write is None or dry_run or await _is_written(store, current, write):
                yield migrated
                break
            current = await store.load(record.name)  # somebody has written it meanwhile


def _plan(record: SubjectRecord, rulebook: Rulebook) -> tuple[Migrated, SubjectWrite | None] | None:
    """Return what a subject needs, and what to write for that; None if nothing."""
    cls = rulebook.subject_type(record.name)
    declared = cls._schema_of(record)
    if record.version is None or record.schema == declared:
        return None
    migrated = Migrated(subject=record.name, stored=record.schema, declared=declared)
    try:
        write = cls._state_of(record).write()
    except MigrationError as error:
        return msgspec.structs.replace(migrated, error=error), None
    except PropertyError as problem:
        invalid = MigrationError(str(problem), subject=record.name, stored=record.schema, declared=declared)
        return msgspec.structs.replace(migrated, error=invalid), None
    return migrated, write or SubjectWrite(schema=declared)


async def _is_written(store: Store, record: SubjectRecord, write: SubjectWrite) -> bool:
    commit = Commit(
        partition=partition_of(record.name, store.partitions),
        subject=record.name,
        version=record.version,
        write=write,
        id=str(uuid4()),
    )
    result, _ = await commit_surely(store, commit, a_few_times)
    return result.answer is Answer.OK
