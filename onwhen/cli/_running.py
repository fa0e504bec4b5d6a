"""Running rules on a store for a command, and telling what came of it.

Belongs here: a bus's life within one command. It must not know what the command is.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from typing import Final

from onwhen.cli._app import App, NamedApp, make_bus
from onwhen.cli._bookmarks import event_time
from onwhen.cli._fitting import Meant, Waiting, check_app, read_waiting
from onwhen.cli._forms import clean, cut, shortly
from onwhen.cli._listing import say
from onwhen.cli._opening import open_to, reading, to_write
from onwhen.engine.bus import EventBus
from onwhen.engine.clock import SystemClock, VirtualClock
from onwhen.engine.outcomes import Outcome, Receipt
from onwhen.engine.store import Store
from onwhen.errors import StoreError

__all__ = ["Running", "let_go", "rules_on"]

_GRACE: Final = 1.0  # seconds for what is under way when a command is cut short; the rest is handled another time
_ERROR: Final = 300  # characters of an error that are shown (a count)


class Running:
    """A bus that is open for a command, and what the command was asked to run on it.

    Attributes:
        bus: the bus.
        meant: what is to be run once more.
    """

    def __init__(self, bus: EventBus, meant: Sequence[Meant], waiting: Waiting) -> None:
        self.bus = bus
        self.meant = meant
        self._waiting = waiting
        self._others: Counter[str] = Counter()
        bus.observe(self._count)

    def say_what_came(self, of: str, receipt: Receipt) -> None:
        """Print, on a line of its own, what came of something that was run once more."""
        self._others.subtract(self._kind(each._outcome) for each in receipt.walk() if each._outcome is not None)
        print(clean(f"{of}: {_told(receipt)}"), flush=True)

    def say_what_else(self) -> None:
        """Tell how much was handled beside what was asked for, and what followed from that; nothing if nothing was."""
        told = [
            f"{number:,} {kind if number == 1 else many}"
            for kind, many in (("event", "events"), ("timer", "timers"), ("retry", "retries"))
            if (number := self._others[kind]) > 0
        ]
        if told:
            say(f"Handled as well, because it was pending: {', '.join(told)}.")

    def _count(self, outcome: Outcome) -> None:
        self._others[self._kind(outcome)] += 1

    def _kind(self, outcome: Outcome) -> str:
        if outcome.event.id in self._waiting.timers:
            return "timer"
        if outcome.event.id in self._waiting.retries or any(run.attempt > 1 for run in outcome.runs):
            return "retry"
        return "event"


@asynccontextmanager
async def rules_on(
    url: str | None, app: NamedApp, choose: Callable[[Store], Awaitable[Sequence[Meant]]], *, force: bool
) -> AsyncIterator[Running]:
    """Open a bus with the rules of an app on a store; it also handles what is pending there.

    All is looked at before: what is meant, and whether the app has rules for what would be handled. On leaving, all
    that was accepted is handled, but for what waits for a timer or a retry; unless an error, or Ctrl-C, has cut it
    short. A store that was filled in its events' own time stays in that: its clock stands where it stood.

    Args:
        url: where the store is; None for where the setting says.
        app: APP, found.
        choose: finds what is meant.
        force: go on even if no rule is for some of it.

    Raises:
        UsageError: the store cannot be opened, or is in use; something that is meant is not there; or it is not the
            right app. The message says so, and nothing was done.
    """
    async with reading(url) as store:
        meant, moment = await choose(store), await event_time(store)
        rulebook = make_bus(app.app, store=store).rulebook
        now = moment or SystemClock().now()
        waiting = await read_waiting(store, rulebook, now, is_virtual=moment is not None)
        if not force:
            check_app(app.name, rulebook, waiting, meant)
    running = Running(_bus(app.app, to_write(url, store.partitions), moment), meant, waiting)
    bus = running.bus
    try:
        await open_to(bus.start())
        yield running
        await bus.close()
    except BaseException:
        await let_go(bus)
        raise
    finally:
        running.say_what_else()


def _bus(rules: App, store: Store, moment: datetime | None) -> EventBus:
    """Return a bus; on a store that was filled in its events' own time, as a replay has it."""
    if moment is None:
        return make_bus(rules, store=store)
    bus = make_bus(rules, VirtualClock(moment), store)
    bus.limits = replace(bus.limits, max_concurrent_turns=1)
    return bus


async def let_go(bus: EventBus) -> None:
    """Close the store, so that it does not look as if we had crashed, however long a rule may still take."""
    try:
        with suppress(TimeoutError, StoreError):
            async with asyncio.timeout(_GRACE):
                await bus.close()
    finally:
        await bus.store.close()


def _told(receipt: Receipt) -> str:
    if receipt.ok:
        return "waits behind a retry of its subject" if receipt.status == "waiting" else "handled"
    rule, error = receipt.failures[0]
    what = cut(f"{type(error).__name__}: {error}", _ERROR)
    again = [run.retry_at for run in receipt.runs if run.retry_at is not None]
    if again:
        return f"failed again, to be retried at {shortly(again[0])}: {what}"
    if receipt.error is not None or any(run.error is not None for run in receipt.runs):
        return f"failed again: {what}"
    return f"handled, but what followed has failed: {rule or 'an event'}: {what}"
