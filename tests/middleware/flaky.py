"""A service outside that is down when it is told to be, and rules that call it from several workers.

The rules are the APP: `tests.middleware.flaky:shop`. They find the service by `FLAKY_PORT`.
"""

from __future__ import annotations

import asyncio
import os
import socketserver
import threading
import time
from contextlib import suppress
from datetime import timedelta
from typing import Any

from onwhen import Context, RetryPolicy, RuleSet
from onwhen.middleware import CircuitBreaker, Deduplication, RateLimit

APP = "tests.middleware.flaky:shop"
RATE = 40.0  # calls in a second
BURST = 4
FAILURES = 4
OPEN_FOR = 1.0  # seconds
PROBE_FOR = 3.0  # seconds
LOOK = 0.05  # seconds

shop = RuleSet("shop")


@shop.on(
    "order.sent",
    middleware=[
        CircuitBreaker("service", failures=FAILURES, open_for=OPEN_FOR, probe_for=PROBE_FOR, look=LOOK, shared=True),
        RateLimit(RATE, per=1, burst=BURST, name="service", shared=True),
    ],
    retry=RetryPolicy(attempts=20, delay=timedelta(seconds=0.05), factor=1, jitter=0.5),
)
async def send(ctx: Context) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["FLAKY_PORT"]))
    try:
        writer.write(ctx.subject.name.encode() + b"\n")
        if (await reader.readline()).strip() != b"ok":
            raise ConnectionError("the service is down")
    finally:
        writer.close()
    ctx.subject.set("sent", lambda times: (times or 0) + 1)


@shop.on("order.paid", middleware=[Deduplication(lambda ctx: str(ctx.payload), shared=True)])
async def pay(ctx: Context) -> None:
    await asyncio.sleep(0.01)
    ctx.emit("paid", ctx.payload, "ledger")


@shop.on("paid")
def enter(ctx: Context) -> None:
    ctx.subject.set("paid", [*ctx.subject.get("paid", []), ctx.payload])


@shop.on("circuit.*")
def note(ctx: Context) -> None:
    ctx.subject.set("changes", [*ctx.subject.get("changes", []), [ctx.payload["time"], ctx.payload["status"]]])


class Service:
    """The service, in a thread for each call.

    Attributes:
        calls: of each call: when it came and when it was answered (seconds), who called, and whether it was served.
        under_way: who waits for an answer.
        is_down: what comes fails, after `hold`.
        hold: how long a call takes that fails (seconds).
    """

    def __init__(self) -> None:
        self.calls: list[tuple[float, float, str, bool]] = []
        self.under_way: list[str] = []
        self.is_down = False
        self.hold = 0.2
        service = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                name, came, serves = self.rfile.readline().decode().strip(), time.monotonic(), not service.is_down
                service.under_way.append(name)
                if not serves:
                    time.sleep(service.hold)
                service.under_way.remove(name)
                service.calls.append((came, time.monotonic(), name, serves))
                with suppress(OSError):  # who has called may be dead by now
                    self.wfile.write(b"ok\n" if serves else b"no\n")

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    def __enter__(self) -> Service:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
