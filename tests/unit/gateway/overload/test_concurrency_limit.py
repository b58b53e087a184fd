"""The limit on requests in flight: it finds the number at which no request waits long."""

from __future__ import annotations

import asyncio

import pytest

from gateway.http.problems import Problem, Refused
from gateway.overload.concurrency_limit import FORGOTTEN_S, LEAST, TICK_S, ConcurrencyLimit

WAIT_S = 0.1


class Clock:
    """A loop's clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay, call) -> None:
        self.timers.append(call)


@pytest.fixture
async def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clock)
    return clock


def begin(limit: ConcurrencyLimit, count: int) -> None:
    for _ in range(count):
        limit.begin()


def answer_for(limit: ConcurrencyLimit, clock: Clock, seconds: float, wait_s: float) -> None:
    """Keep the limit full for so long, every answer taking `wait_s`."""
    end = clock.now + seconds
    while clock.now < end:
        came_at, count = clock.now, limit.limit - limit.in_flight
        begin(limit, count)
        clock.now += wait_s
        for _ in range(count):
            limit.end(came_at)


async def test_beyond_the_limit_requests_are_refused_and_room_is_used_again(clock):
    limit = ConcurrencyLimit(64, WAIT_S)
    begin(limit, 64)
    assert limit.full
    with pytest.raises(Refused) as refused:
        limit.begin()
    assert refused.value.problem is Problem.OVERLOADED
    limit.end(0.0)
    assert not limit.full
    limit.begin()


async def test_long_waits_shrink_it_in_proportion_and_short_ones_let_it_grow(clock):
    limit = ConcurrencyLimit(1000, WAIT_S)
    answer_for(limit, clock, 4 * TICK_S, WAIT_S / 2)
    assert limit.limit == 1000
    answer_for(limit, clock, 2 * WAIT_S * 3, WAIT_S * 2)
    assert limit.limit in range(240, 260) or limit.limit in range(490, 510)
    answer_for(limit, clock, 20 * TICK_S, WAIT_S / 2)
    assert limit.limit == 1000, "all well again within two seconds"


async def test_one_slow_tick_is_a_hiccup(clock):
    limit = ConcurrencyLimit(1000, WAIT_S)
    answer_for(limit, clock, TICK_S, WAIT_S * 3)
    assert limit.limit == 1000


async def test_a_slow_store_shrinks_nothing_while_few_requests_wait_for_it(clock):
    limit = ConcurrencyLimit(1000, WAIT_S)
    for _ in range(10):
        begin(limit, 100)
        came_at, clock.now = clock.now, clock.now + 2.0
        for _ in range(100):
            limit.end(came_at)
    assert limit.limit == 1000


async def test_it_never_shrinks_below_a_few(clock):
    limit = ConcurrencyLimit(1000, WAIT_S)
    answer_for(limit, clock, 100, 5.0)
    assert limit.limit == LEAST


async def test_those_let_in_count_until_they_begin_or_are_forgotten(clock):
    limit = ConcurrencyLimit(64, WAIT_S)
    for _ in range(64):
        limit.expect()
    assert limit.full, "a whole poll of the sockets comes before the first of them begins"
    begin(limit, 10)
    assert limit.full
    for _ in range(10):
        limit.end(0.0)
    assert not limit.full
    for _ in range(10):
        limit.expect()
    assert limit.full
    for forget in clock.timers:  # the others were refused for another reason
        forget()
    assert not limit.full


async def test_after_a_rest_the_limit_of_the_last_overload_is_forgotten(clock):
    limit = ConcurrencyLimit(1000, WAIT_S)
    answer_for(limit, clock, 10, 5.0)
    clock.now += FORGOTTEN_S
    begin(limit, 1)
    assert limit.limit == LEAST, "the overload may go on after a pause"
    limit.end(clock.now)
    clock.now += 2 * FORGOTTEN_S
    begin(limit, 1)
    assert limit.limit == 1000, "a new burst is not met with it"
    begin(limit, 999)
    assert limit.full


async def test_while_requests_are_in_flight_the_limit_is_not_forgotten(clock):
    limit = ConcurrencyLimit(1000, WAIT_S)
    answer_for(limit, clock, 10, 5.0)
    begin(limit, 1)
    clock.now += 10 * FORGOTTEN_S
    begin(limit, 1)
    assert limit.limit == LEAST
