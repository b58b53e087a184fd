"""How much a sale needs, from costs that are easy to reckon with."""

from __future__ import annotations

import json

import pytest

from ops.sizing import PARTS, Cost, PartCosts, highest_rate, plan
from seckill.errors import UserMistake

#: 10 us for everything, over kept connections; a new connection takes 40.
COSTS = PartCosts("made up", dict.fromkeys(PARTS, Cost(0, 10)), Cost(0, 5), 40)


def needs_of(costs=COSTS, **sale):
    terms = {"buyers": 1_000_000, "stock": 10_000, "seconds": 10, "placed_within_s": 10}
    return plan(costs, **{**terms, **sale})


def processes(found, part):
    return next(need.processes for need in found.needs if need.part == part)


def test_two_rates_tell_the_fixed_cost_from_that_of_each_order():
    cost = Cost.of((100, 1_010), (1_000, 110))

    assert (cost.fixed, cost.each) == pytest.approx((100_000, 10))
    assert cost.cores(10_000) == pytest.approx(0.2)


def test_gateways_are_counted_by_cpu_or_by_connections():
    assert processes(needs_of(), "gateway") == 50  # a million connections, 20,000 a process
    # 100,000 grabs/s: 10,000 won and 90,000 refused take 550,000 us.
    assert processes(needs_of(kept_connections=True), "gateway") == 1
    assert processes(needs_of(seconds=5, kept_connections=True), "gateway") == 2


def test_consumers_have_the_time_until_all_is_placed():
    sale = {"buyers": 1_000_000, "stock": 1_000_000, "seconds": 1}
    assert processes(needs_of(**sale, placed_within_s=1), "consumers") == 17
    assert processes(needs_of(**sale, placed_within_s=100), "consumers") == 1


@pytest.mark.parametrize(
    ("seconds", "verdict"), [(10, "fit"), (5, "only in large batches"), (1, "several slots")]
)
def test_the_bound_of_one_slot_is_named(seconds, verdict):
    assert verdict in needs_of(seconds=seconds).bounds[0]


def test_the_highest_rate_takes_all_cores():
    fixed = PartCosts("made up", dict.fromkeys(PARTS, Cost(20_000, 10)), Cost(0, 5), 0)

    assert highest_rate(fixed, cores=2) == pytest.approx(38_000)
    assert highest_rate(fixed, cores=2, also_us=50) == pytest.approx(19_000)


def test_costs_are_kept_in_a_file_and_a_bad_one_is_named(tmp_path):
    file = tmp_path / "costs.json"
    COSTS.write(file)
    assert PartCosts.read(file) == COSTS
    assert PartCosts.read(None).won.keys() == set(PARTS)

    plain = json.loads(file.read_text())
    del plain["won"]["redis"]
    for text in (json.dumps(plain), "[", "[]"):
        file.write_text(text)
        with pytest.raises(UserMistake, match=r"costs\.json"):
            PartCosts.read(file)
    with pytest.raises(UserMistake, match="costs"):
        PartCosts.read(tmp_path / "none.json")
