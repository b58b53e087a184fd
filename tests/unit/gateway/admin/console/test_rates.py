"""Rates follow from two reports of a process, whatever comes, goes or starts again."""

from __future__ import annotations

import pytest

from gateway.admin.console.rates import Rates, quantile_ms
from seckill.registry.processes import ProcessState


def report(at: float, *, process: str = "g1", cpu_s: float = 0.0, **counts: float) -> ProcessState:
    named = {name.replace("_", ":", 1): count for name, count in counts.items()}
    return ProcessState(process, "gateway", "here", 1, "1", 0.0, at, cpu_s=cpu_s, counts=named)


def test_a_rate_needs_two_reports() -> None:
    rates = Rates()
    rates.learn([report(10, cpu_s=1, grab_accepted=5)])
    assert rates.shown()["grabs"] == {"rate_limited": 0.0}
    assert rates.cpu_of("g1") is None
    rates.learn([report(12, cpu_s=2, grab_accepted=25, grab_sold_out=4)])
    assert rates.shown()["grabs"] == {"accepted": 10.0, "sold_out": 2.0, "rate_limited": 0.0}
    assert rates.cpu_of("g1") == 0.5


def test_an_old_report_changes_nothing_and_processes_add_up() -> None:
    rates = Rates()
    for at, count in ((10, 0), (12, 20), (12, 20)):
        rates.learn([report(at, process=name, grab_accepted=count) for name in ("g1", "g2")])
    assert rates.shown()["grabs"] == {"accepted": 20.0, "rate_limited": 0.0}
    rates.learn([report(12, process="g2", grab_accepted=20)])
    assert rates.shown()["grabs"] == {"accepted": 10.0, "rate_limited": 0.0}


def test_what_is_shed_is_a_share_of_all_that_asked() -> None:
    rates = Rates()
    rates.learn([report(10)])
    rates.learn([report(11, grab_accepted=6, refused_shed=1, refused_stale=1, refused_limit=2)])
    shown = rates.shown()
    assert shown["grabs"] == {"accepted": 6.0, "rate_limited": 2.0}
    assert (shown["shed_per_s"], shown["shed_share"]) == (2.0, 0.2)


def test_waits_are_those_since_the_last_report() -> None:
    rates = Rates()
    old = {"wait:0-0.001": 1000.0}
    rates.learn([ProcessState("g1", "gateway", "here", 1, "1", 0.0, 1.0, counts=old)])
    new = {"wait:0-0.001": 1000.0, "wait:0.1-0.2": 10.0}
    rates.learn([ProcessState("g1", "gateway", "here", 1, "1", 0.0, 2.0, counts=new)])
    assert (rates.shown()["p50_ms"], rates.shown()["p99_ms"]) == (150.0, 199.0)


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ({}, 0.5, None),
        ({(0.0, 0.001): 0.0}, 0.5, None),
        ({(0.0, 0.001): 2.0}, 0.5, 0.5),
        ({(0.0, 0.001): 1.0, (0.001, 0.003): 1.0}, 1.0, 3.0),
        ({(5.0, float("inf")): 1.0}, 0.99, 5000.0),
    ],
)
def test_a_quantile_lies_in_its_bucket(buckets, share: float, expected: float | None) -> None:
    assert quantile_ms(buckets, share) == expected
