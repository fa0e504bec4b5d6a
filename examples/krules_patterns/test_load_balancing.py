"""Consumers share the work, and no count is lost between them."""

import asyncio

from examples.krules_patterns.load_balancing import Queue, consume_from_queue, container, emit_to_queue


async def test_consumers_share_the_queue() -> None:
    """Each message is handled by one of three; views of one page are added one after the other."""
    queue = Queue()
    async with container.event_bus() as bus, asyncio.timeout(10):
        for number in range(90):
            await emit_to_queue(queue, "page.viewed", container.subject(f"page-{number % 2}"), {"views": number})
        for _ in range(3):
            await queue.send(None)
        counts = await asyncio.gather(*(consume_from_queue(queue) for _ in range(3)))
        assert sum(counts) == 90
        assert min(counts) > 0
        views = [(await bus.read(f"page-{number}")).get("views") for number in range(2)]
    assert views == [sum(range(0, 90, 2)), sum(range(1, 90, 2))]
