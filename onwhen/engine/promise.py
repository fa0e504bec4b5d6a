"""An answer that comes later: awaited, or told to whoever asked in the very moment that it comes.

Belongs here: what a store may return where many answers come at once. It must not know what was asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

__all__ = ["Promise"]

_T = TypeVar("_T")


class Promise(Generic[_T]):
    """An answer to one who asked: a future's result, without a future's trip through the event loop.

    Whoever cancels what awaits it cancels the waiting only.
    """

    __slots__ = ("_error", "_result", "_then", "is_kept")

    def __init__(self) -> None:
        self.is_kept = False
        self._error: BaseException | None = None
        self._result: Any = None
        self._then: Callable[[Promise[_T]], None] | None = None

    def keep(self, result: _T) -> None:
        """Answer; whoever wants to be told is told before this returns."""
        self._result = result
        self._tell()

    def fail(self, error: BaseException) -> None:
        """Say why there is no answer."""
        self._error = error
        self._tell()

    def _tell(self) -> None:
        self.is_kept = True
        then, self._then = self._then, None
        if then is not None:
            then(self)

    def then(self, tell: Callable[[Promise[_T]], None]) -> None:
        """Have the one who asked told: when the answer comes, or at once if it has come."""
        if self.is_kept:
            tell(self)
        else:
            assert self._then is None
            self._then = tell

    def result(self) -> _T:
        """Return the answer, or raise why there is none."""
        if self._error is not None:
            raise self._error
        result: _T = self._result
        return result

    def __await__(self) -> Generator[Any, None, _T]:
        if not self.is_kept:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()

            def wake(_: Promise[_T]) -> None:
                if not waiter.done():  # else whoever waited was cancelled
                    waiter.set_result(None)

            self.then(wake)
            yield from waiter
        return self.result()
