"""A small collector of OpenTelemetry: it takes traces by OTLP/HTTP and keeps their spans."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from seckill.tracing.span_file import StoredSpan


@dataclass
class Collector:
    """What came, and the address to send it to."""

    url: str = ""
    spans: list[StoredSpan] = field(default_factory=list)

    def of_order(self, order_id: str) -> list[StoredSpan]:
        """Return the spans of the traces that name an order as theirs."""
        traces = {
            s.trace_id for s in self.spans if s.attributes.get("seckill.order_id") == order_id
        }
        return [s for s in self.spans if s.trace_id in traces]

    async def take(self, request: web.Request) -> web.Response:
        """Answer an export."""
        body = await request.read()
        if request.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        sent = ExportTraceServiceRequest.FromString(body)
        for of_resource in sent.resource_spans:
            resource = {
                each.key: each.value.string_value for each in of_resource.resource.attributes
            }
            for scope in of_resource.scope_spans:
                self.spans += [_stored(span, resource) for span in scope.spans]
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(),
            content_type="application/x-protobuf",
        )


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector."""
    collector, app = Collector(), web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    collector.url = f"http://{host}:{port}"
    yield collector
    await runner.cleanup()


def _stored(span: Span, resource: dict[str, str]) -> StoredSpan:
    return StoredSpan(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex() or None,
        name=span.name,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        service=resource["service.name"],
        process=resource["service.instance.id"],
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        error=span.status.message if span.status.code == Status.STATUS_CODE_ERROR else None,
        attributes={a.key: getattr(a.value, a.value.WhichOneof("value")) for a in span.attributes},
        events={event.name: event.time_unix_nano for event in span.events},
        links=[f"{link.trace_id.hex()}-{link.span_id.hex()}" for link in span.links],
    )
