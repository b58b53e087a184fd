"""Which worker runs which role, and what is kept of what was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.pool.plan import COUNT_MAX, PoolPlan, WorkerDuty, load_plan, parse_scale
from seckill.errors import SeckillError, UserMistake

ROLES = ("place", "expire", "sweep")


@pytest.fixture
def plan() -> PoolPlan:
    return PoolPlan({role: WorkerDuty(1) for role in ROLES})


@pytest.mark.parametrize(
    ("place", "expire", "sweep", "workers"),
    [
        (1, 1, 1, [{"place", "expire", "sweep"}]),
        (2, 2, 2, [{"place", "expire", "sweep"}] * 2),
        (3, 1, 0, [{"place", "expire"}, {"place"}, {"place"}]),
        (0, 0, 0, []),
    ],
)
def test_worker_i_runs_the_roles_of_which_i_are_wanted(place, expire, sweep, workers) -> None:
    plan = PoolPlan(
        {"place": WorkerDuty(place), "expire": WorkerDuty(expire), "sweep": WorkerDuty(sweep)}
    )

    assert plan.workers == len(workers)
    assert [set(plan.roles_of(number + 1)) for number in range(plan.workers)] == workers


def test_a_paused_role_runs_nowhere_and_its_workers_stay(plan: PoolPlan) -> None:
    plan.scale("place", 3, 3)
    plan.pause(["place"])
    assert plan.workers == 3
    assert [plan.roles_of(number) for number in (1, 2, 3)] == [["expire", "sweep"], [], []]
    assert [plan.paused_of(number) for number in (1, 3, 4)] == [["place"], ["place"], []]

    plan.pause(["place"], paused=False)
    assert plan.roles_of(3) == ["place"]


def test_draining_pauses_all(plan: PoolPlan) -> None:
    plan.pause([])
    assert plan.roles_of(1) == []
    assert plan.workers == 1


@pytest.mark.parametrize(
    ("before", "low", "high", "wanted"), [(1, 2, 6, 2), (9, 2, 6, 6), (4, 2, 6, 4), (3, 0, 1, 1)]
)
def test_bounds_take_the_count_in(plan: PoolPlan, before, low, high, wanted) -> None:
    plan.scale("place", before, before)
    plan.scale("place", low, high)
    assert plan.duties["place"] == WorkerDuty(wanted, min=low, max=high)
    plan.scale("place", 5, 5)
    assert plan.duties["place"] == WorkerDuty(5), "a fixed count ends autoscaling"


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (3, 2), (0, COUNT_MAX + 1), (99, 99)])
def test_counts_out_of_bounds_are_refused(plan: PoolPlan, low: int, high: int) -> None:
    with pytest.raises(UserMistake, match="out of bounds"):
        plan.scale("place", low, high)


def test_an_unknown_role_is_named_with_those_that_exist(plan: PoolPlan) -> None:
    for change in (lambda: plan.scale("cook", 1, 1), lambda: plan.pause(["cook"])):
        with pytest.raises(UserMistake, match=r"no role cook; there are: place, expire, sweep"):
            change()


@pytest.mark.parametrize(
    ("word", "read"), [("place=4", ("place", 4, 4)), ("place=1..8", ("place", 1, 8))]
)
def test_scale_words(word: str, read: tuple[str, int, int]) -> None:
    assert parse_scale(word) == read


@pytest.mark.parametrize(
    "word", ["place", "place=", "=3", "place=-1", "place=2..", "place=..2", "place=1.5", "place=x"]
)
def test_bad_scale_words_are_one_line(word: str) -> None:
    with pytest.raises(UserMistake, match=r"write ROLE=N or ROLE=MIN\.\.MAX"):
        parse_scale(word)


def test_the_next_manager_goes_on_with_what_was_kept(plan: PoolPlan, tmp_path: Path) -> None:
    plan.scale("place", 4, 4)
    plan.scale("sweep", 1, 3)
    plan.pause(["expire"])
    plan.save(tmp_path)

    assert load_plan(tmp_path, ROLES) == plan


def test_a_role_of_which_nothing_is_kept_gets_what_all_began_with(tmp_path: Path) -> None:
    assert load_plan(tmp_path, ROLES).duties == {role: WorkerDuty(1) for role in ROLES}
    PoolPlan(each=3).save(tmp_path)
    plan = load_plan(tmp_path, ROLES)
    assert plan.duties == {role: WorkerDuty(3) for role in ROLES}
    plan.scale("place", 5, 5)
    plan.save(tmp_path)
    assert load_plan(tmp_path, [*ROLES, "new"]).duties["new"] == WorkerDuty(3)
    PoolPlan(each=0).save(tmp_path)
    assert load_plan(tmp_path, ROLES).workers == 0


@pytest.mark.parametrize(
    "text", ["{", '{"duties": {"place": {"wanted": "1"}}}', '{"each": null}', "[1]"]
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "pool.json").write_text(text)
    with pytest.raises(SeckillError, match=r"pool\.json is damaged"):
        load_plan(tmp_path, ROLES)
