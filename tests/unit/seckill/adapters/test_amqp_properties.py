"""Properties that the library cannot read: the message is taken without them."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from seckill.adapters.amqp_properties import tolerate_unreadable_properties

SIZE = 42
#: A table of headers with one array in another, and so on: more of them than can be read.
NESTED = 5_000


def frame(properties: Basic.Properties) -> bytes:
    return ContentHeader(0, SIZE, properties).marshal()


def nested_headers() -> bytes:
    inner = b""
    for _ in range(NESTED):
        inner = b"A" + struct.pack(">I", len(inner)) + inner
    table = b"\x01x" + inner
    return struct.pack(">HHQ", 60, 0, SIZE) + b"\x20\x00" + struct.pack(">I", len(table)) + table


def read(data: bytes) -> ContentHeader:
    tolerate_unreadable_properties()
    header = ContentHeader()
    header.unmarshal(data)
    return header


def test_good_properties_are_read() -> None:
    at = datetime(2026, 1, 2, tzinfo=UTC)
    header = read(frame(Basic.Properties(headers={"x-attempts": 2}, timestamp=at)))
    assert header.properties.headers == {"x-attempts": 2}
    assert (header.properties.timestamp, header.body_size) == (at, SIZE)


def test_what_was_read_before_a_bad_time_is_kept() -> None:
    good = frame(Basic.Properties(headers={"x-attempts": 2}, timestamp=datetime.now(UTC)))
    header = read(good[:-8] + (2**62).to_bytes(8, "big"))
    assert header.properties.headers == {"x-attempts": 2}
    assert (header.properties.timestamp, header.body_size) == (None, SIZE)


def test_headers_that_are_nested_without_end_are_left_out() -> None:
    header = read(nested_headers())
    assert (header.properties.headers, header.body_size) == (None, SIZE)


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_the_size_of_the_body_is_read_whatever_follows(properties: bytes) -> None:
    assert read(struct.pack(">HHQ", 60, 0, SIZE) + properties).body_size == SIZE


def test_a_frame_without_a_size_is_an_error_as_before() -> None:
    with pytest.raises(struct.error):
        read(b"short")
