"""Time in the unit of the contracts."""

from __future__ import annotations

import time


def now_ms() -> int:
    """Return Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Return this machine's time since some moment, in milliseconds: nobody sets it."""
    return time.monotonic_ns() // 1_000_000
