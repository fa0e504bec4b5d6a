"""What the code of a turn has asked for so far: messages, timers and changes, and how to undo them.

Belongs here: the record behind every `Context` of one turn. It must not know which rules there are, in which
order they run, or what a failure leads to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from onwhen.engine import cascades
from onwhen.engine.events import Event
from onwhen.engine.limits import Limits
from onwhen.engine.state import State
from onwhen.engine.store import Timer
from onwhen.engine.subjects import Subject
from onwhen.errors import SubjectStateError

if TYPE_CHECKING:
    from onwhen.engine.context import Context

__all__ = ["BEGINNING", "Effects", "Mark"]

Mark: TypeAlias = tuple[tuple[int, int, int, int], int, int, int]
"""A savepoint of a turn: of its subject's state, and how many messages, timers and refused messages there were."""

BEGINNING: Final[Mark] = ((0, 0, 0, 0), 0, 0, 0)


class Effects:
    """All that one turn will store or send, if it is committed.

    Attributes:
        subject: the subject of the turn.
        now: the moment at which the turn began, aware UTC.
        source: CloudEvents source of what is emitted.
        around: what stands in for a rule's id where the middleware around the whole event does something; another
            one in a turn that repeats a rule, so that no two turns on one event derive the same event ids.
        messages: what will be sent.
        timers: what will be set, or the key of what will be cancelled; each with how often the subject had been
            deleted by then, because that cancels the timers that were set before.
        refused: messages whose chain is too long to send them.
        is_over: the turn has ended; nothing can be asked for any more.
    """

    __slots__ = (
        "_limits", "_read", "around", "is_over", "messages", "now", "refused", "source", "state", "subject", "timers",
    )  # fmt: skip

    def __init__(
        self,
        subject: Subject,
        state: State,
        *,
        limits: Limits,
        now: datetime,
        source: str,
        around: str,
        read: Callable[[str], Awaitable[Subject]],
    ) -> None:
        self.subject = subject
        self.state = state
        self.now = now
        self.source = source
        self.around = around
        self.messages: list[Event] = []
        self.timers: list[tuple[int, Timer | str]] = []
        self.refused: list[Event] = []
        self.is_over = False
        self._limits = limits
        self._read = read

    # -- what a context asks for

    def emit(
        self,
        ctx: Context[Any],
        event_type: str,
        data: Any,
        subject: str | Subject | None,
        due: datetime | None,
        key: str | None,
        extensions: Mapping[str, str | int | bool] | None,
    ) -> Event:
        """Record a message, or a timer that is `due` some time."""
        self._check_open("emit")
        own, limit = self.state.name, self._limits.max_depth
        target = own if subject is None else subject if isinstance(subject, str) else subject.name
        cause, rule = ctx.event, ctx.rule.id if ctx.rule is not None else self.around
        index, ctx._index = ctx._index, ctx._index + 1
        # Time passes until a timer fires, so one that sets itself again and again is a schedule and not a runaway.
        starts_anew = due is not None and due > self.now
        if not starts_anew and (trail := cascades.trail(cause, limit, rule, event_type)) is not None:
            extensions = {**(extensions or {}), cascades.TRAIL: trail}
        event = Event.caused_by(
            cause,
            rule,
            ctx.attempt,
            index,
            event_type,
            target,
            data,
            source=self.source,
            time=due or self.now,
            extensions=extensions,
            depth=0 if starts_anew else None,
        )
        event.check_size(self._limits.max_event_bytes)
        if event.depth > limit:
            self.refused.append(event)
        elif due is None:
            self.messages.append(event)
        else:
            event.detach()
            self.timers.append((self._flushes(), Timer(subject=own, key=key or event.id, due=due, event=event)))
        return event

    def cancel(self, key: str) -> None:
        """Record that a timer is cancelled."""
        self._check_open("cancel")
        self.timers.append((self._flushes(), key))

    async def read(self, name: str) -> Subject:
        """Return a read-only snapshot of a subject."""
        return await self._read(name)

    def _check_open(self, verb: str) -> None:
        if self.is_over:
            raise SubjectStateError(
                f"ctx.{verb} after the turn of {self.state.name} has ended; await what the rule starts, or emit "
                f"through the bus"
            )

    # -- keeping and undoing

    def mark(self) -> Mark:
        """Return a savepoint."""
        return self.state.mark(), len(self.messages), len(self.timers), len(self.refused)

    def undo(self, mark: Mark = BEGINNING) -> None:
        """Undo all that was done since a savepoint."""
        state, messages, timers, refused = mark
        self.state.rollback(state)
        del self.messages[messages:]
        del self.timers[timers:]
        del self.refused[refused:]

    def latest_timers(self) -> list[Timer | str]:
        """Return the last word on each timer: set, or cancelled by its key."""
        flushes = self._flushes()
        latest: dict[str, Timer | str] = {}
        for flushes_before, timer in self.timers:
            if flushes_before == flushes:
                latest[timer if isinstance(timer, str) else timer.key] = timer
        return list(latest.values())

    def _flushes(self) -> int:
        if not self.state.flushed:
            return 0
        return sum(change.kind == "flushed" for change in self.state.changes)
