"""What workers over Redis are seen to do: the same records, events of failures and traces as on a bus."""

import asyncio
import io
import json
import logging
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from onwhen import Context, EventBus, RuleSet, Worker, create_redis_storage, partition_of
from onwhen.middleware import Debug, ErrorEvents, Logging, Tracing
from onwhen.middleware.logging import JsonFormatter
from onwhen.testing.servers import RedisServer

orders = RuleSet("orders")


@orders.on("order.taken")
def charge(ctx: Context) -> None:
    raise ValueError("card refused")


@orders.on("error.handler_failed")
def note(ctx: Context) -> None:
    ctx.subject.set("failed", ctx.payload["subject"])


async def test_two_workers_tell_what_they_do_as_a_bus_does(redis_server: RedisServer, key_prefix: str) -> None:
    """Logged with their partitions, told as an event, traced as one, and printed; each by the worker that did it."""

    def new_bus() -> EventBus:
        return EventBus(orders, store=create_redis_storage(redis_server.url, key_prefix, partitions=4))

    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    own = partition_of("order:1", 4)
    workers, logs, prints = [], [], []
    for shares in ({own}, set(range(4)) - {own}):
        lines, printed = io.StringIO(), io.StringIO()
        handler = logging.StreamHandler(lines)
        handler.setFormatter(JsonFormatter())
        logger = logging.Logger("worker", logging.INFO)  # noqa: LOG001, one that no other test meets
        logger.addHandler(handler)
        bus = new_bus()
        for middleware in (Logging(logger), Tracing(provider), Debug(stream=printed)):
            bus.use(middleware)
        bus.use(ErrorEvents(subject="errors:all"))
        workers.append(Worker(bus, own=shares))
        logs.append(lines)
        prints.append(printed)

    assert partition_of("errors:all", 4) != own, "another subject has to be taken for this test"
    producer = EventBus(store=create_redis_storage(redis_server.url, key_prefix))
    producer.use(Tracing(provider))
    async with workers[0], workers[1], producer, asyncio.timeout(30):
        receipt = await producer.emit("order.taken", "order:1")
        await receipt.handled(timeout=20)
        while "error.handler_failed" not in logs[1].getvalue():
            await asyncio.sleep(0.02)

    told: list[list[dict[str, Any]]] = [[json.loads(line) for line in log.getvalue().splitlines()] for log in logs]
    rows = [[(one["event_type"], one["rule"], one["outcome"], one["partition"]) for one in log] for log in told]
    assert rows[0] == [
        ("order.taken", "orders.charge", "failed", own),
        ("order.taken", None, "handled", own),
    ]
    assert rows[1] == [("error.handler_failed", None, "handled", partition_of("errors:all", 4))]
    assert {one["correlation_id"] for log in told for one in log} == {receipt.event.correlation_id}
    assert "orders.charge failed in" in prints[0].getvalue()
    assert 'failed: null -> "order:1"' in prints[1].getvalue()
    spans = {span.context.span_id: span for span in exporter.get_finished_spans()}
    parents = {one.name: spans[one.parent.span_id].name for one in spans.values() if one.parent is not None}
    assert parents == {
        "process order.taken": "emit",
        "orders.charge": "process order.taken",
        "process error.handler_failed": "process order.taken",
        "orders.note": "process error.handler_failed",
    }
