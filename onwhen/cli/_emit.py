"""`onwhen emit`: one event, typed by hand or sent by a script, into the log of a store.

Belongs here: what is sent, and what is told of it. It must not know who handles it, nor how.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Final

from onwhen.cli._ending import STALLED as TRY_AGAIN
from onwhen.cli._forms import clean, rfc3339
from onwhen.cli._given import json_given
from onwhen.cli._listing import Output, say, show_json
from onwhen.cli._opening import is_for_workers, writing
from onwhen.cli._options import UsageError, check_wait
from onwhen.engine.clock import SystemClock
from onwhen.engine.events import Event
from onwhen.engine.partitions import partition_of
from onwhen.engine.resend import insist
from onwhen.engine.shared import SharedStore, is_shared
from onwhen.engine.store import Accepted, Store
from onwhen.errors import StoreBusy, StoreError, StoreFull

__all__ = ["EmitOptions", "emit_event"]

_TRIES: Final = 5  # times that a store is asked (a count)
_FIRST_PAUSE: Final = 0.01  # seconds between two looks whether it is handled
_LONGEST_PAUSE: Final = 0.25  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class EmitOptions:
    """The arguments of `onwhen emit`; see there.

    Raises:
        UsageError: it cannot be waited for so long.
    """

    type: str
    subject: str
    data: str | None = None
    id: str | None = None
    time: str | None = None
    wait: float | None = None

    def __post_init__(self) -> None:
        if self.wait is not None:
            check_wait(self.wait)

    def event(self, now: datetime, source: str) -> Event:
        """Return the event that is meant.

        Args:
            now: its time, if none was given.
            source: CloudEvents source of what is emitted here.

        Raises:
            UsageError: its data or time cannot be read.
            InvalidEvent: it breaks CloudEvents.
        """
        moment = now if self.time is None else _moment(self.time)
        data = None if self.data is None else json_given(self.data, "--data")[0]
        return Event(self.type, self.subject, data, id=self.id, source=source, time=moment)


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--time {text!r}: is no moment; write it as 2026-03-02T08:00:00Z") from None
    if moment.tzinfo is None:
        raise UsageError(f"--time {text!r}: has no time zone; for UTC put a Z behind it")
    return moment


async def emit_event(url: str | None, options: EmitOptions, output: Output) -> int:
    """Send an event, and tell what has become of it.

    Returns:
        The exit code: 0; 1 if it was not handled in time; 75 if the store takes no more for now.

    Raises:
        UsageError: it cannot be sent as asked; nothing was sent.
        InvalidEvent: the event breaks CloudEvents, or is too large; nothing was sent.
        StoreError: the store failed, so it is not known whether the event was accepted.
    """
    from onwhen.settings import Settings

    settings = Settings()
    event = options.event(SystemClock().now(), settings.source)
    event.check_size(settings.max_event_bytes)
    if options.wait is not None and not is_for_workers(url):
        raise UsageError(
            "--wait is for a store that workers share; an event in a file is handled when your program opens it"
        )
    async with writing(url) as store:
        partition = partition_of(event.subject, store.partitions)
        try:
            [accepted] = await insist(_append(store, partition, event), _goes_on)
        except StoreBusy as error:
            say(f"onwhen: {error}")
            return TRY_AGAIN
        began = monotonic()
        status = "accepted" if accepted.is_new else "duplicate"
        if not output.as_json:
            print(clean(_told(event, partition, accepted)), flush=True)
        if options.wait is not None:
            assert is_shared(store)
            is_handled = await _is_handled(store, partition, accepted, began + options.wait)
            status = "handled" if is_handled else status
            if not output.as_json and is_handled and accepted.position is not None:
                print(f"handled after {monotonic() - began:.3f} s")
        if output.as_json:
            show_json(_facts(event, partition, accepted, status))
    if options.wait is not None and status != "handled":
        say(f"It is not handled yet, after {options.wait:g} s; it is when a worker comes to it.")
        return 1
    return 0


def _append(store: Store, partition: int, event: Event) -> Callable[[], Any]:
    return lambda: store.append(partition, [event])


def _goes_on(tries: int, error: StoreError) -> bool:
    return tries < _TRIES and not isinstance(error, StoreFull)


async def _is_handled(store: SharedStore, partition: int, accepted: Accepted, deadline: float) -> bool:
    """Wait until an event is pending no more; one that is not in the log now was handled before."""
    pause = _FIRST_PAUSE
    while accepted.position is not None and await store.pending(partition, [accepted.position]):
        if monotonic() >= deadline:
            return False
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return True


def _told(event: Event, partition: int, accepted: Accepted) -> str:
    if accepted.is_new:
        what = "accepted"
    else:
        what = "was accepted before" if accepted.position is not None else "was accepted before, and is not pending"
    return f"{event.type} to {event.subject}: {what}, id {event.id}, partition {partition}"


def _facts(event: Event, partition: int, accepted: Accepted, status: str) -> dict[str, Any]:
    return {
        "status": status,
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "subject": event.subject,
        "time": None if event.time is None else rfc3339(event.time),
        "partition": partition,
        "position": accepted.position,
    }
