"""A rule that fails becomes an event, and the event a subject of the dead letter queue."""

import logging
from collections.abc import AsyncIterator

import pytest

from examples.krules_patterns.error_events import container
from onwhen import Context, EventBus, RuleSet, VirtualClock, create_memory_storage


@pytest.fixture
async def bus() -> AsyncIterator[EventBus]:
    """The example's rules and middleware, on an empty store and a clock that stands still."""
    async with container.event_bus().twin(store=create_memory_storage(), clock=VirtualClock()) as bus:
        yield bus


async def test_a_failure_becomes_an_event(bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
    """The middleware handled the error, so nothing is retried; what the rule did is undone all the same."""
    with caplog.at_level(logging.ERROR):
        receipt = await bus.emit("order.submitted", "order-1")
    assert caplog.messages == ["Error in order.submitted: card refused"]
    (run,) = receipt.runs
    assert (run.status, run.handled, str(run.error)) == ("failed", True, "card refused")
    assert [event.type for event in run.messages] == ["error.handler_failed"]
    assert (await bus.read("order-1")).dict() == {}
    assert [letter async for letter in bus.dead_letters()] == []


async def test_the_dead_letter_queue_is_made_of_subjects(bus: EventBus) -> None:
    """One per failure, with all that the error event said."""
    receipt = await bus.emit("order.submitted", "order-1")
    failed = receipt.sent[0]
    queue = [record.name async for record in bus.store.subjects("dlq-")]
    assert queue == [f"dlq-{failed.id}"]
    assert (await bus.read(queue[0])).dict() == {
        "original_event": "order.submitted",
        "error": "card refused",
        "subject_name": "order-1",
        "timestamp": "1970-01-01T00:00:00+00:00",
    }


async def test_an_error_handler_that_fails_itself_does_not_go_on_for_ever(bus: EventBus) -> None:
    """Its failure is an error event too, which it fails on again; the engine ends that and names the cycle."""
    broken = RuleSet("broken")

    @broken.on("error.handler_failed")
    async def notify(ctx: Context) -> None:
        raise ConnectionError("no mail server")

    bus.include(broken)
    await bus.emit("order.submitted", "order-1")
    (letter,) = [letter async for letter in bus.dead_letters() if letter.event.type == "error.handler_failed"]
    assert letter.failure.type == "onwhen.errors.CascadeLimit"
    assert "broken.notify -> error.handler_failed -> broken.notify" in letter.failure.message
