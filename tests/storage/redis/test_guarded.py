"""All of it at once: workers and producers over TLS, as a user that may do nothing but what they need."""

from __future__ import annotations

import asyncio
import time

from onwhen import Context, EventBus, RuleSet, Worker, create_redis_storage
from onwhen.storage.redis._rights import rules
from onwhen.testing.servers import RedisServer

orders = RuleSet("orders")


@orders.on("paid")
async def book(ctx: Context) -> None:
    ctx.subject.set("paid", lambda cents: (cents or 0) + ctx.payload)
    await ctx.emit("thanked", subject="customer:1")


@orders.on("thanked")
def thank(ctx: Context) -> None:
    ctx.subject.set("thanks", lambda times: (times or 0) + 1)


async def test_rules_run_over_tls_with_the_fewest_rights() -> None:
    """What one process emits another handles, messages between partitions included."""
    with RedisServer(tls=True, acl=[f"app on >secret {rules('shop')}"]) as server:
        url = server.url_of("app", "secret")
        worker = Worker(EventBus(orders, store=create_redis_storage(url, "shop", partitions=4)))
        store = create_redis_storage(url, "shop", partitions=4)
        async with worker, EventBus(store=store) as producer:
            receipts = [await producer.emit("paid", f"order:{number % 5}", 10) for number in range(20)]
            for receipt in receipts:
                await receipt.handled(timeout=20)
            deadline = time.monotonic() + 20
            while (await store.load("customer:1")).properties.get("thanks") != b"20":
                assert time.monotonic() < deadline
                await asyncio.sleep(0.02)
            found = [record.properties async for record in store.subjects("order:")]
            assert found == [{"paid": b"40"}] * 5
