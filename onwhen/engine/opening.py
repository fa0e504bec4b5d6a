"""Opening something once, for all who wait for it; and again, if it could not be opened.

Belongs here: who waits, and who is told of an error. It must not know what is opened, nor what follows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Generic, TypeVar

from onwhen.engine.dispatch import Dispatcher
from onwhen.engine.work import Work

__all__ = ["Opening"]

_T = TypeVar("_T")


class Opening(Generic[_T]):
    """Opens, and goes on with what was found.

    Args:
        dispatcher: on whose event loop; its `idle` waits meanwhile.
        context: context variables of all that follows.
        read: opens, and finds out what there is; if it fails, it is called again for whoever waits next.
        go_on: called with that.
        failed: called with the error if it failed.
    """

    def __init__(
        self,
        dispatcher: Dispatcher[Work],
        context: Context,
        read: Callable[[], Awaitable[_T]],
        go_on: Callable[[_T], Awaitable[None]],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._dispatcher = dispatcher
        self._context = context
        self._read = read
        self._go_on = go_on
        self._failed = failed
        self._opened: asyncio.Future[None] | None = None

    def begin(self) -> asyncio.Future[None]:
        """Open, if nobody has asked for that; return what is done when it is open."""
        opened = self._opened
        if opened is None:
            opened = self._opened = asyncio.get_running_loop().create_future()
            self._dispatcher.start(self._open(opened), self._context.copy())
        return opened

    async def _open(self, opened: asyncio.Future[None]) -> None:
        self._dispatcher.expect()
        try:
            try:
                found = await self._read()
            except BaseException as error:
                self._opened = None
                opened.set_exception(error)
                opened.exception()  # perhaps nobody waits for it any more
                self._failed(error)
                if not isinstance(error, Exception):
                    raise
                return
            opened.set_result(None)
            await self._go_on(found)
        finally:
            self._dispatcher.expected()
