"""Subjects outside a turn: loaded, changed and committed in one piece, again and again until nobody interferes.

It must not know how a bus handles what such a commit sends; it asks the bus to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from onwhen.engine.events import Event
from onwhen.engine.occurrences import change_data, event_type_of
from onwhen.engine.outcomes import Receipt
from onwhen.engine.partitions import partition_of
from onwhen.engine.state import ABSENT, Operation, State
from onwhen.engine.store import Answer, Commit
from onwhen.engine.subjects import Subject
from onwhen.errors import StoreConflict

if TYPE_CHECKING:
    from onwhen.engine.bus import EventBus

__all__ = ["StoreSession"]

_MAX_TRIES: Final = 100  # each failed one means that somebody else succeeded


class StoreSession:
    """Loads and stores subjects through a bus.

    Args:
        bus: whose store it is, and who handles the property events.
    """

    __slots__ = ("_bus",)

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus

    async def load(self, cls: type[Subject], name: str) -> State:
        """Return the subject's state as it is stored now, ready to note what is asked of it."""
        await self._bus.opened()
        state = cls._state_of(await self._bus.store.load(name))
        state.operations = []
        return state

    async def store(self, cls: type[Subject], state: State) -> tuple[State, Sequence[Receipt]]:
        """Commit what was asked of a state; return it as it is then, and receipts of the events that it sent."""
        state.collect()
        asked, name = state.operations or [], state.name
        for _ in range(_MAX_TRIES):
            write, events = state.write(), self._events(cls, state)
            if write is None and not events:
                state.operations = []
                return state, ()
            commit = Commit(
                partition=partition_of(name, self._bus.store.partitions),
                subject=name,
                version=state.version,
                write=write,
                messages=events,
                cancel_all=state.flushed,
                id=str(uuid4()),
            )
            result, is_first_answer, receipts = await self._bus.commit_outside(commit)
            if result.answer is Answer.OK:
                if not is_first_answer:
                    return await self.load(cls, name), receipts
                state.committed(write, result.version)
                state.operations = []
                return state, receipts
            state = await self.load(cls, name)
            self._ask_again(state, asked)
        raise StoreConflict(f"{name} moved on {_MAX_TRIES} times while it was stored; try again later")

    def _ask_again(self, fresh: State, asked: Sequence[Operation]) -> None:
        """Do to a fresh state what was done to an older one."""
        for verb, name, value, muted, extra in asked:
            if verb == "set":
                fresh.set(name, value, muted, extra)
            elif verb == "delete":
                fresh.delete(name, muted, extra)
            elif verb == "set_ext":
                fresh.set_ext(name, value)
            elif verb == "delete_ext":
                fresh.delete_ext(name)
            elif verb == "flush":
                fresh.flush()
            else:
                self._replace(fresh, verb, name, *value)

    @staticmethod
    def _replace(fresh: State, verb: str, name: str, new: object, old: object) -> None:
        bag = fresh.properties if verb == "replace" else fresh.ext
        now, encode = bag.read(name), bag.codec.encode
        # The texts are compared, because values that read differently may be equal: 1 and True.
        if now is ABSENT or encode(fresh.name, name, now) != encode(fresh.name, name, old):
            raise StoreConflict(
                f"{fresh.name}: {name} was changed in place, and meanwhile by somebody else; use set({name!r}, "
                f"function), which is applied again to the newer value"
            )
        if verb == "replace":
            fresh.set(name, new)
        else:
            fresh.set_ext(name, new)

    def _events(self, cls: type[Subject], state: State) -> list[Event]:
        subject, now, source = cls._of(state), self._bus.clock.now(), self._bus.source
        stamps = self._bus.rulebook.stamped(None)
        events = [
            Event(
                event_type_of(change),
                state.name,
                change_data(subject, change),
                time=now,
                source=source,
                extensions=stamps,
            )
            for change in state.changes
            if not change.muted
        ]
        for event in events:
            event.check_size(self._bus.limits.max_event_bytes)
        return events
