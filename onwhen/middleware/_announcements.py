"""Events about a middleware's own doings, sent with a turn: each is said until a turn that says it is committed.

Belongs here: what is still to be said, and which turn is trying. It must not know what it is about.

A middleware can only send with the turn that it is part of, and what it sends may be undone: the turn is run again on
newer state, or fails as a whole, or what it is wrapped around fails in another way than the rule's function did, by a
time-out for instance. So what was not committed is said again by the next run that comes by.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from onwhen.engine.events import Event

if TYPE_CHECKING:
    from onwhen.engine.context import Context
    from onwhen.engine.outcomes import Outcome

__all__ = ["Announcements"]

_MOST: Final = 1_000  # that are still to be said (a count)
_LONG: Final = 300.0  # seconds; for turns without a deadline


@dataclass(slots=True, eq=False)
class _Announcement:
    type: str
    subject: str
    data: dict[str, Any]
    turn: str = ""  # id of the event whose turn is trying
    sent: Event | None = None  # how it does
    patience: float = 0.0  # until when (seconds, monotonic); a turn that another worker has taken over says nothing


class Announcements:
    """What is still to be said through one bus, oldest first; of more than a thousand the oldest are forgotten.

    Attributes:
        owed: that; empty if there is nothing to `say`.
    """

    __slots__ = ("_end", "owed")

    def __init__(self) -> None:
        self.owed: deque[_Announcement] = deque(maxlen=_MOST)
        self._end: Callable[[], None] | None = None

    def add(self, type: str, subject: str, data: dict[str, Any]) -> None:
        """Note what is to be said; `say` says it."""
        self.owed.append(_Announcement(type, subject, data))

    def say(self, ctx: Context[Any]) -> bool:
        """Send what no other turn is sending; tell whether this one is sending anything."""
        if not self.owed:
            return False
        turn, log, now, says = ctx.turn.event.id, ctx._effects.state.log, time.monotonic(), False
        for one in tuple(self.owed):
            # In the turn that has sent it already, it may have been undone meanwhile.
            is_undone = one.turn == turn and not any(entry is one.sent for entry in log)
            if not one.turn or is_undone or one.patience < now:
                one.turn, one.sent = turn, ctx.emit(one.type, one.data, one.subject).event
                one.patience = now + (ctx.bus.limits.turn_timeout or _LONG)
                if one.sent is not None and one.sent.depth > ctx.bus.limits.max_depth:
                    self.owed.remove(one)  # its chain is too long, so it is a dead letter already
            says = says or one.turn == turn
        if self._end is None:
            self._end = ctx.bus.observe(self._look)
        return says

    def _look(self, outcome: Outcome) -> None:
        """Take note of a turn that is committed, with what it was to say or without it."""
        for one in [one for one in self.owed if one.turn == outcome.event.id]:
            if any(one.sent is message for run in outcome.runs for message in run.messages):
                self.owed.remove(one)
            else:
                one.turn, one.sent = "", None
        if not self.owed and self._end is not None:
            self._end()
            self._end = None
