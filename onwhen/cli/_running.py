"""Running rules on a store for a command, and telling what came of it.

Belongs here: a bus's life within one command. It must not know what the command is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

from onwhen.cli._app import find_app, make_bus
from onwhen.cli._forms import clean, cut, shortly
from onwhen.cli._opening import to_write
from onwhen.cli._options import UsageError
from onwhen.engine.bus import EventBus
from onwhen.engine.outcomes import Receipt
from onwhen.errors import StoreError

__all__ = ["rules_on", "say_what_came"]

_GRACE: Final = 1.0  # seconds for what is under way when a command is cut short; the rest is handled another time
_ERROR: Final = 300  # characters of an error that are shown (a count)


@asynccontextmanager
async def rules_on(url: str | None, app: str) -> AsyncIterator[EventBus]:
    """Open a bus with the rules of an app on a store; it also handles what is pending there.

    On leaving, all that was accepted is handled, but for what waits for a timer or a retry; unless an error, or Ctrl-C,
    has cut it short.

    Raises:
        UsageError: the store cannot be opened, or is in use; the message says so.
        AppNotFound: APP names nothing that holds rules.
    """
    rules = find_app(app)
    bus = make_bus(rules, store=await to_write(url))
    try:
        try:
            await bus.start()
        except StoreError as error:
            raise UsageError(str(error)) from error
        yield bus
        await bus.close()
    except BaseException:
        await _let_go(bus)
        raise


async def _let_go(bus: EventBus) -> None:
    """Close the store, so that it does not look as if we had crashed, however long a rule may still take."""
    try:
        with suppress(TimeoutError, StoreError):
            async with asyncio.timeout(_GRACE):
                await bus.close()
    finally:
        await bus.store.close()


def say_what_came(of: str, receipt: Receipt) -> None:
    """Print, on a line of its own, what came of something that was run once more."""
    print(clean(f"{of}: {_told(receipt)}"), flush=True)


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
