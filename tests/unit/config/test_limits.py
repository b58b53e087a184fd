"""Limits as data: profiles are complete, sized for the machine, and mistakes are named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from config.limits import OPS, RATE_MAX, load_limits
from config.settings import BadSettings
from seckill.sales.rate_limits import SaleLimit

GOOD = """
[p.try]
rate = 5
[p.confirm]
rate = 5
[p.cancel]
rate = 5
"""


def test_the_seed_profile_has_the_classic_tiers() -> None:
    seed = load_limits("seed")
    assert [seed.tier(op).rate for op in OPS] == [1000, 800, 800]
    assert [seed.tier(op).excess for op in OPS] == ["reject", "defer", "defer"]


def test_the_default_profile_is_sized_for_the_machine() -> None:
    tier = load_limits("default").try_
    assert tier.rate == 50_000 * len(os.sched_getaffinity(0))
    assert tier.burst > tier.rate


def test_a_burst_is_large_enough_to_keep_tokens_for_those_who_wait(tmp_path: Path) -> None:
    file = tmp_path / "limits.toml"
    file.write_text(GOOD)
    assert load_limits("p", file).try_.burst == 11


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[p", "limits.toml"),
        (GOOD.replace("p.try", "p.tri"), "tri"),
        (GOOD.replace("rate = 5", "rate = -5", 1), "try.rate"),
        (GOOD.replace("rate = 5", "", 1), "rate or rate_per_core"),
        (GOOD.replace("rate = 5", "rate = 5\nexcess = 'queue'", 1), "excess"),
        (GOOD.replace("rate = 5", "rate = 5\nrate_per_core = 5", 1), "rate or rate_per_core"),
        (GOOD.replace("rate = 5", "speed = 5", 1), "speed"),
        (GOOD.replace("rate = 5", 'rate = 5\nexcess = "defer"', 1), "excess must be"),
        (GOOD.replace("[p.", "[other."), "no profile p; there are: other"),
        (GOOD + "[p.buyer]\nrate = 5\nburst = 0", "buyer.burst"),  # would let no buyer pass
        (GOOD + "# \udcff", "utf-8"),
    ],
)
def test_mistakes_name_the_file_and_the_place(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "limits.toml"
    file.write_text(text, errors="surrogateescape")
    with pytest.raises(BadSettings, match=r"limits\.toml") as caught:
        load_limits("p", file)
    assert said in str(caught.value)


@pytest.mark.parametrize("given", ["rate", "rate_per_core"])
def test_the_highest_rate_has_a_burst_that_can_be_counted(tmp_path: Path, given: str) -> None:
    file = tmp_path / "limits.toml"
    file.write_text(GOOD.replace("rate = 5", f"{given} = {RATE_MAX}"))
    tier = load_limits("p", file).try_
    assert (tier.rate, tier.burst) == (RATE_MAX, RATE_MAX)
    assert SaleLimit.of(RATE_MAX) == SaleLimit(RATE_MAX, RATE_MAX)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match=r"nowhere.toml: No such file"):
        load_limits("p", tmp_path / "nowhere.toml")
