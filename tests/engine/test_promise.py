"""Promises: answers that come later, and are told in the moment in which they come."""

import asyncio
from typing import Any

import pytest

from onwhen.engine.promise import Promise


def test_who_asked_is_told_in_the_moment_of_the_answer() -> None:
    """No event loop has to turn for that."""
    promise: Promise[int] = Promise()
    told: list[int] = []
    promise.then(lambda kept: told.append(kept.result()))
    assert not told
    assert not promise.is_kept
    promise.keep(7)
    assert told == [7]


def test_who_asks_after_the_answer_is_told_at_once() -> None:
    """Also why there is none."""
    promise: Promise[int] = Promise()
    promise.fail(LookupError("gone"))
    told: list[Any] = []
    promise.then(told.append)
    assert told == [promise]
    with pytest.raises(LookupError, match="gone"):
        promise.result()


async def test_a_promise_can_be_awaited_before_and_after_its_answer() -> None:
    """Like a future."""
    promise: Promise[str] = Promise()

    async def waits() -> str:
        return await promise

    waiting = asyncio.create_task(waits())
    await asyncio.sleep(0)
    assert not waiting.done()
    promise.keep("now")
    assert await waiting == "now"
    assert await promise == "now"


async def test_whoever_is_cancelled_while_he_waits_leaves_the_answer_alone() -> None:
    """It comes all the same, and nobody is disturbed by it."""
    promise: Promise[int] = Promise()

    async def waits() -> int:
        return await promise

    waiting = asyncio.create_task(waits())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    promise.keep(1)
    assert await promise == 1


async def test_an_error_is_raised_to_who_awaits() -> None:
    """The very one."""
    promise: Promise[int] = Promise()
    promise.fail(OSError("no answer"))
    with pytest.raises(OSError, match="no answer"):
        await promise
