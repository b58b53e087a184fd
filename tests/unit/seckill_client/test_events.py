"""Server-sent events, line by line."""

from __future__ import annotations

from seckill_client.events import EventReader, StreamEvent


def test_lines_become_events_and_heartbeats_do_not() -> None:
    reader = EventReader()
    lines = ["retry: 4865", "", ":", "", "event: order", "id: paid", "data: {", "data: }", ""]
    events = [event for line in lines if (event := reader.feed(line))]
    assert events == [StreamEvent("order", "{\n}")]
    assert reader.retry_s == 4.865


def test_an_event_that_is_cut_off_is_none() -> None:
    reader = EventReader()
    assert [reader.feed(line) for line in ("event: order", "data: {}")] == [None, None]
    assert reader.retry_s is None
