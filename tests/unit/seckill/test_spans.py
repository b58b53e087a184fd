"""Contexts and spans: what travels, what is recorded, and that off is off."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from config.settings import PROJECT_ROOT
from seckill import messages, spans
from seckill.inventory.reservations import Grab
from seckill.spans import (
    LATE_MAX_PER_S,
    LINKS_MAX,
    FinishedSpan,
    SpanKind,
    Spans,
    TraceContext,
    parse_traceparent,
    trace_of_order,
)

ORDER = "019aab2f-4c00-8000-8005-5d3c1f0a2b7e"
SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
def recorded(monkeypatch) -> list[FinishedSpan]:
    """Trace into a list."""
    found: list[FinishedSpan] = []
    under_test = Spans()
    under_test.start(found.append, rate=1.0, slow_s=0.1)
    for module in (spans,):
        monkeypatch.setattr(module, "SPANS", under_test)
    return found


def test_a_sampled_traceparent_is_read_and_written_as_it_was() -> None:
    context = parse_traceparent(SAMPLED)
    assert context is not None
    assert context.traceparent == SAMPLED
    assert parse_traceparent(SAMPLED[:-2] + "03") == context


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "x",
        SAMPLED[:-2] + "00",
        SAMPLED.replace("00-4b", "01-4b"),
        SAMPLED.upper(),
        SAMPLED + "-",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-4bf92f3577b34da6a3ce929d0e0e4736-{'0' * 16}-01",
    ],
)
def test_any_other_text_begins_no_trace(text) -> None:
    assert parse_traceparent(text) is None


def test_the_trace_of_an_order_has_the_id_of_the_order() -> None:
    assert trace_of_order(ORDER).trace_id == ORDER.replace("-", "")
    assert parse_traceparent(trace_of_order(ORDER).traceparent) == trace_of_order(ORDER)


def test_a_message_carries_the_contexts_of_its_traced_orders_through_retry_and_dead_letter() -> (
    None
):
    grabs = [Grab(ORDER, "ann", 1), Grab(ORDER[:-1] + "f", "bob", 1)]
    traces = {ORDER: trace_of_order(ORDER)}
    body = messages.encode_place("spring", 1, ["1-0"], grabs, traces)
    placing = messages.decode_place(body)
    assert placing.traces == traces
    assert messages.traces_of(messages.encode_multi_sale([body, body])) == traces
    assert messages.traces_of(messages.encode_bad_grabs(placing, [list(grabs[0])])) == traces
    assert b"traces" not in messages.encode_place("spring", 1, ["1-0"], grabs)


@pytest.mark.parametrize("bad", [7, "x", [1], {"a": 1}, {ORDER: "not a traceparent"}])
def test_a_message_whose_contexts_cannot_be_read_is_placed_without_them(bad) -> None:
    grabs = [Grab(ORDER, "ann", 1)]
    fields = msgspec.msgpack.decode(messages.encode_place("spring", 1, ["1-0"], grabs))
    placing = messages.decode_place(msgspec.msgpack.encode(fields | {"traces": bad}))
    assert (placing.grabs, placing.traces) == (grabs, {})


def test_a_batch_links_to_its_first_members_and_each_member_to_the_batch(recorded) -> None:
    members = {
        f"order-{n}": TraceContext(f"{n + 1:032x}", f"{n + 1:016x}") for n in range(LINKS_MAX + 4)
    }
    spans.SPANS.record_batch(
        "process x", members, 1, size=500, kind=SpanKind.CONSUMER, errors={"order-1": "bad"}
    )
    batch, *own = recorded
    assert batch.attributes["messaging.batch.message_count"] == 500
    assert batch.links == [*members.values()][:LINKS_MAX]
    assert [span.parent_id for span in own] == [c.span_id for c in members.values()]
    assert {span.links[0] for span in own} == {batch.context}
    assert [span.error for span in own[:3]] == [None, "bad", None]


def test_late_traces_of_a_second_are_bounded(recorded) -> None:
    for second in (1_000.0, 1_001.0):
        asked = [spans.SPANS.may_be_late(second + n / 1_000) for n in range(LATE_MAX_PER_S + 100)]
        assert asked == [True] * LATE_MAX_PER_S + [False] * 100


def test_a_block_that_fails_is_a_span_that_failed(recorded) -> None:
    parent = trace_of_order(ORDER)

    def fail() -> None:
        with spans.span_of(parent, "work") as context:
            assert spans.current() == context
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()
    (span,) = recorded
    assert (span.name, span.parent_id, span.error) == ("work", parent.span_id, "ValueError: bad")
    assert spans.current() is None


#: Makes OpenTelemetry impossible to import. Where it is installed, redis-py imports some of it.
WITHOUT_SDK = """
import sys
sys.modules["opentelemetry"] = None
import consumers.main, gateway.server, ops.cli.orders, ops.cli.trace
from config.settings import BadSettings, Settings
from seckill.spans import SPANS
from seckill.tracing.starting import tracing
with tracing(Settings(), "test"):
    assert not SPANS.on
assert "seckill.tracing.export" not in sys.modules
try:
    with tracing(Settings(trace_rate=0), "test"):
        raise AssertionError("traced")
except BadSettings as error:
    print(error)
"""


def test_only_tracing_needs_opentelemetry_and_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_SDK],
        cwd=PROJECT_ROOT,
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "pip install 'seckill-gateway[otel]'" in done.stdout
