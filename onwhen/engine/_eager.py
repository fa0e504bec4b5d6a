"""Start a coroutine now, in this call, and let it cost a task only if it suspends.

Belongs here: one trick with asyncio's tasks and nothing of the engine. Most turns never suspend, and a task with
its trip through the event loop costs several times what such a turn does.

How it works. A few tasks wait, idle. To start a coroutine, one of them is made the current task, as task
implementations may (asyncio documentation, "Extending", task lifetime support), and the coroutine is stepped once by
hand. If that ends it, nothing else has happened. If it suspends, the idle task takes it over from there; because it
was the current task from the first step on, `asyncio.timeout`, task groups and cancel scopes that were entered
meanwhile belong to the right task. The starting task is never part of it, so cancelling the caller leaves the
coroutine alone. Python 3.12 has eager tasks, which cost more than three times as much; 3.11 has none.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Final

__all__ = ["EagerStarter"]

_MAX_IDLE: Final = 32


class EagerStarter:
    """Starts coroutines on the running event loop, and keeps idle tasks for that.

    Whoever starts a coroutine has to make sure that it handles its own errors: an error that leaves it before it
    has suspended is raised by `start`, one after that ends up in the loop's exception handler.
    """

    __slots__ = ("_idle", "_loop")

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._idle: list[_Runner] = []

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine up to its end, or to where it first suspends; then it goes on by itself."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._loop, self._idle = loop, []
        runner = self._take(loop)
        caller = asyncio.current_task(loop)
        context = contextvars.copy_context()
        if caller is not None:
            asyncio._leave_task(loop, caller)
        asyncio._enter_task(loop, runner.task)
        try:
            waiting_for = context.run(coroutine.send, None)
        except StopIteration:
            self._idle.append(runner)
        except BaseException:
            self._idle.append(runner)
            raise
        else:
            runner.adopt(coroutine, waiting_for, context)
        finally:
            asyncio._leave_task(loop, runner.task)
            if caller is not None:
                asyncio._enter_task(loop, caller)

    def _take(self, loop: asyncio.AbstractEventLoop) -> _Runner:
        while self._idle:
            runner = self._idle.pop()
            if not runner.task.done():
                return runner
        return _Runner(self, loop)

    def give_back(self, runner: _Runner) -> bool:
        """Take a task back that has nothing to do; False if there are enough of them."""
        if runner.loop is not self._loop or len(self._idle) >= _MAX_IDLE:
            return False
        self._idle.append(runner)
        return True


class _Runner:
    """A task that waits for a coroutine to carry on with."""

    __slots__ = ("_starter", "_wake", "_work", "loop", "task")

    def __init__(self, starter: EagerStarter, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._starter = starter
        self._work: tuple[Coroutine[Any, Any, None], Any, contextvars.Context] | None = None
        self._wake: asyncio.Future[None] | None = None
        self.task: asyncio.Task[None] = loop.create_task(self._run(), name="onwhen-turns")
        self.task.add_done_callback(self._rescue)
        self._mind_pending(False)

    def adopt(self, coroutine: Coroutine[Any, Any, None], waiting_for: Any, context: contextvars.Context) -> None:
        """Carry on with a coroutine that has suspended."""
        self._work = (coroutine, waiting_for, context)
        self._mind_pending(True)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _run(self) -> None:
        while True:
            cancelled = False
            if self._work is None:
                self._wake = self.loop.create_future()
                try:
                    await self._wake
                except asyncio.CancelledError:
                    if self._work is None:
                        return  # the loop is being closed
                    cancelled = True
                finally:
                    self._wake = None
            if self._work is not None:
                work, self._work = self._work, None
                await _resume(*work, cancelled)
            self._mind_pending(False)
            if not self._starter.give_back(self):
                return

    def _rescue(self, task: asyncio.Task[None]) -> None:
        """Carry on elsewhere if the task was cancelled before its own first step, with work already adopted."""
        work, self._work = self._work, None
        if work is not None and not self.loop.is_closed():
            rescuer = self.loop.create_task(_as_coroutine(_resume(*work, True)))
            rescuer.add_done_callback(_consume)
        elif not task.cancelled():
            _consume(task)

    def _mind_pending(self, mind: bool) -> None:
        """Say whether it is worth a warning if the loop ends while the task waits."""
        self.task._log_destroy_pending = mind  # type: ignore[attr-defined]


@types.coroutine
def _resume(
    coroutine: Coroutine[Any, Any, None], waiting_for: Any, context: contextvars.Context, cancelled: bool
) -> Generator[Any, Any, None]:
    """Go on with a coroutine that suspended on `waiting_for`, each step in its own context."""
    if cancelled and asyncio.isfuture(waiting_for):
        waiting_for.cancel()
    while True:
        if asyncio.isfuture(waiting_for):
            waiting_for._asyncio_future_blocking = True  # another task may have waited for it since
        step: Callable[[Any], Any] = coroutine.send
        try:
            value = yield waiting_for
        except BaseException as error:
            step, value = coroutine.throw, error
        try:
            waiting_for = context.run(step, value)
        except StopIteration:
            return


async def _as_coroutine(generator: Any) -> None:
    await generator


def _consume(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": "a turn broke", "exception": error, "task": task})
