"""Time in the unit of the contracts."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Return the milliseconds since some moment of this machine, by a clock that is never set."""
    return time.monotonic_ns() // 1_000_000
