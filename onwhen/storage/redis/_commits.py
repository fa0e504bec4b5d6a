"""The commit of one turn: as words of a script, and its answer as a result.

Belongs here: what a commit is made of, in the order in which the script looks at it. It must not know how many commits
share a script. Values that cannot be stored fail here, before they meet others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.store import Answer, Commit, CommitResult
from onwhen.errors import StoreError, StoreFormatError
from onwhen.storage._encoding import micros, write_text
from onwhen.storage.redis._connection import Word
from onwhen.storage.redis._encoding import (
    BITS,
    commit_key,
    dead_words,
    due_text,
    explanation_words,
    id_of,
    owner_key,
    owner_prefix,
    retry_words,
)
from onwhen.storage.redis._keys import PartitionKeys
from onwhen.storage.redis._lanes import Job, Kind

__all__ = ["job_of"]

_DONE: Final = CommitResult(Answer.DONE)
_CONFLICT: Final = CommitResult(Answer.CONFLICT)
_FENCED: Final = CommitResult(Answer.FENCED)
_OVERHEAD: Final = 200  # bytes of a commit besides what it stores, about
_NAMES: Final = 4096  # names of properties whose fields are kept, so that they are made once (a count)

_fields: Final[dict[str, bytes]] = {}


def job_of(
    commit: Commit,
    keys: PartitionKeys,
    kind: Kind,
    partitions: int,
    version: Callable[[int], str],
    *,
    with_history: bool,
    explanations: int,
) -> Job:
    """Return what a lane does to store a commit.

    Args:
        commit: what is to be stored.
        keys: of its partition.
        kind: how it is stored.
        partitions: how many there are (a count).
        version: makes a new version for a schema.
        with_history: a history is kept.
        explanations: how many explanations are kept (a count).

    Raises:
        StoreError: a value cannot be stored.
    """
    write = commit.write
    new: str | None = None if commit.version is None else str(commit.version)
    words: list[Word] = ["" if commit.handled is None else id_of(commit.handled), new or "", "", 0, 0]
    size = 0
    try:
        if write is not None:
            if write.remove:
                new, words[2] = None, "-"
            else:
                new = words[2] = version(write.schema)
                for name, value in write.set.items():
                    words += (_fields.get(name) or _field(name), value)
                    size += len(value)
                for name, value in write.set_ext.items():
                    words += (b"e:" + name.encode(), value)
                    size += len(value)
                words[3] = len(words) - 5
        explains = explanations > 0 and commit.explanation is not None
        if with_history or explains or _is_uncommon(commit):
            more = _more(commit, partitions, with_history=with_history, explanations=explanations)
            words[4] = len(more)
            words += more
            size += sum([len(word) for word in more if not isinstance(word, int)])
        if commit.messages:
            read = _reader_with_messages(
                new, [partition_of(event.subject, partitions) == commit.partition for event in commit.messages]
            )
        else:
            read = _reader(new)
    except UnicodeEncodeError as error:  # here, where it concerns nobody else
        raise StoreError(f"a commit of {commit.subject!a:.200} has text that cannot be stored: {error}") from error
    return Job(kind, words, read, (keys.subject(commit.subject),), commit.token, _FENCED, size + _OVERHEAD)


def _field(name: str) -> bytes:
    if len(_fields) >= _NAMES:
        _fields.clear()
    field = _fields[name] = b"p:" + name.encode()
    return field


def _is_uncommon(commit: Commit) -> bool:
    write = commit.write
    return bool(
        commit.messages
        or commit.retried is not None
        or commit.timers
        or commit.cancelled
        or commit.cancel_all
        or commit.retries
        or commit.dead
        or commit.revived
        or commit.id is not None
        or (write is not None and (write.delete or write.delete_ext))
    )


def _more(commit: Commit, partitions: int, *, with_history: bool, explanations: int) -> list[Word]:
    """Return what a commit has besides an event and properties; see `uncommon` in the script."""
    write = commit.write
    key = b"" if commit.id is None else commit_key(commit.id)
    words: list[Word] = [commit.retried or "", key, len(commit.revived), *(id.encode() for id in commit.revived)]

    def add(part: str, items: list[tuple[Word, ...]]) -> None:
        if items:
            words.extend((part, len(items)))
            for item in items:
                words.extend(item)

    if with_history:
        add("history", [(write_text(write) if write is not None else "",)])
    if write is not None and not write.remove:
        add(
            "unset",
            [*((_field(name),) for name in write.delete), *((b"e:" + name.encode(),) for name in write.delete_ext)],
        )
    if commit.messages:
        add("post", [_message(commit.partition, event, partitions) for event in commit.messages])
    if commit.cancel_all:
        add("cancel_all", [(owner_prefix(commit.subject),)])
    add("cancel", [(owner_key(commit.subject, name),) for name in commit.cancelled])
    add(
        "timer",
        [
            (
                owner_key(commit.subject, timer.key),
                due_text(micros(timer.due)),
                partition_of(timer.event.subject, partitions),
                timer.event.to_json(),
            )
            for timer in commit.timers
        ],
    )
    add("retry", [retry_words(retry) for retry in commit.retries])
    add("dead", [dead_words(letter) for letter in commit.dead])
    if explanations and commit.explanation is not None:
        add("explain", [explanation_words(commit.explanation, explanations)])
    return words


def _message(partition: int, event: Event, partitions: int) -> tuple[Word, Word]:
    target = partition_of(event.subject, partitions)
    return "" if target == partition else target, event.to_json()


def _reader(version: str | None) -> Callable[[Any, int], CommitResult]:
    def read(answer: Any, low: int) -> CommitResult:
        if answer == 0:
            return CommitResult(Answer.OK, version)
        return _refused(answer)

    return read


def _reader_with_messages(version: str | None, own: list[bool]) -> Callable[[Any, int], CommitResult]:
    def read(answer: Any, low: int) -> CommitResult:
        if answer.__class__ is not bytes or not answer.isdigit():
            return _refused(answer)
        first = int(answer)
        positions = [first + number << BITS | low if is_own else None for number, is_own in enumerate(own)]
        return CommitResult(Answer.OK, version, positions)

    return read


def _refused(answer: Any) -> CommitResult:
    if answer == 1:
        return _DONE
    if answer == 2:
        return _CONFLICT
    text = answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)
    kind, _, key = text.partition(" ")
    if kind == "BADKEY":
        raise StoreFormatError(
            f"key {key} in Redis holds something that onwhen did not write; give the store a key_prefix of its own"
        )
    raise StoreError(f"a commit was refused by its script: {text:.200}; this is a fault of onwhen")
