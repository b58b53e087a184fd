"""Spans as lines of JSON in a file that the processes of a stack share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

#: A file that has grown so large becomes FILE.1, in place of the one before: some 200,000 spans
#: each.
FILE_MAX = 64 * 1024 * 1024


class StoredSpan(msgspec.Struct):
    """A line of the file."""

    trace_id: str
    span_id: str
    name: str
    kind: str
    service: str
    process: str
    start_ns: int
    end_ns: int
    parent_id: str | None = None
    error: str | None = None
    attributes: dict[str, Any] = {}
    #: What it reached, and when.
    events: dict[str, int] = {}
    links: list[str] = []


_decode = msgspec.json.Decoder(StoredSpan).decode
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class SpanFile:
    """A file of spans."""

    path: Path
    size_max: int = FILE_MAX

    @property
    def older(self) -> Path:
        """Return where the lines before are."""
        return self.path.with_name(f"{self.path.name}.1")

    def append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Append lines in one write, so that lines of several processes do not mix."""
        data = b"".join(_encode(line) + b"\n" for line in lines)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        # For the user alone: a trace has ids of buyers' orders.
        descriptor = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            is_current = os.fstat(descriptor).st_ino == self.path.stat().st_ino
            os.write(descriptor, data)
            if is_current and os.fstat(descriptor).st_size > self.size_max:
                self.path.replace(self.older)
        finally:
            os.close(descriptor)

    def read(self, text: str) -> Iterator[StoredSpan]:
        """Yield the spans whose lines have a text in them, oldest first."""
        wanted = text.encode()
        for path in (self.older, self.path):
            if not path.exists():
                continue
            with path.open("rb") as file:
                for line in file:
                    if wanted in line and (span := _read(line)):
                        yield span


def _read(line: bytes) -> StoredSpan | None:
    """Return the span of a line; None of a line that a full disk has cut."""
    try:
        return _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
