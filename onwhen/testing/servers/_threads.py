"""An event loop in a thread of its own, for what has to go on while a test blocks.

Belongs here: the thread. It must not know what runs in it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, Final, TypeVar

__all__ = ["Loop"]

_T = TypeVar("_T")
_SECONDS: Final = 20.0


class Loop:
    """An event loop in a thread.

    Args:
        name: of the thread.
    """

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def start(self) -> None:
        """Let it run."""
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run something in it, from another thread, and return what that returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_SECONDS)

    def stop(self) -> None:
        """End it; what still runs is dropped."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_SECONDS)
        self._loop.close()
