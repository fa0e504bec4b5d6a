"""Load balancing: producers put events into a queue, several consumers take them out and emit them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from onwhen import Container, Context, Subject

container = Container()
on, when, middleware, emit = container.handlers()


class Queue:
    """Stands in for a message queue."""

    def __init__(self) -> None:
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

    async def send(self, message: dict[str, Any] | None) -> None:
        """Put a message in; None tells one consumer that it is done."""
        await self._messages.put(message)

    async def receive(self) -> AsyncIterator[dict[str, Any]]:
        while (message := await self._messages.get()) is not None:
            yield message


# Producer
async def emit_to_queue(queue: Queue, event_type: str, subject: Subject, payload: dict[str, Any]) -> None:
    """Emit event to message queue."""
    message = {"event_type": event_type, "subject_name": subject.name, "payload": payload}
    await queue.send(message)


# Consumer (multiple instances)
async def consume_from_queue(queue: Queue) -> int:
    """Process events from queue; return how many."""
    count = 0
    async for message in queue.receive():
        subject = container.subject(message["subject_name"])
        await emit(message["event_type"], subject, message["payload"])
        count += 1
    return count


@on("page.viewed")
async def count_view(ctx: Context) -> None:
    await asyncio.sleep(0)  # work that waits for something, so that the consumers take turns
    ctx.subject.set("views", lambda n: (n or 0) + ctx.payload["views"])
