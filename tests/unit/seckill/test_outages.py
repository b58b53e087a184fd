"""Each outage is logged once, cause by cause, and once when it is over."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from seckill import outages
from seckill.errors import Unavailable
from seckill.outages import Outages
from tests.processes import eventually


def failure(text: str, code: str = "", store: str = "redis") -> Unavailable:
    return Unavailable(text, store=store, code=code)


@pytest.fixture
def logged(caplog, monkeypatch):
    """An Outages whose outages end fast, and what it has logged."""
    monkeypatch.setattr(outages, "QUIET_S", 0.05)
    caplog.set_level(logging.WARNING, logger=outages.__name__)
    under_test = Outages()
    under_test.logs = True
    # Of this logger alone: another may speak of what an earlier test has left.
    return under_test, lambda: [
        record.getMessage() for record in caplog.records if record.name == outages.__name__
    ]


def lines_of(store: str, lines: Callable[[], list[str]]) -> list[str]:
    return [line for line in lines() if line.startswith(store)]


async def end_of_a_later_outage(logged, store: str) -> None:
    """Return when an outage that begins now is over: an earlier one could be over by then."""
    under_test, lines = logged
    under_test.failed(failure("does not answer", store=store))
    under_test.worked(store)

    async def is_over():
        return any(f"{outages.STORE_NAMES[store]} works again" in line for line in lines())

    await eventually(is_over, "the later one's end is logged")


async def test_an_outage_is_logged_once_with_each_cause(logged) -> None:
    under_test, lines = logged
    for text, code in (
        ("Redis does not answer: reset", ""),
        ("Redis does not answer: refused", ""),
        ("Redis refuses: LOADING", "LOADING"),
        ("Redis refuses: LOADING", "LOADING"),
    ):
        under_test.failed(failure(text, code))
    assert lines() == ["Redis does not answer: reset", "Redis refuses: LOADING"]


async def test_it_is_over_when_the_store_works_and_has_not_failed_for_a_while(logged) -> None:
    under_test, lines = logged
    under_test.failed(failure("Redis refuses: OOM", "OOM"))
    under_test.worked("redis")  # a read, say

    async def is_over():
        return len(lines()) == 2

    await eventually(is_over, "the end is logged")
    assert lines()[1].startswith("Redis works again")
    under_test.failed(failure("Redis refuses: OOM", "OOM"))
    assert lines()[2] == "Redis refuses: OOM"


async def test_a_success_before_the_last_failure_ends_nothing(logged) -> None:
    under_test, lines = logged
    under_test.failed(failure("Redis refuses: OOM", "OOM"))
    under_test.worked("redis")
    under_test.failed(failure("Redis refuses: OOM", "OOM"))
    under_test.failed(failure("PostgreSQL does not answer", store="postgresql"))
    under_test.worked("postgresql")

    async def the_other_is_over():
        return "PostgreSQL works again" in lines()[-1]

    await eventually(the_other_is_over, "PostgreSQL's end is logged")
    assert len(lines()) == 3


async def test_a_failure_is_counted_once_however_many_places_see_it(logged) -> None:
    under_test, lines = logged
    seen = failure("Redis refuses: OOM", "OOM")
    under_test.failed(seen)
    under_test.logs = False
    under_test.failed(seen.again())
    assert len(lines()) == 1
    assert seen.again().noted


async def test_a_store_that_is_looked_at_works_again_when_a_look_says_so(logged) -> None:
    under_test, lines = logged
    with under_test.watching(["redis"]):
        failed_at = time.monotonic()
        under_test.failed(failure("Redis refuses: NOREPLICAS", "NOREPLICAS"))
        under_test.worked("redis")  # a read
        under_test.found_well("redis", failed_at - 1)  # a look that began before
        await end_of_a_later_outage(logged, "postgresql")
        under_test.failed(failure("Redis refuses: NOREPLICAS", "NOREPLICAS"))
        assert lines_of("Redis", lines) == ["Redis refuses: NOREPLICAS"]
        under_test.found_well("redis", time.monotonic())

        async def is_over():
            return len(lines_of("Redis", lines)) == 2

        await eventually(is_over, "the end is logged")


async def test_an_outage_lasts_as_long_as_something_waits(logged) -> None:
    under_test, lines = logged
    under_test.failed(failure("PostgreSQL: a trigger objects", "58030", "postgresql"))
    under_test.wait_for("postgresql", role := object())
    under_test.worked("postgresql")
    await end_of_a_later_outage(logged, "redis")
    under_test.failed(failure("PostgreSQL: a trigger objects", "58030", "postgresql"))
    assert len(lines_of("PostgreSQL", lines)) == 1
    under_test.go_on(role)
    under_test.worked("postgresql")

    async def is_over():
        return len(lines_of("PostgreSQL", lines)) == 2

    await eventually(is_over, "the end is logged")


async def test_a_relapse_that_something_waits_for_is_looked_at_soon_again(monkeypatch) -> None:
    """Not after another whole RELAPSE_S: that has passed since the last failure."""
    clock, looks = SimpleNamespace(now=0.0), []
    monkeypatch.setattr(outages, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", lambda *call: looks.append(call))

    def look() -> float:
        delay_s, call, *arguments = looks.pop()
        clock.now += delay_s
        call(*arguments)
        return delay_s

    under_test = Outages()
    under_test.logs = True
    delays_s = []
    for who in (None, "a role"):
        under_test.failed(failure("does not answer"))
        under_test.worked("redis")
        if who:
            under_test.wait_for("redis", who)
        delays_s.append(look())
    under_test.go_on("a role")
    delays_s.append(look())
    assert delays_s == [outages.QUIET_S, outages.RELAPSE_S, outages.QUIET_S]
    assert not looks, "it is over"
