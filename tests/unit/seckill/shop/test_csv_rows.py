"""CSV that a spreadsheet opens without running it."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime

import pytest

from seckill.shop.csv_rows import csv_of


@pytest.mark.parametrize("text", ["=1+1", "+1", "-x", "@SUM(A1)", "\tx", "\rx", "\nx"])
def test_text_that_a_spreadsheet_would_run_is_made_text(text):
    (row,) = csv.reader(io.StringIO(csv_of([[text]]).decode(), newline=""))
    assert row == [f"'{text}"]


def test_other_values_are_as_they_are():
    at = datetime(2026, 11, 27, 20, 0, tzinfo=UTC)
    row = ["a=b", 'say "x", y', "你好", -5, None, at]
    (read,) = csv.reader(io.StringIO(csv_of([row]).decode("utf-8"), newline=""))
    assert read == ["a=b", 'say "x", y', "你好", "-5", "", "2026-11-27T20:00:00.000Z"]
