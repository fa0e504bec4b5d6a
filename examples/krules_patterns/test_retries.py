"""Three ways to try again; none of these tests waits."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from examples.krules_patterns import retries
from examples.krules_patterns.retries import api_client, by_policy, sleeping, timed
from onwhen import Container, EventBus, VirtualClock, create_memory_storage

Start = Callable[[Container, list[int]], Any]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start an engine of the example on an empty store and a clock that is moved by hand; script the service."""
    async with AsyncExitStack() as stack:

        async def start(container: Container, statuses: list[int]) -> EventBus:
            api_client.statuses[:] = statuses
            twin = container.event_bus().twin(store=create_memory_storage(), clock=VirtualClock())
            return await stack.enter_async_context(twin)

        yield start


# -- a handler that sleeps -----------------------------------------------------------------------------------------


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long the handler wanted to sleep each time, in seconds; it does not."""
    naps: list[float] = []

    async def sleep(seconds: float) -> None:
        naps.append(seconds)

    monkeypatch.setattr(retries, "sleep", sleep)
    return naps


async def test_a_handler_can_retry_by_itself(start: Start, naps: list[float]) -> None:
    """After two failures with growing waits, the third call succeeds."""
    bus = await start(sleeping, [503, 503, 200])
    receipt = await bus.emit("api.call", "client-1")
    assert [one.event.type for one in receipt.walk()] == ["api.call"] * 3
    assert naps == [2, 4]
    client = await bus.read("client-1")
    assert client.dict() == {"retry_count": 0, "last_success": "1970-01-01T00:00:00+00:00"}


async def test_a_handler_can_give_up_by_itself(start: Start, naps: list[float]) -> None:
    """At the third failure it says so, and its condition lets no further call through."""
    bus = await start(sleeping, [503, 503, 500])
    receipt = await bus.emit("api.call", "client-1")
    *_, last = receipt.walk()
    assert (last.event.type, last.event.data) == ("api.call_failed", {"error": "API error: 500", "retries": 3})
    again = await bus.emit("api.call", "client-1")
    assert [run.status for run in again.runs] == ["skipped"]


# -- a timer -----------------------------------------------------------------------------------------------------


async def test_a_timer_retries_when_it_is_due(start: Start) -> None:
    """Not before: two seconds after the first failure, and four after the second."""
    bus = await start(timed, [503, 503, 200])
    receipt = await bus.emit("api.call", "client-1")
    assert [timer.due - bus.clock.now() for timer in receipt.timers] == [timedelta(seconds=2)]
    await bus.advance(timedelta(seconds=1.9))
    assert len(api_client.statuses) == 2
    await bus.advance(timedelta(seconds=0.1))
    assert len(api_client.statuses) == 1
    await bus.advance(timedelta(seconds=4))
    assert (await bus.read("client-1")).get("last_success") == "1970-01-01T00:00:06+00:00"


async def test_a_timer_lets_other_events_through(start: Start) -> None:
    """While the retry waits, the subject is free."""
    bus = await start(timed, [503])
    await bus.emit("api.call", "client-1")
    receipt = await bus.emit("client.seen", "client-1")
    assert receipt.status == "handled"


async def test_the_last_timer_tells_that_it_failed(start: Start) -> None:
    """After the third failure there is a message, and nothing waits any more."""
    bus = await start(timed, [503, 503, 500])
    failed: list[Any] = []
    bus.observe(lambda outcome: failed.append(outcome.event.data) if outcome.event.type == "api.call_failed" else None)
    await bus.emit("api.call", "client-1")
    await bus.advance(timedelta(seconds=6))
    assert failed == [{"error": "API error: 500", "retries": 3}]
    assert bus.next_due is None


# -- the policy ----------------------------------------------------------------------------------------------------


async def test_a_policy_retries_without_a_word_in_the_rule(start: Start) -> None:
    """The same waits of two and four seconds, and no count among the subject's properties."""
    bus = await start(by_policy, [503, 503, 200])
    receipt = await bus.emit("api.call", "client-1")
    (run,) = receipt.runs
    assert run.retry_at is not None
    assert run.retry_at - bus.clock.now() == timedelta(seconds=2)
    await bus.advance(timedelta(seconds=6))
    assert (await bus.read("client-1")).dict() == {"last_success": "1970-01-01T00:00:06+00:00"}


async def test_when_a_policy_gives_up_the_event_is_kept_and_can_be_replayed(start: Start) -> None:
    """Nothing that was accepted is lost: once the service is back, the dead letter is handled after all."""
    bus = await start(by_policy, [503, 503, 503, 200])
    await bus.emit("api.call", "client-1")
    await bus.advance(timedelta(seconds=6))
    (letter,) = [letter async for letter in bus.dead_letters()]
    assert (letter.attempts, letter.failure.message) == (3, "API error: 503")
    await bus.replay(letter.id)
    assert (await bus.read("client-1")).has("last_success")
    assert [letter async for letter in bus.dead_letters()] == []
