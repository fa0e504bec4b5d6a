"""Emitting from within a turn, however deep: the event is the turn's own, and leaves with its commit.

Belongs here: what the running code is part of, and what it emits there. It must not know how a bus works.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onwhen.engine.context import Context
from onwhen.engine.events import Event
from onwhen.engine.outcomes import Receipt
from onwhen.engine.subjects import Subject
from onwhen.engine.turns import RUNNING

__all__ = ["record", "running"]


def running(family: object) -> Context[Any] | None:
    """Return the run that the running code is part of, on a rulebook of a family; None if there is none."""
    ctx = RUNNING.get()
    while ctx is not None:
        turn = ctx.turn
        if not turn.is_over and turn.bus.rulebook.family is family:
            return ctx
        ctx = turn.within
    return None


def record(
    ctx: Context[Any],
    event: str | Event,
    subject: str | Subject | None,
    data: Any,
    extensions: Mapping[str, str | int | bool] | None,
) -> Receipt:
    """Let a run emit what was to be emitted through the bus; of a whole event, all but its id, source and time."""
    if isinstance(event, Event):
        recorded = ctx.emit(
            event.type,
            event.data,
            event.subject,
            extensions=event.extensions or None,
            datacontenttype=event.datacontenttype,
            dataschema=event.dataschema,
        ).event
    else:
        recorded = ctx.emit(event, data, subject, extensions=extensions).event
    assert recorded is not None
    return Receipt(recorded, "recorded")
