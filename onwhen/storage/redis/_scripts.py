"""The Lua scripts, each with what it is given and what it answers.

Belongs here: their texts, from the files beside this module, put together. It must not know who runs them.

All but those that say what their KEYS are get the keys of `PartitionKeys.fixed`. Of these, those that write get ARGV
that begins with format, client, epoch, the low part of new ids and that of ids of timers, here called HEAD, and they
may answer: BADFMT, the partition is not of this format, layout or number of partitions; STALE, a later call of this
client has come before (no epoch: that does not matter). Both mean that nothing was done.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from onwhen.storage.redis._connection import Script

__all__ = [
    "ACQUIRE",
    "APPEND",
    "BEAT",
    "CLOSE",
    "COMMIT",
    "DELIVER",
    "DISCARD",
    "EXCHANGE",
    "EXPLAINED",
    "FOUND",
    "LOOK",
    "MARK",
    "MOVE",
    "PAGE",
    "PRESENT",
    "PROMOTE",
    "RECALL",
    "RELEASE",
    "RENEW",
    "STARTING",
    "TRIM",
]

_FOLDER: Final = files("onwhen.storage.redis") / "lua"


def _text(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text(encoding="utf-8")


def _script(name: str, flags: str = "", *, is_of_partition: bool = True) -> Script:
    """Return a script; what it was declared with decides what a full server or a replica does with it."""
    head = _text("_head") if is_of_partition else ""
    return Script(name, f"#!lua flags={flags}\n{head}{_text(name)}" if flags else f"#!lua\n{head}{_text(name)}")


APPEND: Final = _script("append")
"""HEAD, window, most pending, count of calls; for each: count of events, whether no two are the same (1 or 0), count
of bookmarks; key and event of each; name and value of each.

Answers for each call: the backlog as a number, if that is too much; the order number of the first event, where all are
new and theirs follow each other; else for each event `+` and its order number, the id of the pending one, or nothing.

The only one that a full server refuses, beside those that make a deployment.
"""

COMMIT: Final = _script("commit", "allow-oom")
"""HEAD, `=` and the token or nothing, window, length of the history, count of commits; for each: id of what is
handled, the version that was loaded, the new one (nothing: no write; `-`: remove), count of the words of properties,
count of further words, those of properties, the further ones (see `uncommon` in the script). KEYS go on with one
subject for each.

Answers FENCED, or for each commit: 0 stored, 1 done before, 2 another version; the order number of the first message,
if it is stored and has any; BADREQ, or BADKEY and a key that is not what it should be, if it was refused.
"""

PROMOTE: Final = _script("promote", "allow-oom")
"""HEAD, number of the partition, most timers at once, most bytes, where to begin in `fired` (nothing: not at all).

Answers entries (id, accepted, event, starts), when the next is due or nothing, whether some went elsewhere (1 or 0),
how many were moved.
"""

DELIVER: Final = _script("deliver", "allow-oom")
"""HEAD, source, expected watermark, count of messages, how long they are remembered (microseconds); for each message:
key, id in the outbox, event. Answers whether they were accepted (1 or 0), and the watermark."""

STARTING: Final = _script("starting", "allow-oom")
"""HEAD; for each: `r` for a retry or `e` for an event, its key or id, how often it has begun. Answers 0."""

DISCARD: Final = _script("discard", "allow-oom")
"""HEAD, id of a dead letter. Answers whether it was there (1 or 0)."""

TRIM: Final = _script("trim", "allow-oom")
"""HEAD, token, id of the first message that stays. Answers whether the token is the partition's (1 or 0)."""

ACQUIRE: Final = _script("acquire", "allow-oom")
"""HEAD, token, lease (microseconds), worker. Answers 0 if somebody else owns it, else whether it was released before
(1 or 0), and how often it was touched."""

RENEW: Final = _script("renew", "allow-oom")
"""HEAD, token, lease (microseconds), how long what was delivered is remembered (microseconds). Answers how often it was
touched, as a list of one; an empty one if the token is not the partition's."""

RELEASE: Final = _script("release", "allow-oom")
"""HEAD, token. Answers whether it was the partition's (1 or 0)."""

LOOK: Final = _script("look", "no-writes")
"""Format. Answers worker, microseconds left of its lease, pending, when the oldest was accepted or nothing, ever
appended, in the outbox, subjects, timers, retries, parked ones among them, dead letters; or BADFMT."""

PAGE: Final = _script("page", "no-writes")
"""Format, which list (timers, retries or dead), where to begin, most items, most bytes. Answers members, values and
starts; or BADFMT."""

EXPLAINED: Final = _script("explained", "no-writes")
"""Format, where to begin, most entries and most bytes to look at, `=` and the correlation id that is asked for or
nothing, `=` and the subject or nothing. Answers after which entry to go on, nothing after the last, and of each that is
asked for: id, subject, correlation id, facts, body; or BADFMT."""

PRESENT: Final = _script("present", "no-writes")
"""Format, `log` or `retries`, ids or keys. Answers 1 or 0 for each; or BADFMT."""

FOUND: Final = _script("found", "allow-oom", is_of_partition=False)
"""Makes a deployment, unless there is one. KEYS: its meta. ARGV: format, partitions and window as asked for, or
nothing; those of a new deployment that does not say. Answers format, partitions, layout, window, whether it is made."""

MARK: Final = _script("mark", is_of_partition=False)
"""Marks a partition, unless it is marked. KEYS: its meta. ARGV: the mark. Answers the mark that it has."""

BEAT: Final = _script("beat", "allow-oom", is_of_partition=False)
"""KEYS: the hash of workers. ARGV: id or nothing, seconds, note. Answers id, microseconds left and note of each that
lives."""

EXCHANGE: Final = _script("exchange", "allow-oom", is_of_partition=False)
"""KEYS: a cell. ARGV: `=` and what has to be there or nothing, `=` and what is there then or nothing, for how long
(microseconds). Answers `=` and what is there or nothing, and the time (microseconds since the epoch)."""

MOVE: Final = _script("move", "allow-oom", is_of_partition=False)
"""A step of a move to another number of partitions. KEYS: the deployment's meta. ARGV: format, step, and for `begin`
partitions, a word and the layout that is left, for `switch` and `end` what `begin` has answered, for `cleaned`
layout:partitions.

Answers BADFMT; `look`: format, partitions, layout, moving, leaving; `begin`: moving; OTHER if somebody else has come
before; OK."""

CLOSE: Final = _script("close", "allow-oom", is_of_partition=False)
"""KEYS: a partition's meta. ARGV: its mark, the mark of one that is closed, 1 to close it or 0 to open it. Answers OK;
BADFMT if it has another mark; worker and microseconds left, if somebody owns it, and it was not closed."""

RECALL: Final = _script("recall", is_of_partition=False)
"""KEYS: `seen`, `window` and `delivered` of a partition that is being copied. ARGV: `window` or `delivered`; for each
its key, and its position or when it came. Answers 1 for each that is new, else 0."""
