"""Export: an in-memory exporter sees what was recorded; a broken one harms nothing."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind as OtelKind
from opentelemetry.trace import StatusCode

from seckill import metrics
from seckill.spans import FinishedSpan, SpanKind, TraceContext, trace_of_order
from seckill.tracing import export, tree
from seckill.tracing.export import Export
from seckill.tracing.span_file import SpanFile

ORDER = "019aab2f-4c00-8000-8005-5d3c1f0a2b7e"


def span(name: str = "work", parent_id: str | None = None, **fields) -> FinishedSpan:
    root = trace_of_order(ORDER)
    context = root if parent_id is None else root.child()
    return FinishedSpan(name, context, parent_id, 1_000_000_000, 3_000_000_000, **fields)


def counted(outcome: str) -> float:
    return metrics.SPANS.labels(outcome)._value.get()


def test_the_exporter_gets_ids_times_kinds_links_and_errors_as_they_were() -> None:
    memory, link = InMemorySpanExporter(), TraceContext("1" * 32, "2" * 16)
    sink = Export("gateway", to_collector=False, file=None, more=[memory])
    root = trace_of_order(ORDER)
    sink.take(
        span(
            parent_id=root.span_id,
            kind=SpanKind.CONSUMER,
            links=[link],
            error="TimedOut: late",
            attributes={"seckill.order_id": ORDER},
        )
    )
    sink.close()

    (found,) = memory.get_finished_spans()
    assert f"{found.context.trace_id:032x}" == ORDER.replace("-", "")
    assert f"{found.parent.span_id:016x}" == root.span_id
    assert (found.start_time, found.end_time) == (1_000_000_000, 3_000_000_000)
    assert found.kind is OtelKind.CONSUMER
    assert found.status.status_code is StatusCode.ERROR
    assert found.attributes["error.type"] == "TimedOut"
    assert f"{found.links[0].context.trace_id:032x}" == link.trace_id
    assert found.resource.attributes["service.name"] == "seckill-gateway"


def test_what_does_not_fit_the_queue_is_dropped_and_counted(monkeypatch) -> None:
    monkeypatch.setattr(export, "QUEUE_MAX", 2)
    begun, go_on = threading.Event(), threading.Event()

    class Stuck(SpanExporter):
        def export(self, spans):
            begun.set()
            go_on.wait(20)
            return SpanExportResult.SUCCESS

    sink, before = Export("x", to_collector=False, file=None, more=[Stuck()]), counted("dropped")
    for _ in range(10):
        sink.take(span())  # never waits
    assert counted("dropped") == before + 8
    go_on.set()
    sink.close()
    assert begun.is_set()


def test_an_exporter_that_fails_is_logged_once_and_counted(caplog) -> None:
    class Broken(SpanExporter):
        def export(self, spans):
            raise OSError("no space left")

    sink, before = Export("x", to_collector=False, file=None, more=[Broken()]), counted("failed")
    sink.take(span())
    sink.close()
    assert counted("failed") == before + 1
    assert [r.getMessage() for r in caplog.records if r.name == export.__name__] == [
        "spans cannot be exported and are lost"
    ]


def test_a_file_keeps_the_tree_of_an_order_and_is_bounded(tmp_path: Path) -> None:
    file, root = tmp_path / "deep" / "spans.jsonl", trace_of_order(ORDER)
    sink = Export("gateway", to_collector=False, file=file)
    sink.take(span("child", root.span_id))
    sink.take(span("root"))
    sink.close()
    with file.open("a") as more:
        more.write('{"trace_id": "cut by a full dis')

    (found,) = tree.of_order(SpanFile(file), ORDER)
    assert [(depth, each.name) for depth, each in found.walk()] == [(0, "root"), (1, "child")]
    assert file.stat().st_mode & 0o077 == 0, "for the user alone"

    small = SpanFile(file, size_max=100)
    small.append([{"x": "y" * 200}])
    assert not file.exists()
    assert small.older.exists()
    small.append([{"x": 1}])
    assert file.read_text() == '{"x":1}\n'


@pytest.mark.parametrize("text", ["", "\n", "{}"])
def test_a_file_that_is_not_ours_has_no_trace(tmp_path: Path, text: str) -> None:
    (tmp_path / "f").write_text(text)
    assert tree.of_order(SpanFile(tmp_path / "f"), ORDER) == []
    assert tree.of_order(SpanFile(tmp_path / "missing"), ORDER) == []
