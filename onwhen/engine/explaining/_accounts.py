"""Accounts: what happened and why, as data that can be written as JSON, and kept.

Belongs here: what an account holds. It must not know where it comes from (`accounting`), how accounts of many turns
become one tree (`joining`), nor how it is put into words (`telling`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from onwhen.engine.explaining._conditions import Asked
from onwhen.engine.explaining.telling import drawn

__all__ = [
    "VERSION",
    "Account",
    "ChangeAccount",
    "EventAccount",
    "RunAccount",
    "TimerAccount",
    "TurnAccount",
]

VERSION: Final = 1
"""Version of the JSON form: it is another one once something in it means something else, or is gone."""


class ChangeAccount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A change of a property, and the rules that it led to in the same turn.

    Attributes:
        kind: "changed", "deleted", or "flushed" for the whole subject.
        property: its name.
        old: the value before, as a short text.
        new: the value after, likewise.
        muted: it was asked not to lead to anything.
        reactions: the rules that were considered for it.
    """

    kind: str
    property: str = ""
    old: str = ""
    new: str = ""
    muted: bool = False
    reactions: tuple[RunAccount, ...] = ()


class TimerAccount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A timer that was set: its key ("" if it has none), when it is due (RFC 3339), and what it sends."""

    due: str
    event: EventAccount
    key: str = ""


class RunAccount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rule, considered once.

    Attributes:
        rule: its id; "" for the middleware around the whole event.
        status: "fired", "skipped", "stopped", "failed" or "postponed", as in `RuleRun`.
        attempt: 1 for the first run on this event.
        because: for a reaction, the property and the rule whose change it was; where that is not around it.
        tests: its triggers that ask for values, and its conditions, in order; none if nobody took notes.
        why: what kept it from running, in words, if nobody took notes.
        error: what was raised.
        place: file and line where: the innermost that are of the application.
        fate: of one that failed or was put off: "retry", "parked", "dead letter", or "handled" by a middleware.
        handled_by: name of that middleware.
        retry_at: when it is run again (RFC 3339).
        changes: what it changed.
        messages: what it sent.
        timers: what it set.
        cancelled: keys of the timers that it cancelled.
        refused: why messages of its were not sent.
        left_out: how many of its changes, messages and timers are not told (a count).
    """

    rule: str
    status: str
    attempt: int = 1
    because: str = ""
    tests: tuple[Asked, ...] = ()
    why: str = ""
    error: str = ""
    place: str = ""
    fate: str = ""
    handled_by: str = ""
    retry_at: str = ""
    changes: tuple[ChangeAccount, ...] = ()
    messages: tuple[EventAccount, ...] = ()
    timers: tuple[TimerAccount, ...] = ()
    cancelled: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    left_out: int = 0


class TurnAccount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One turn on an event.

    Attributes:
        time: when it began (RFC 3339).
        rule: id of the rule that was run again, if only one was.
        runs: the rules in order; reactions stand with the change that led to them.
        error: why the event as a whole failed.
        place: file and line where that was raised: the innermost that are of the application.
        fate: what became of it then: "retry", "parked" or "dead letter".
        retry_at: when it is run again (RFC 3339).
        left_out: how many runs are not told (a count).
    """

    time: str = ""
    rule: str = ""
    runs: tuple[RunAccount, ...] = ()
    error: str = ""
    place: str = ""
    fate: str = ""
    retry_at: str = ""
    left_out: int = 0


class EventAccount(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An event, and what it led to.

    Attributes:
        id: its id.
        type: its type.
        subject: whom it is addressed to.
        source: who sent it.
        correlation: id of the event at the root of the cascade.
        causation: id of the event that it follows from; "" at the root.
        data: its data, as a short text.
        status: that of its receipt; "sent"; "not kept" if what became of it was not; "told below" if that is deep down
            in the tree, and so stands at its end; "told elsewhere" if it was sent by another rule, or again, and stands
            there.
        turns: what was done with it, the first time and again later.
        followed: what else follows from it, where the way to that was not kept.
    """

    id: str
    type: str
    subject: str
    source: str
    correlation: str = ""
    causation: str = ""
    data: str = ""
    status: str
    turns: tuple[TurnAccount, ...] = ()
    followed: tuple[EventAccount, ...] = ()


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What happened and why, as a tree: `str()` for people, `to_json()` for scripts.

    Attributes:
        events: the events that it begins with; one, if it is that of a receipt.
        is_complete: the conditions were noted, each with the values that it looked at.
    """

    events: tuple[EventAccount, ...]
    is_complete: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return it as a JSON object: `version`, and `events` with the attributes of `EventAccount`."""
        told: dict[str, Any] = msgspec.json.decode(self.to_json())
        return told

    def to_json(self) -> str:
        """Return that as JSON text."""
        return msgspec.json.encode({"version": VERSION, "events": self.events}).decode()

    def __str__(self) -> str:
        return "\n".join(drawn(self))
