"""From what rules did to an account of it.

Belongs here: outcomes and receipts, told as data. It must not know how that is put into words, nor where it is kept.
Nothing here raises over what it tells of, and what it tells is bounded.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import msgspec

from onwhen.engine.events import Event
from onwhen.engine.explaining._accounts import (
    VERSION,
    Account,
    ChangeAccount,
    EventAccount,
    RunAccount,
    TimerAccount,
    TurnAccount,
)
from onwhen.engine.explaining._conditions import condition_text
from onwhen.engine.explaining._texts import error_text, one_line, short
from onwhen.engine.explaining._trees import Body, joined
from onwhen.engine.sources import place_of_error
from onwhen.engine.state import Change
from onwhen.engine.store import Explanation, Timer

if TYPE_CHECKING:
    from onwhen.engine.outcomes import Outcome, Receipt, RuleRun

__all__ = ["account_of", "account_of_event", "account_of_outcome", "explanation_of"]

_DATA: Final = 200  # characters of an event's data (a count)
_TEXT: Final = 500  # characters of a name (a count)
_LARGEST: Final = 1 << 18  # bytes of what is kept of a turn; beyond that, less is told
_MOST_RUNS: Final = 300  # of one turn, and as many that failed beside them (a count)
_MOST_EFFECTS: Final = 100  # of one kind, of one run (a count)
_DEEPEST: Final = 24  # reactions to reactions that stand within each other (a count)


def account_of(receipt: Receipt) -> Account:
    """Return what a receipt knows; see `Receipt.explain`."""
    receipts = list(receipt.walk())
    outcomes = [one._outcome for one in receipts]
    turns = [None if one is None else _turn(one) for one in outcomes]
    return Account(
        events=joined(_event(one.event, turn, one.status) for one, turn in zip(receipts, turns, strict=True)),
        is_complete=all(one is None or one.is_explained for one in outcomes),
    )


def account_of_event(event: Event) -> EventAccount:
    """Return what there is to say of an event."""
    return _event(event)


def account_of_outcome(outcome: Outcome) -> EventAccount:
    """Return what came of one turn."""
    return _event(outcome.event, _turn(outcome), "handled")


def explanation_of(outcome: Outcome, has_failed: bool) -> Explanation:
    """Return the account of a turn as a store keeps it."""
    event = outcome.event
    try:
        body = _body(outcome)
    except Exception as error:  # of what it would tell of; the turn itself is as it is
        body = _encoded(_event(event, TurnAccount(error=f"this turn cannot be told: {error_text(error)}")))
    assert outcome.time is not None
    return Explanation(
        time=outcome.time,
        subject=event.subject,
        correlation=event.correlation_id,
        event=event.id,
        rule=outcome.rule,
        failed=has_failed,
        body=body,
    )


def _body(outcome: Outcome) -> bytes:
    """Return an account of a turn as JSON; of one that does very much, less is told."""
    for share in (1, 4, 16, 64):
        body = _encoded(_event(outcome.event, _turn(outcome, share)))
        if len(body) <= _LARGEST:
            break
    return body


def _encoded(told: EventAccount) -> bytes:
    return msgspec.json.encode(Body(version=VERSION, event=told))


def _event(event: Event, turn: TurnAccount | None = None, status: str = "sent") -> EventAccount:
    return EventAccount(
        id=event.id,
        type=one_line(event.type, _TEXT),
        subject=one_line(event.subject, _TEXT),
        source=one_line(event.source, _TEXT),
        correlation=event.correlation_id,
        causation=event.causation_id or "",
        data="" if event.data is None else short(event.data, _DATA),
        status=status,
        turns=() if turn is None else (turn,),
    )


def _turn(outcome: Outcome, share: int = 1) -> TurnAccount:
    """Return what came of a turn; so much less is told of its runs and effects."""
    most = _MOST_RUNS // share
    runs = [run for number, run in enumerate(outcome.runs) if number < most or run.error is not None][: 2 * most]
    retry_at = _moment(outcome.retry_at)
    failed = outcome.error is not None
    return TurnAccount(
        time=_moment(outcome.time),
        rule=outcome.rule,
        runs=_Runs(runs, max(1, _MOST_EFFECTS // share)).outermost(),
        error="" if outcome.error is None else error_text(outcome.error),
        place=place_of_error(outcome.error),
        fate="" if not failed else "retry" if retry_at else "parked" if outcome.parked else "dead letter",
        retry_at=retry_at,
        left_out=len(outcome.runs) - len(runs),
    )


class _Runs:
    """The runs of one turn, each reaction with the change that led to it."""

    def __init__(self, runs: Sequence[RuleRun], most: int) -> None:
        self._most = most
        owner = {id(change): run for run in runs for change in run.changes[:most]}
        depths: dict[int, int] = {}
        self._reactions: dict[int, list[RuleRun]] = {}
        self._outermost: list[RuleRun] = []
        for run in runs:
            parent = owner.get(id(run.change))
            depth = 0 if parent is None else depths.get(id(parent), 0) + 1
            if parent is None or depth > _DEEPEST:
                self._outermost.append(run)
                depth = 0
            else:
                self._reactions.setdefault(id(run.change), []).append(run)
            depths[id(run)] = depth

    def outermost(self) -> tuple[RunAccount, ...]:
        return tuple(self._run(run, because=self._because(run)) for run in self._outermost)

    @staticmethod
    def _because(run: RuleRun) -> str:
        if not run.property or not run.cause:
            return ""
        return one_line(f"{run.property} was changed by {run.cause}", _TEXT)

    def _run(self, run: RuleRun, because: str = "") -> RunAccount:
        retry_at = _moment(run.retry_at)
        fate = ""
        if run.error is not None:
            fate = "handled" if run.handled else "retry" if retry_at else "parked" if run.parked else "dead letter"
        effects = (run.changes, run.messages, run.timers, run.cancelled, run.refused)
        return RunAccount(
            rule=run.rule,
            status=run.status,
            attempt=run.attempt,
            because=because,
            tests=run.tests,
            why=_why(run),
            error="" if run.error is None else error_text(run.error),
            place=place_of_error(run.error),
            fate=fate,
            handled_by=run.handled_by,
            retry_at=retry_at,
            changes=tuple(self._change(change) for change in run.changes[: self._most]),
            messages=tuple(_event(event) for event in run.messages[: self._most]),
            timers=tuple(_timer(timer) for timer in run.timers[: self._most]),
            cancelled=tuple(one_line(key, _TEXT) for key in run.cancelled[: self._most]),
            refused=tuple(error_text(error) for error in run.refused[: self._most]),
            left_out=sum(max(0, len(some) - self._most) for some in effects),
        )

    def _change(self, change: Change) -> ChangeAccount:
        is_deleted = change.kind != "changed"
        return ChangeAccount(
            kind=change.kind,
            property=one_line(change.property, _TEXT),
            old="" if change.kind == "flushed" else short(change.old),
            new="" if is_deleted else short(change.new),
            muted=change.muted,
            reactions=tuple(self._run(run) for run in self._reactions.get(id(change), ())),
        )


def _why(run: RuleRun) -> str:
    """Say what kept a rule from running, as far as there are no notes that do."""
    if run.status == "stopped":
        return f"middleware {run.stopped_by} did not go on"
    if run.tests or run.status not in ("skipped", "failed"):
        return ""
    if run.condition is None:
        return "the values do not fit its trigger" if run.status == "skipped" else ""
    did = "did not hold" if run.status == "skipped" else "raised"
    return f"condition {condition_text(run.condition.test)} {did}"


def _timer(timer: Timer) -> TimerAccount:
    key = "" if timer.key == timer.event.id else one_line(timer.key, _TEXT)
    return TimerAccount(key=key, due=_moment(timer.due), event=_event(timer.event))


def _moment(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat()}Z"
