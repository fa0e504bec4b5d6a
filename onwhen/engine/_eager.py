"""Start a coroutine now, in this call, and let it cost a task only if it suspends.

Belongs here: one trick with asyncio's tasks and nothing of the engine. Most turns never suspend, and a task with
its trip through the event loop costs several times what starting such a turn does; see
`docs/decisions/0002-eager-turns.md`.

How it works. A few tasks wait, idle. To start a coroutine, one of them is made the current task, as task
implementations may (asyncio documentation, "Extending", task lifetime support), and the coroutine is stepped once by
hand. If that ends it, nothing else has happened. If it suspends, the idle task takes it over from there; because it
was the current task from the first step on, `asyncio.timeout`, task groups and cancel scopes that were entered
meanwhile belong to the right task. The starting task is never part of it, so cancelling the caller leaves the
coroutine alone.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Coroutine, Generator
from contextvars import Context
from typing import Any, Final, TypeAlias

__all__ = ["EagerStarter"]

_ENDED: Final = object()

Steps: TypeAlias = Generator[Any, Any, None]
"""A coroutine as the generator that `await` goes through."""


class EagerStarter:
    """Starts coroutines on an event loop, and keeps idle tasks for that.

    Whoever starts a coroutine has to make sure that it handles its own errors: an error that leaves it before it
    has suspended is raised by `start`, one after that ends up in the loop's exception handler.

    Args:
        loop: the event loop; `start` is called on its thread.
    """

    __slots__ = ("_busy", "_idle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._idle: list[_Runner] = []
        self._busy: set[_Runner] = set()  # a loop holds its tasks weakly

    def start(self, coroutine: Coroutine[Any, Any, None], context: Context) -> None:
        """Run a coroutine up to its end, or to where it first suspends; then it goes on by itself.

        Args:
            coroutine: what to run; it returns nothing.
            context: its context variables; nobody else may be using this very object.
        """
        loop = self._loop
        runner = self._take()
        caller = asyncio.current_task(loop)
        if caller is not None:
            asyncio._leave_task(loop, caller)
        asyncio._enter_task(loop, runner.task)
        steps = coroutine.__await__()
        try:
            waits_for = context.run(next, steps, _ENDED)  # to raise and catch StopIteration would take as long again
        except BaseException:
            self._idle.append(runner)
            raise
        else:
            if waits_for is _ENDED:
                self._idle.append(runner)
            else:
                self._busy.add(runner)
                runner.adopt(steps, waits_for, context)
        finally:
            asyncio._leave_task(loop, runner.task)
            if caller is not None:
                asyncio._enter_task(loop, caller)

    def cancel(self, why: str | None = None) -> None:
        """Cancel what was started and has not ended; `why` is what its CancelledError says."""
        for runner in tuple(self._busy):
            runner.task.cancel(why)

    def close(self) -> None:
        """End the idle tasks; those that are at work end when they are done."""
        idle, self._idle = self._idle, []
        for runner in idle:
            runner.task.cancel()

    def _take(self) -> _Runner:
        while self._idle:
            runner = self._idle.pop()
            if not runner.task.done() and not runner.task.cancelling():  # else: it was meant to end, so let it
                return runner
        return _Runner(self, self._loop)

    def lose(self, runner: _Runner) -> None:
        """Note that a task has ended."""
        self._busy.discard(runner)


class _Runner:
    """A task that waits for a coroutine to carry on with."""

    __slots__ = ("_loop", "_starter", "_wake", "_work", "task")

    def __init__(self, starter: EagerStarter, loop: asyncio.AbstractEventLoop) -> None:
        self._starter = starter
        self._loop = loop
        self._work: tuple[Steps, Any, Context] | None = None
        self._wake: asyncio.Future[None] | None = None
        coroutine = self._run()
        coroutine.send(None)  # up to its first rest; cancelled before its own first step, a task would drop its work
        context = Context()  # an empty one, or the task would keep alive what the first to start something has in his
        self.task: asyncio.Task[None] = context.run(self._create_task, coroutine)
        self.task.add_done_callback(self._ended, context=context)
        self._mind_pending(False)

    def _create_task(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._loop.create_task(coroutine, name="onwhen-turns")

    def adopt(self, steps: Steps, waits_for: Any, context: Context) -> None:
        """Carry on with a coroutine that has suspended."""
        if asyncio.isfuture(waits_for):
            waits_for._asyncio_future_blocking = False  # as a task does when it is given one; others may wait for it
        self._work = (steps, waits_for, context)
        self._mind_pending(True)
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    async def _run(self) -> None:
        rest: Awaitable[None] = _step_aside()
        cancelled: asyncio.CancelledError | None = None
        while self._work is None and cancelled is None:
            try:
                await rest
            except asyncio.CancelledError as error:
                cancelled = error
            rest = self._wake = self._loop.create_future()
        if self._work is not None:
            # Then it ends: whoever has kept hold of this task must not cancel what somebody else waits for.
            work, self._work = self._work, None
            await _carry_on(*work, cancelled)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._starter.lose(self)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):  # anything else has left the loop itself already
            details = {"message": "a coroutine that was started failed", "exception": error, "task": task}
            self._loop.call_exception_handler(details)

    def _mind_pending(self, mind: bool) -> None:
        """Say whether it is worth a warning if the loop ends while the task waits."""
        self.task._log_destroy_pending = mind  # type: ignore[attr-defined]


@types.coroutine
def _step_aside() -> Generator[None, Any, None]:
    """Suspend for one step."""
    yield


@types.coroutine
def _carry_on(
    steps: Steps,
    waits_for: Any,
    context: Context,
    cancelled: asyncio.CancelledError | None,
) -> Generator[Any, Any, None]:
    """Go on with a coroutine that has suspended, each step in its own context.

    Args:
        steps: what was started.
        waits_for: what it handed out when it suspended.
        context: its context variables.
        cancelled: set if the task was cancelled since; it is passed on as a task does, to what is waited for, or
            if that is not to be cancelled, to the coroutine.
    """
    error: BaseException | None = cancelled
    if asyncio.isfuture(waits_for):
        waits_for._asyncio_future_blocking = True  # what tells the task that it was awaited, not yielded
        if error is not None and waits_for.cancel(*error.args):
            error = None
    value: Any = None
    while True:
        if error is None:
            try:
                value = yield waits_for
            except GeneratorExit:
                context.run(steps.close)  # the loop is gone, and this is being cleared away; perhaps that was before
                raise
            except BaseException as raised:
                error = raised
        try:
            waits_for = context.run(steps.send, value) if error is None else context.run(steps.throw, error)
        except StopIteration:
            return
        error = None
