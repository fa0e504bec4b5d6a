"""Partitioning: of events that all instances are sent, each instance handles those whose subjects are its own.

Belongs here: which instance an event is for. It must not know where events come from, nor of the partitions of a store:
workers that share one need none of this.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from onwhen.engine import partitions as parts
from onwhen.engine.chain import Next
from onwhen.engine.context import Context
from onwhen.engine.events import Event
from onwhen.engine.turns import RUNNING
from onwhen.errors import MiddlewareError, RuleDefinitionError
from onwhen.middleware._options import positive_int

__all__ = ["Partitioning"]

_VARIABLE: Final = "ONWHEN_OWN"
_FORWARDED: Final = "onwhenforwarded"


class Partitioning:
    """Handles the events of some subjects, and leaves those of all others to other instances.

    For buses that are fed by a source that sends every event to every instance, each with a store of its own. An event
    for another instance is stopped around all rules, and the outcome says so; for one that is handled here,
    `ctx.get_metadata("partition")` is the number of its partition.

    Which partition a subject is in follows from its name (`onwhen.partition_of`), so all instances agree as long as all
    say the same number of partitions. If just one of them owns each partition, each event is handled once.

    What a rule sends to a subject of another instance has to go there: give `forward`. Without it such a message fails
    with an error, and is a dead letter; it is never dropped.

    Args:
        partitions: how many there are (a count), the same for all instances; some times more than instances, so that
            there may be more of these one day.
        own: the partitions that this instance owns: their numbers; or a text, as `0-3,7`, or `3/8` for the fourth of
            eight equal instances, or `worker-3/8`. By default what the environment variable ONWHEN_OWN says.
        of: how many equal instances there are; the place of this one is the number at the end of its host name, as
            in a StatefulSet. In place of `own`.
        forward: async function that puts an event, which a rule here has sent to a subject elsewhere, into the common
            source; called at least once. The event is marked, so that nobody forwards it again.

    Raises:
        RuleDefinitionError: it cannot be told what this instance owns.
    """

    scopes = ("event",)

    def __init__(
        self,
        partitions: int,
        *,
        own: str | int | Iterable[int] | None = None,
        of: int | None = None,
        forward: Callable[[Event], Awaitable[None]] | None = None,
    ) -> None:
        if own is not None and of is not None:
            raise RuleDefinitionError("Partitioning: own= and of= say the same; give one of them")
        if forward is not None and not callable(forward):
            raise RuleDefinitionError(f"Partitioning: forward={forward!r:.80} must be an async function of an event")
        self._partitions = positive_int(partitions, "Partitioning: partitions")
        self._forward = forward
        if of is not None:
            own = f"{socket.gethostname().partition('.')[0]}/{positive_int(of, 'Partitioning: of')}"
        self.own = self._owned(own)

    def _owned(self, own: str | int | Iterable[int] | None) -> frozenset[int]:
        what = "Partitioning: own"
        if own is None:
            own = os.environ.get(_VARIABLE)
            what = f"Partitioning: {_VARIABLE}"
            if own is None:
                raise RuleDefinitionError(
                    f"Partitioning: nothing says what this instance owns: give own=, of=, or set {_VARIABLE}"
                )
        if isinstance(own, str):
            try:
                return parts.owned(own, self._partitions)
            except ValueError as error:
                raise RuleDefinitionError(f"{what}={own!r:.80}: {error}") from None
        try:
            numbers = frozenset([own] if isinstance(own, int) else own)
        except TypeError:
            raise RuleDefinitionError(f"{what}={own!r:.80} must be numbers of partitions, or a text") from None
        wrong = [one for one in numbers if type(one) is not int or not 0 <= one < self._partitions]
        if wrong:
            raise RuleDefinitionError(
                f"{what}={own!r:.80}: there is no partition {wrong[0]!r}; there are {self._partitions}, from 0 on"
            )
        return numbers

    async def __call__(self, ctx: Context[Any], next: Next, /) -> None:
        """Go on if the subject is one of this instance's."""
        if ctx.rule is not None:
            raise MiddlewareError("Partitioning is for events: bus.use(Partitioning(...)), not for single rules")
        event = ctx.event
        partition = parts.partition_of(event.subject, self._partitions)
        ctx.set_metadata("partition", partition)
        if partition in self.own:
            await next()
        elif event.causation_id and event.source == ctx.bus.source and _FORWARDED not in event.extensions:
            if self._forward is None:
                raise MiddlewareError(
                    f"{event.type} to {event.subject} was sent by a rule of this instance, but its partition "
                    f"{partition} is another one's; give Partitioning a forward= that sends it to the common source"
                )
            # What goes to the common source is no turn's own, also if that leads back into this very bus.
            within = RUNNING.set(None)
            try:
                await self._forward(event.replace(extensions={**event.extensions, _FORWARDED: True}))
            finally:
                RUNNING.reset(within)
