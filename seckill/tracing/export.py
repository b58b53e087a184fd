"""Export of spans: the one module that imports OpenTelemetry.

Finished spans wait in a bounded queue. A thread writes them each second: as lines of a file, or as
OTLP over HTTP by the SDK's exporter. What does not fit the queue is dropped and counted. The queue
is ours and not that of the SDK, because a span costs the SDK some 10 us on the way into its own.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from seckill import metrics
from seckill.spans import Attributes, FinishedSpan, TraceContext
from seckill.tracing.span_file import SpanFile

#: Spans that may wait, some 10 MB: those of a second at 1,000 traced orders a second.
QUEUE_MAX = 8_192
#: Spans of one call of an exporter, as many as the SDK sends at once.
BATCH_MAX = 512
#: Between two exports. A person who looks for a trace has waited longer.
EVERY_S = 1.0
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)
_SCOPE = InstrumentationScope("seckill")

log = logging.getLogger(__name__)


class Export:
    """The queue, the thread and the exporters of a process (a `SpanSink`)."""

    def __init__(
        self,
        service: str,
        *,
        to_collector: bool,
        file: Path | None,
        more: Sequence[SpanExporter] = (),
    ) -> None:
        # The exporter logs each failed call. One line at the first is enough.
        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)
        # OTEL_RESOURCE_ATTRIBUTES add to these.
        resource = Resource.create(
            {
                "service.name": f"seckill-{service}",
                "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
            }
        )
        self._exporters: list[FileExport | SdkExport] = [SdkExport(e, resource) for e in more]
        if to_collector:  # its address, headers and keys: OTEL_EXPORTER_*
            self._exporters.append(SdkExport(OTLPSpanExporter(), resource))
        if file is not None:
            self._exporters.append(FileExport(SpanFile(file), resource))
        self._waiting: deque[FinishedSpan] = deque()
        self._is_failing = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="spans")
        self._thread.start()

    def take(self, span: FinishedSpan) -> None:
        """Queue a span, or drop it if QUEUE_MAX wait."""
        if len(self._waiting) >= QUEUE_MAX:
            metrics.SPANS.labels("dropped").inc()
        else:
            self._waiting.append(span)

    def close(self) -> None:
        """Send what waits, and end the thread."""
        self._ended.set()
        self._thread.join()
        for exporter in self._exporters:
            exporter.close()

    def _run(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._send()
        self._send()

    def _send(self) -> None:
        while self._waiting:
            size = min(len(self._waiting), BATCH_MAX)
            batch = [self._waiting[at] for at in range(size)]
            worked = [_works(exporter.send, batch) for exporter in self._exporters]
            for _ in batch:  # they counted as waiting until here
                self._waiting.popleft()
            self._count(size, failed=not all(worked))
            time.sleep(0)  # the process's own work goes first

    def _count(self, size: int, *, failed: bool) -> None:
        metrics.SPANS.labels("failed" if failed else "exported").inc(size)
        if failed and not self._is_failing:
            log.warning(
                "spans cannot be exported and are lost", extra={"event": "spans_not_exported"}
            )
        elif self._is_failing and not failed:
            log.warning("spans are exported again", extra={"event": "spans_exported_again"})
        self._is_failing = failed


class FileExport:
    """Writes spans as lines of JSON, for a shop without a collector."""

    def __init__(self, file: SpanFile, resource: Resource) -> None:
        self._file = file
        named = resource.attributes
        self._process = {
            "service": named["service.name"],
            "process": named["service.instance.id"],
        }

    def send(self, spans: Sequence[FinishedSpan]) -> bool:
        """Append a batch in one write; return True."""
        self._file.append([{**_line(span), **self._process} for span in spans])
        return True

    def close(self) -> None:
        """Keep nothing open: each append opens the file anew."""


class SdkExport:
    """Gives spans to an exporter of the SDK, in the SDK's form."""

    def __init__(self, exporter: SpanExporter, resource: Resource) -> None:
        self._exporter, self._resource = exporter, resource

    def send(self, spans: Sequence[FinishedSpan]) -> bool:
        """Export a batch; return whether it arrived."""
        readable = [self._readable(span) for span in spans]
        return self._exporter.export(readable) is SpanExportResult.SUCCESS

    def close(self) -> None:
        """End the exporter."""
        self._exporter.shutdown()

    def _readable(self, span: FinishedSpan) -> ReadableSpan:
        """Return a span as the exporters read it: its ids and times are decided already."""
        parent = TraceContext(span.context.trace_id, span.parent_id) if span.parent_id else None
        return ReadableSpan(
            span.name,
            _context(span.context),
            parent and _context(parent, is_remote=True),
            self._resource,
            _attributes(span),
            events=[Event(name, timestamp=ns) for name, ns in span.events],
            links=[Link(_context(link, is_remote=True)) for link in span.links],
            kind=SpanKind(span.kind.value),
            status=Status() if span.error is None else Status(StatusCode.ERROR, span.error),
            start_time=span.start_ns,
            end_time=span.end_ns,
            instrumentation_scope=_SCOPE,
        )


def _works(send: Callable[[Sequence[FinishedSpan]], bool], spans: Sequence[FinishedSpan]) -> bool:
    try:
        return send(spans)
    except Exception as error:  # of a disk, a network or a library: none of them may end a process
        log.debug("an exporter failed: %r", error)
        return False


def _attributes(span: FinishedSpan) -> Attributes:
    if span.error is None:
        return span.attributes
    return {"error.type": span.error.partition(":")[0] or "error", **span.attributes}


def _context(context: TraceContext, *, is_remote: bool = False) -> SpanContext:
    trace_id, span_id = int(context.trace_id, 16), int(context.span_id, 16)
    return SpanContext(trace_id, span_id, is_remote=is_remote, trace_flags=_SAMPLED)


def _line(span: FinishedSpan) -> Mapping[str, Any]:
    return {
        "trace_id": span.context.trace_id,
        "span_id": span.context.span_id,
        "parent_id": span.parent_id,
        "name": span.name,
        "kind": span.kind.name.lower(),
        "start_ns": span.start_ns,
        "end_ns": span.end_ns,
        "error": span.error,
        "attributes": _attributes(span),
        "events": dict(span.events),
        "links": [f"{link.trace_id}-{link.span_id}" for link in span.links],
    }
