"""Start and end tracing in a process, as the settings say."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from config.settings import BadSettings, Settings
from seckill.spans import SPANS, FinishedSpan

#: At the end, spans that still wait get so long; a collector that does not answer holds nothing up.
FLUSH_S = 2.0


class SpanSink(Protocol):
    """What takes the spans of a process."""

    def take(self, span: FinishedSpan) -> None:
        """Take a span at once, or count it as dropped."""

    def close(self) -> None:
        """Send what waits; it may take long."""


@contextmanager
def tracing(settings: Settings, service: str) -> Iterator[None]:
    """Trace as the settings say; `service` is the process's kind, such as `gateway`.

    Raise BadSettings if tracing is on and the SDK is not installed.
    """
    if settings.trace_rate is None:
        yield
        return
    sink = _sink(settings, service)
    SPANS.start(sink.take, rate=settings.trace_rate, slow_s=settings.trace_slow_s)
    try:
        yield
    finally:
        SPANS.stop()
        # The SDK gives an export half a minute. The thread is a daemon: the process does not wait.
        closing = threading.Thread(target=sink.close, daemon=True, name="last spans")
        closing.start()
        closing.join(FLUSH_S)


def _sink(settings: Settings, service: str) -> SpanSink:
    try:
        # Here alone: with tracing off, OpenTelemetry costs neither memory nor time to start.
        from seckill.tracing.export import Export
    except ImportError as error:
        raise BadSettings(
            f"SECKILL_TRACE_RATE is set, and {error.name} is not installed; "
            "type: pip install 'seckill-gateway[otel]', or leave the setting out"
        ) from error
    return Export(service, to_collector=bool(settings.otlp_endpoint), file=settings.spans_file())
