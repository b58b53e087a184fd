"""Rows of CSV (RFC 4180) that a spreadsheet opens without running any of them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

#: A spreadsheet takes a cell that begins so for a formula, and text of strangers may begin so:
#: https://owasp.org/www-community/attacks/CSV_Injection
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def csv_of(rows: Iterable[Sequence[object]]) -> bytes:
    """Return rows as UTF-8; text that a spreadsheet would run begins with an apostrophe."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\r\n").writerows([_cell(value) for value in r] for r in rows)
    return text.getvalue().encode()


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    text = str(value)
    # Numbers are ours, and a sum of numbers has to stay one.
    is_formula = isinstance(value, str) and text.startswith(_FORMULA)
    return f"'{text}" if is_formula else text
