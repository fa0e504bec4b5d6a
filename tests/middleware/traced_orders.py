"""An application whose traces go to a collector, as users write it: the APP `tests.middleware.traced_orders:bus`."""

from __future__ import annotations

import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from onwhen import Context, EventBus, RuleSet, create_memory_storage
from onwhen.middleware import Tracing

PARCELS = 8

orders = RuleSet("orders")


@orders.on("order.taken")
async def pack(ctx: Context) -> None:
    for number in range(PARCELS):
        await ctx.emit("parcel.packed", {"order": ctx.subject.name}, f"parcel:{number}")


@orders.on("parcel.packed")
async def send(ctx: Context) -> None:
    ctx.subject.set("by", os.getpid())
    await ctx.emit("parcel.sent", subject=ctx.payload["order"])


@orders.on("parcel.sent")
def count(ctx: Context) -> None:
    ctx.subject.set("sent", lambda sent: (sent or 0) + 1)


def provider_for(service: str, collector: str) -> TracerProvider:
    """Make what sends spans to a collector."""
    provider = TracerProvider(resource=Resource({"service.name": service}))
    exporter = OTLPSpanExporter(f"{collector}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=50))
    return provider


bus = EventBus(orders, store=create_memory_storage())
bus.use(Tracing())

if collector := os.environ.get("TRACES_TO"):
    trace.set_tracer_provider(provider_for(os.environ["TRACED_AS"], collector))
