"""How a run ends that does not end well: late, with the program, or cancelled.

Belongs here: telling these apart from a rule's own failure. It must not know what a failure leads to.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Callable, Generator
from typing import Any, Final

from onwhen.errors import RuleTimeout

__all__ = ["TAKEN_AWAY", "ends_the_loop", "ends_the_program", "ends_the_turn", "is_taken_away", "timed"]

TAKEN_AWAY: Final = "the turn is not this worker's any more"
"""What a cancellation says by which the engine itself ends turns, as when it hands a partition over."""


_ENDED: Final = object()


def timed(
    work: Awaitable[object], what: object, seconds: float, loop: asyncio.AbstractEventLoop
) -> Awaitable[None] | None:
    """Begin a run that is bounded in time, and return what is left of it to be awaited.

    One that does not suspend cannot be interrupted, and costs next to nothing.

    Args:
        work: what is run.
        what: which rule or turn it is; its text is for the error.
        seconds: how long it may take.
        loop: the running event loop.

    Returns:
        The rest, which raises `RuleTimeout` if it takes longer, also if the run swallows its cancellation. None if
        nothing is left.
    """
    began = loop.time()
    steps = work.__await__()
    waits_for = next(steps, _ENDED)
    return None if waits_for is _ENDED else _bounded(steps, waits_for, what, seconds, began + seconds)


async def _bounded(
    steps: Generator[Any, Any, Any], waits_for: Any, what: object, seconds: float, deadline: float
) -> None:
    scope = asyncio.timeout_at(deadline)
    try:
        async with scope:
            await _rest(steps, waits_for)
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise RuleTimeout(str(what), seconds) from error
    if scope.expired():
        raise RuleTimeout(str(what), seconds)


@types.coroutine
def _rest(steps: Generator[Any, Any, None], waits_for: Any) -> Generator[Any, Any, None]:
    """Go on with what has suspended, as if it had been awaited here from the start."""
    step: Callable[[Any], Any]
    while True:
        try:
            value = yield waits_for
        except GeneratorExit:
            steps.close()
            raise
        except BaseException as error:
            step, value = steps.throw, error
        else:
            step = steps.send
        try:
            waits_for = step(value)
        except StopIteration:
            return


def ends_the_loop(loop: asyncio.AbstractEventLoop) -> bool:
    """Tell whether all tasks were cancelled, as at the end of a program, and not only one; to be asked once one is."""
    return all(task.cancelling() for task in asyncio.all_tasks(loop))


def ends_the_program(error: BaseException) -> bool:
    """Tell whether an error is never a rule's failure; to be asked in the `except` that has caught it.

    A rule may raise GeneratorExit too. When a coroutine is closed, a new one is raised in each of its frames, where it
    waits; one that something inside has raised comes with the frames that it has left.
    """
    if isinstance(error, GeneratorExit):
        return error.__traceback__ is not None and error.__traceback__.tb_next is None
    return isinstance(error, KeyboardInterrupt | SystemExit)


def is_taken_away(error: BaseException) -> bool:
    """Tell whether the engine itself has ended the turn; it has done nothing wrong, and another worker runs it."""
    return isinstance(error, asyncio.CancelledError) and TAKEN_AWAY in error.args


def ends_the_turn(error: BaseException) -> bool:
    """Tell whether the program ends, or the engine's own task is cancelled; a rule may raise CancelledError too."""
    if not isinstance(error, asyncio.CancelledError):
        return ends_the_program(error)
    try:
        task = asyncio.current_task()
    except RuntimeError:  # there is no event loop, so nobody who could cancel
        return False
    return task is not None and task.cancelling() > 0
