"""Waits before a repeat."""

from __future__ import annotations

from seckill_client.retries import FIRST_S, LATE_MAX_S, MOST_S, wait_s


def test_a_wait_is_never_shorter_than_the_server_says() -> None:
    waits = [wait_s(1, 3.0) for _ in range(100)]
    assert all(3.0 <= wait <= 3.0 + LATE_MAX_S for wait in waits)
    assert len(set(waits)) > 1


def test_without_a_time_waits_double_up_to_a_bound() -> None:
    for tried, most in [(1, FIRST_S), (2, 2 * FIRST_S), (50, MOST_S)]:
        assert all(most / 2 <= wait_s(tried, None) <= most for _ in range(100))
