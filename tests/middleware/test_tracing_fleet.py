"""Traces of a fleet: two workers over Redis and an emitter, whose spans meet at a collector that is really there."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

import onwhen
from onwhen import EventBus, create_redis_storage
from onwhen.middleware import Tracing
from onwhen.testing.servers import RedisServer
from tests.cli.fleets import Started
from tests.middleware.traced_orders import PARCELS, provider_for

APP = "tests.middleware.traced_orders:bus"


class Received(NamedTuple):
    """A span, and what was said of the process that it comes from."""

    span: Span
    service: str


class Collector:
    """A receiver of OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Received] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                assert self.headers["Content-Type"] == "application/x-protobuf"
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            service = next(one.value.string_value for one in resource.resource.attributes if one.key == "service.name")
            for scope in resource.scope_spans:
                self.spans.extend(Received(span, service) for span in scope.spans)

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def environment(redis_server: RedisServer, key_prefix: str, collector: Collector) -> Mapping[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ONWHEN_", "OTEL_"))}
    return {
        **kept,
        "PYTHONPATH": str(Path(onwhen.__file__).parents[1]),
        "ONWHEN_STORE": redis_server.url,
        "ONWHEN_KEY_PREFIX": key_prefix,
        "ONWHEN_PARTITIONS": "4",
        "TRACES_TO": collector.url,
    }


@pytest.fixture
def workers(environment: Mapping[str, str], tmp_path: Path) -> Iterator[list[Started]]:
    started = []
    try:
        for own in ("0,2", "1,3"):
            traced = {**environment, "TRACED_AS": f"worker {own}"}
            started.append(Started(["worker", APP, "--own", own], tmp_path, traced))
            started[-1].says("owns 2 of 4 partitions")
        yield started
    finally:
        for worker in started:
            worker.end()


async def test_a_cascade_over_subjects_and_processes_is_one_connected_trace(
    workers: list[Started], collector: Collector, redis_server: RedisServer, key_prefix: str
) -> None:
    """From the request in which an event is emitted to the last rule, every span but the first has its parent there."""
    provider = provider_for("shop", collector.url)
    store = create_redis_storage(redis_server.url, key_prefix)
    bus = EventBus(store=store)
    bus.use(Tracing(provider))
    async with bus, asyncio.timeout(30):
        with provider.get_tracer("shop").start_as_current_span("POST /orders"):
            receipt = await bus.append("order.taken", "order:1")
        expected = 3 + 4 * PARCELS
        while len(collector.spans) < expected:
            await asyncio.sleep(0.02)
    provider.shutdown()

    spans = {span.span_id: span for span, _ in collector.spans}
    assert len(spans) == expected
    assert len({span.trace_id for span in spans.values()}) == 1

    def way(span: Span) -> str:
        return f"{way(spans[span.parent_span_id])} > {span.name}" if span.parent_span_id else span.name

    taken = "POST /orders > process order.taken > orders.pack"
    packed = f"{taken} > process parcel.packed > orders.send"
    sent = f"{packed} > process parcel.sent > orders.count"
    ways = [way(span) for span in spans.values()]
    assert (ways.count(taken), ways.count(packed), ways.count(sent)) == (1, PARCELS, PARCELS)
    assert {service for _, service in collector.spans} == {"shop", "worker 0,2", "worker 1,3"}
    crossing = [
        (service, parent)
        for span, service in collector.spans
        for other, parent in collector.spans
        if other.span_id == span.parent_span_id and service != parent
    ]
    assert {("worker 0,2", "worker 1,3"), ("worker 1,3", "worker 0,2")} <= set(crossing)
    first = next(span for span in spans.values() if span.name == "process order.taken")
    told = {one.key: one.value.string_value for one in first.attributes}
    assert (told["messaging.system"], told["cloudevents.event_id"]) == ("onwhen", receipt.event.id)
    assert first.kind == Span.SPAN_KIND_CONSUMER
