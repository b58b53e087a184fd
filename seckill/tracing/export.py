"""Export by the SDK of OpenTelemetry: the one module that imports it.

Spans wait in a bounded queue; a thread of the SDK sends them each second, as OTLP over HTTP or as
lines of a file. What does not fit the queue is dropped and counted.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from seckill import metrics
from seckill.spans import FinishedSpan, TraceContext
from seckill.tracing.span_file import SpanFile

#: Spans that may wait, some 10 MB: those of a second at 1,000 traced orders a second.
QUEUE_MAX = 8_192
#: The queue of the SDK, which is never full: QUEUE_MAX is counted before.
_SDK_QUEUE_MAX = 2 * QUEUE_MAX
#: Between two exports. A person who looks for a trace has waited longer.
SCHEDULE_MS = 1_000
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("seckill")

log = logging.getLogger(__name__)


class Export:
    """The exporters of a process (a `SpanSink`)."""

    def __init__(
        self,
        service: str,
        *,
        to_collector: bool,
        file: Path | None,
        more: Sequence[SpanExporter] = (),
    ) -> None:
        # The exporter logs each failed call. CountedExporter logs one line at the first.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        exporters = [*more]
        if to_collector:
            exporters.append(OTLPSpanExporter())  # its address, headers and keys: OTEL_EXPORTER_*
        if file is not None:
            exporters.append(FileExporter(SpanFile(file)))
        # OTEL_RESOURCE_ATTRIBUTES add to these.
        self._resource = Resource.create(
            {
                "service.name": f"seckill-{service}",
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        )
        self._counted = CountedExporter(exporters)
        self._taken = 0
        self._processor = BatchSpanProcessor(
            self._counted, max_queue_size=_SDK_QUEUE_MAX, schedule_delay_millis=SCHEDULE_MS
        )

    def take(self, span: FinishedSpan) -> None:
        """Queue a span, or drop it if QUEUE_MAX wait."""
        if self._taken - self._counted.sent >= QUEUE_MAX:
            metrics.SPANS.labels("dropped").inc()
            return
        self._taken += 1
        self._processor.on_end(self._readable(span))

    def close(self) -> None:
        """Send what waits, and end the thread."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _readable(self, span: FinishedSpan) -> ReadableSpan:
        """Return a span as the exporters read it: its ids and times are decided already."""
        parent = TraceContext(span.context.trace_id, span.parent_id) if span.parent_id else None
        attributes = dict(span.attributes)
        if span.error is not None:
            attributes.setdefault("error.type", span.error.partition(":")[0] or "error")
        return ReadableSpan(
            span.name,
            _context(span.context),
            parent and _context(parent, is_remote=True),
            self._resource,
            attributes,
            events=[Event(name, timestamp=ns) for name, ns in span.events],
            links=[Link(_context(link, is_remote=True)) for link in span.links],
            kind=SpanKind(span.kind.value),
            status=Status() if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=_SCOPE,
        )


class CountedExporter(SpanExporter):
    """Gives each batch to all exporters, and counts what became of it."""

    def __init__(self, exporters: Sequence[SpanExporter]) -> None:
        self._exporters = exporters
        #: Spans that have left the queue.
        self.sent = 0
        self._is_failing = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export a batch; no error of an exporter leaves this method."""
        results = [_exported(exporter.export, spans) for exporter in self._exporters]
        self.sent += len(spans)
        failed = SpanExportResult.FAILURE in results
        metrics.SPANS.labels("failed" if failed else "exported").inc(len(spans))
        if failed and not self._is_failing:
            log.warning(
                "spans cannot be exported and are lost", extra={"event": "spans_not_exported"}
            )
        elif self._is_failing and not failed:
            log.warning("spans are exported again", extra={"event": "spans_exported_again"})
        self._is_failing = failed
        return SpanExportResult.FAILURE if failed else SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """End the exporters."""
        for exporter in self._exporters:
            exporter.shutdown()


class FileExporter(SpanExporter):
    """Writes spans as lines of JSON, for a shop without a collector."""

    def __init__(self, file: SpanFile) -> None:
        self._file = file

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append a batch in one write."""
        self._file.append([_line(span) for span in spans])
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        """Keep nothing open: each append opens the file anew."""


def _exported(
    export: Callable[[Sequence[ReadableSpan]], SpanExportResult], spans: Sequence[ReadableSpan]
) -> SpanExportResult:
    try:
        return export(spans)
    except Exception as error:  # of a disk, a network or a library: none of them may end a process
        log.debug("an exporter failed: %r", error)
        return SpanExportResult.FAILURE


def _context(context: TraceContext, *, is_remote: bool = False) -> SpanContext:
    trace_id, span_id = int(context.trace_id, 16), int(context.span_id, 16)
    return SpanContext(trace_id, span_id, is_remote=is_remote, trace_flags=_SAMPLED)


def _line(span: ReadableSpan) -> dict[str, Any]:
    return {
        "trace_id": f"{span.context.trace_id:032x}",
        "span_id": f"{span.context.span_id:016x}",
        "parent_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": span.name,
        "kind": span.kind.name.lower(),
        "service": span.resource.attributes["service.name"],
        "process": span.resource.attributes["service.instance.id"],
        "start_ns": span.start_time,
        "end_ns": span.end_time,
        "error": span.status.description if span.status.status_code is StatusCode.ERROR else None,
        "attributes": dict(span.attributes or {}),
        "events": {event.name: event.timestamp for event in span.events},
        "links": [
            f"{link.context.trace_id:032x}-{link.context.span_id:016x}" for link in span.links
        ],
    }
