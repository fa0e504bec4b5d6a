"""An order runs through its cascade, and the receipt shows the way."""

from examples.krules_patterns.orders import container, emit


async def test_a_submitted_order_is_shipped() -> None:
    """One `emit` outside returns when the last message of the chain is handled."""
    async with container.event_bus() as bus:
        async with container.subject("order-1") as order:
            order.set("total", 12.5)
        receipt = await emit("order.submitted", "order-1")
        assert [one.event.type for one in receipt.walk()] == [
            "order.submitted",
            "order.validated",
            "payment.completed",
            "order.shipped",
        ]
        assert (await bus.read("order-1")).get("status") == "shipped"


async def test_an_empty_order_goes_no_further() -> None:
    """The first link ends the chain."""
    async with container.event_bus() as bus:
        async with container.subject("order-2") as order:
            order.set("total", 0)
        receipt = await emit("order.submitted", "order-2")
        assert receipt.cascade == []
        assert not (await bus.read("order-2")).has("status")


async def test_all_that_follows_from_an_order_is_correlated() -> None:
    """Each message knows what caused it, and what everything began with."""
    async with container.event_bus():
        async with container.subject("order-3") as order:
            order.set("total", 1)
        receipt = await emit("order.submitted", "order-3")
        events = [one.event for one in receipt.walk()]
        assert {event.correlation_id for event in events} == {receipt.event.id}
        assert [event.causation_id for event in events[1:]] == [event.id for event in events[:-1]]
