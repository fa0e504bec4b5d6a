"""Accounts in words: a tree of lines, for people.

Belongs here: what each thing is called, and how a tree is drawn. It must not know where an account comes from, nor of
terminals: whoever has one takes `branches`, in which each line says of which kind it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from onwhen.engine.explaining._accounts import (
        Account,
        ChangeAccount,
        EventAccount,
        RunAccount,
        TimerAccount,
        TurnAccount,
    )
    from onwhen.engine.explaining._conditions import Asked, Value

__all__ = ["NOT_NOTED", "Branch", "Kind", "branches", "drawn", "headline", "lines", "of_turn"]

Kind: TypeAlias = Literal["event", "fired", "skipped", "bad", "held", "change", "message", "timer", "note"]
"""What a line is about, for whoever has colours."""

NOT_NOTED: Final = "Which values the conditions looked at was not noted; emit the event with explain=True, and it is."

_BESIDE: Final = 60  # characters that values may take on the line of their condition (a count)
_WIDE: Final = 100  # characters that they may take on a line of their own (a count); else each has one
_NOTES: Final = {
    "accepted": "accepted, and not handled yet",
    "waiting": "waits for what its subject waits for: a retry, or to be resumed",
    "duplicate": "accepted before, so nothing was done",
    "recorded": "sent once the turn around it is committed",
    "not kept": "what became of it was not kept",
    "told below": "told below",
    "told elsewhere": "sent before, and told there",
}
_OF_TIMER: Final = {"sent": "", "not kept": "what became of it was not kept, or it is not due yet"}
_KINDS: Final[dict[str, Kind]] = {
    "fired": "fired",
    "skipped": "skipped",
    "held": "held",
    "did not hold": "skipped",
    "not reached": "note",
    "unknown": "note",
}


class Branch(msgspec.Struct):
    """One line, and what stands under it.

    Attributes:
        text: the line.
        kind: what it is about.
        inside: the lines under it.
    """

    text: str
    kind: Kind
    inside: list[Branch] = []


def drawn(account: Account, *, ascii: bool = False) -> Iterator[str]:
    """Go through the lines of an account as a tree.

    Args:
        account: what is told.
        ascii: draw the branches with what every encoding has.
    """
    for branch in branches(account):
        yield from lines(branch, ascii=ascii)
    if not account.is_complete:
        yield NOT_NOTED


def lines(branch: Branch, *, ascii: bool = False) -> Iterator[str]:
    """Go through the lines of one branch: its own, and those under it behind the lines of a tree."""
    yield branch.text
    yield from _under(branch.inside, "", ("|- ", "`- ", "|  ") if ascii else ("├─ ", "└─ ", "│  "))


def _under(inside: Sequence[Branch], before: str, signs: tuple[str, str, str]) -> Iterator[str]:
    to_one, to_last, past = signs
    for at, branch in enumerate(inside, 1):
        is_last = at == len(inside)
        yield f"{before}{to_last if is_last else to_one}{branch.text}"
        yield from _under(branch.inside, before + ("   " if is_last else past), signs)


def branches(account: Account) -> list[Branch]:
    """Return the lines of an account as trees, one for each event that it begins with."""
    told = {id for event in account.events for id in _ids(event)}
    found = []
    for event in account.events:
        branch = _event(event)
        if event.causation and event.turns:
            what = "goes on from" if event.causation in told else "follows from something that is not told here,"
            branch.inside.insert(0, Branch(f"{what} event {event.causation}", "note"))
        found.append(branch)
    return found


def _ids(event: EventAccount) -> Iterator[str]:
    """Go through the ids of an event and of all that stand under it."""
    yield event.id
    for other in (*event.followed, *(sent for turn in event.turns for sent in _sent(turn.runs))):
        yield from _ids(other)


def _sent(runs: Sequence[RunAccount]) -> Iterator[EventAccount]:
    for run in runs:
        yield from run.messages
        yield from (timer.event for timer in run.timers)
        yield from (event for change in run.changes for event in _sent(change.reactions))


def headline(event: EventAccount) -> str:
    """Return type, receiver and data of an event on one line."""
    return f"{event.type} to {event.subject}{f' {event.data}' if event.data else ''}"


# -- events and turns --------------------------------------------------------------------------------------------


def _event(event: EventAccount, around: TurnAccount | None = None) -> Branch:
    text, first = headline(event), event.turns[0] if event.turns else None
    if first is not None and _is_later(first, around):
        when = _short(first.time)
        text = f"{when}  {text}" if around is None else f"{text}  {when}"
    return Branch(text, "event", _inside(event))


def _is_later(turn: TurnAccount, around: TurnAccount | None) -> bool:
    return bool(turn.time) and (around is None or _short(turn.time) != _short(around.time))


def _short(moment: str) -> str:
    """Return a moment to the second."""
    return f"{moment.partition('.')[0].removesuffix('Z')}Z"


def _inside(event: EventAccount, notes: dict[str, str] = _NOTES) -> list[Branch]:
    found: list[Branch] = []
    note = notes.get(event.status, "")
    if not note and event.status == "handled" and not event.turns:
        note = f"handled elsewhere; 'onwhen explain --id {event.correlation}' tells what was kept of that"
    if note:
        found.append(Branch(note, "note"))
    for number, turn in enumerate(event.turns):
        if number == 0 and not turn.rule:
            found += of_turn(turn)
        else:
            only = f": only {turn.rule}" if turn.rule else ""
            found.append(Branch(f"again{only}  {_short(turn.time)}", "event", of_turn(turn)))
    found += [Branch(f"from this followed {branch.text}", branch.kind, branch.inside) for branch in _followed(event)]
    return found


def _followed(event: EventAccount) -> Iterator[Branch]:
    for other in event.followed:
        yield _event(other, event.turns[0] if event.turns else None)


def of_turn(turn: TurnAccount) -> list[Branch]:
    """Return the lines of one turn: its rules, and what became of it as a whole."""
    found = [_run(run, turn) for run in turn.runs]
    if turn.left_out:
        found.append(Branch(f"{turn.left_out:,} more rules are not told", "note"))
    if turn.error:
        what = f"the event failed as a whole, nothing of it was kept: {turn.error}"
        found.append(Branch(what + _fate(turn.fate, turn.retry_at, 1) + _place(turn.place), "bad"))
    elif not turn.runs:
        found.append(Branch("no rule is for this event and subject", "note"))
    return found


# -- rules -------------------------------------------------------------------------------------------------------


def _run(run: RunAccount, turn: TurnAccount) -> Branch:
    text = f"{run.status} {run.rule}" if run.rule else f"{run.status} the middleware around the event"
    if run.attempt > 1:
        text += f", attempt {run.attempt}"
    if run.because:
        text += f" ({run.because})"
    reasons = [reason for reason in (run.why, run.error) if reason]
    if reasons:
        text += f": {'; '.join(reasons)}"
    if run.fate == "handled":
        text += f"; middleware {run.handled_by} dealt with it"
    text += _fate(run.fate, run.retry_at, run.attempt, is_postponed=run.status == "postponed") + _place(run.place)
    inside = [_asked(asked) for asked in run.tests]
    inside += [_change(change, turn) for change in run.changes]
    inside += [_message(event, turn) for event in run.messages]
    inside += [_timer(timer, turn) for timer in run.timers]
    inside += [Branch(f"cancelled timer {key!r}", "timer") for key in run.cancelled]
    inside += [Branch(f"not sent, but left as a dead letter: {error}", "bad") for error in run.refused]
    if run.left_out:
        inside.append(Branch(f"{run.left_out:,} more changes, messages and timers are not told", "note"))
    return Branch(text, _KINDS.get(run.status, "bad"), inside)


def _fate(fate: str, retry_at: str, attempt: int, *, is_postponed: bool = False) -> str:
    if fate == "retry":
        return f"; again at {_short(retry_at)}" if is_postponed else f"; attempt {attempt + 1} at {_short(retry_at)}"
    if fate == "parked":
        return "; its subject waits until it is resumed"
    return "; dead letter" if fate == "dead letter" else ""


def _place(place: str) -> str:
    return f"  ({place})" if place else ""


def _asked(asked: Asked) -> Branch:
    text = f"{asked.result}: {asked.text}"
    if asked.body:
        text += f", which is {asked.body}"
    if asked.error:
        text += f" raised {asked.error}"
    values = ", ".join(map(_value, asked.values))
    is_short = len(values) <= (_BESIDE if not asked.parts else 0)
    if values and is_short:
        text += f"  [{values}]"
    text += _place(asked.place)
    inside = [Branch(f"{part.result}: {part.text}", _KINDS.get(part.result, "bad")) for part in asked.parts]
    if not is_short:
        alone = [values] if len(values) <= _WIDE else map(_value, asked.values)
        inside += [Branch(value, "note") for value in alone]
    return Branch(text, _KINDS.get(asked.result, "bad"), inside)


def _value(value: Value) -> str:
    return f"{value.text} raises {value.value}" if value.raised else f"{value.text} = {value.value}"


# -- what they did -------------------------------------------------------------------------------------------------


def _change(change: ChangeAccount, turn: TurnAccount) -> Branch:
    if change.kind == "flushed":
        text = "deleted the subject"
    elif change.kind == "deleted":
        text = f"deleted {change.property} (was {change.old})"
    else:
        text = f"{change.property}: {change.old} -> {change.new}{' (muted)' if change.muted else ''}"
    return Branch(text, "change", [_run(reaction, turn) for reaction in change.reactions])


def _message(event: EventAccount, turn: TurnAccount) -> Branch:
    branch = _event(event, turn)
    return Branch(f"sent {branch.text}", "message", branch.inside)


def _timer(timer: TimerAccount, turn: TurnAccount) -> Branch:
    named = f" {timer.key!r}" if timer.key else ""
    text = f"set timer{named}: {headline(timer.event)}, due {_short(timer.due)}"
    return Branch(text, "timer", _inside(timer.event, {**_NOTES, **_OF_TIMER}))
