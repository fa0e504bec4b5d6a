"""How a run ends that does not end well: late, with the program, or cancelled.

Belongs here: telling these apart from a rule's own failure. It must not know what a failure leads to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from onwhen.errors import RuleTimeout

__all__ = ["ends_the_program", "ends_the_turn", "timed"]


async def timed(work: Awaitable[None], rule: str, seconds: float) -> None:
    """Bound a run in time; a rule or a middleware that swallows its cancellation is late all the same."""
    scope = asyncio.timeout(seconds)
    try:
        async with scope:
            await work
    except TimeoutError as error:
        if not scope.expired():
            raise
        raise RuleTimeout(rule, seconds) from error
    if scope.expired():
        raise RuleTimeout(rule, seconds)


def ends_the_program(error: BaseException) -> bool:
    """Tell whether an error is never a rule's failure; to be asked in the `except` that has caught it.

    A rule may raise GeneratorExit too. When a coroutine is closed, a new one is raised in each of its frames, where it
    waits; one that something inside has raised comes with the frames that it has left.
    """
    if isinstance(error, GeneratorExit):
        return error.__traceback__ is not None and error.__traceback__.tb_next is None
    return isinstance(error, KeyboardInterrupt | SystemExit)


def ends_the_turn(error: BaseException) -> bool:
    """Tell whether the program ends, or the engine's own task is cancelled; a rule may raise CancelledError too."""
    if not isinstance(error, asyncio.CancelledError):
        return ends_the_program(error)
    try:
        task = asyncio.current_task()
    except RuntimeError:  # there is no event loop, so nobody who could cancel
        return False
    return task is not None and task.cancelling() > 0
