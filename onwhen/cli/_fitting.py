"""Whether an APP is the right one for a store, found out before any rule is run.

Belongs here: what would be handled at once if the store were opened, and which of it no rule of the APP is for. It must
not know what the command does then. An event that no rule is for is handled all the same, and gone: so with the wrong
APP everything that is pending would be lost, and nothing would look wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from onwhen.cli._forms import cut
from onwhen.cli._options import UsageError
from onwhen.engine.events import Event
from onwhen.engine.resend import read_all
from onwhen.engine.rulebook import Rulebook
from onwhen.engine.store import DeadLetter, Retry, Store

__all__ = ["Meant", "Waiting", "check_app", "read_waiting"]

_NAMED: Final = 5  # what is named of all that no rule is for (a count)
_SUBJECT: Final = 60  # characters of a subject's name in that (a count)
_SOON: Final = timedelta(hours=1)  # what comes due while a command runs is told apart up to then


class Meant(NamedTuple):
    """What a command was asked to run once more.

    Attributes:
        id: of the dead letter; the retry's key.
        rule: id of the rule; "" for an event as a whole.
        subject: name of the subject.
        type: type of the event.
    """

    id: str
    rule: str
    subject: str
    type: str

    @classmethod
    def of(cls, what: DeadLetter | Retry) -> Meant:
        """Return what is to be known of a dead letter or a parked retry."""
        id = what.id if isinstance(what, DeadLetter) else what.key
        return cls(id, what.rule, what.subject, what.event.type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """What will be handled when rules are run on a store.

    Attributes:
        unfit: events and retries that no rule is for, by type and subject (or rule and subject), each once.
        timers: ids of the events of timers that are due, or will be soon.
        retries: ids of the events whose retries are due, or will be soon.
    """

    unfit: dict[str, None] = field(default_factory=dict)
    timers: set[str] = field(default_factory=set)
    retries: set[str] = field(default_factory=set)


async def read_waiting(store: Store, rulebook: Rulebook, now: datetime, *, is_virtual: bool = False) -> Waiting:
    """Read what waits in a store: pending events, and timers and retries that are due.

    Args:
        store: open, for reading at least.
        rulebook: the rules of the APP.
        now: what is due is due up to then.
        is_virtual: it is the moment of a clock that stands still, which a bus moves on to what is pending.

    Raises:
        StoreError: the store cannot be read.
    """
    found = Waiting()
    rules = {rule.id for rule in rulebook.rules()}

    def take(event: Event) -> None:
        if not _is_matched(rulebook, event.type, event.subject):
            found.unfit[_named(event.type, event.subject)] = None

    for partition in range(store.partitions):
        async for entry in read_all(store, partition):
            take(entry.event)
            if is_virtual:
                now = max(now, entry.accepted)
    async for timer in store.timers():
        if timer.due > now + _SOON:
            break
        found.timers.add(timer.event.id)
        if timer.due <= now:
            take(timer.event)
    for partition in range(store.partitions):
        async for retry in store.retries(partition):
            if retry.parked or retry.due > now + _SOON:
                continue
            found.retries.add(retry.event.id)
            if retry.due > now:
                continue
            type, subject = retry.event.type, retry.subject
            if retry.rule and retry.rule not in rules:
                found.unfit[f"a retry of {_named(retry.rule, subject)}"] = None
            elif not retry.rule and not _is_matched(rulebook, type, subject):
                found.unfit[f"a retry of {_named(type, subject)}"] = None
    return found


def check_app(app: str, rulebook: Rulebook, waiting: Waiting, meant: Iterable[Meant]) -> None:
    """Refuse an APP that is not the right one.

    Args:
        app: as it was typed.
        rulebook: its rules.
        waiting: what would be handled at once.
        meant: what is to be run once more.

    Raises:
        UsageError: no rule is for some of it; the message names it.
    """
    whole = (one for one in meant if not one.rule and not _is_matched(rulebook, one.type, one.subject))
    unfit = dict.fromkeys(_named(one.type, one.subject) for one in whole)
    if unfit:
        raise UsageError(
            f"{app} has no rule for what is to be run: {_listed(unfit)}; {_advice('it would be taken for handled')}"
        )
    if waiting.unfit:
        raise UsageError(
            f"{app} has no rule for what else is pending in the store: {_listed(waiting.unfit)}; "
            f"{_advice('opened with these rules it would be handled by none, and be gone')}"
        )


def _is_matched(rulebook: Rulebook, type: str, subject: str) -> bool:
    return bool(rulebook.match(type, rulebook.subject_type(subject)))


def _named(what: str, subject: str) -> str:
    return f"{what} to {cut(subject, _SUBJECT)}"


def _listed(unfit: dict[str, None]) -> str:
    named = ", ".join(list(unfit)[:_NAMED])
    return named if len(unfit) <= _NAMED else f"{named}, and {len(unfit) - _NAMED:,} more"


def _advice(why: str) -> str:
    return f"{why}. Name the APP that handles it, or add --force to go on all the same"
