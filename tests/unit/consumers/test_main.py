"""The roles of a process: by default those that have something to do, and no unknown one."""

from __future__ import annotations

import pytest

from config.settings import Settings
from consumers.main import ROLES, default_roles, known, run
from seckill.errors import UserMistake


def test_all_roles_run_if_all_have_something_to_do() -> None:
    whole = Settings(timeouts="key_expiry, delay_queue", provider_url="http://127.0.0.1:1")
    assert default_roles(whole) == ROLES


def test_key_expiry_runs_only_if_it_is_configured() -> None:
    assert "key_expiry" not in default_roles(Settings())
    assert "key_expiry" in default_roles(Settings(timeouts="key_expiry"))


def test_settle_payments_runs_only_with_a_card_provider() -> None:
    assert set(ROLES) - set(default_roles(Settings(timeouts="key_expiry"))) == {"settle_payments"}
    with pytest.raises(UserMistake, match="SECKILL_PROVIDER_URL"):
        run(Settings(), ["settle_payments"])


@pytest.mark.parametrize("timeouts", ["", "key_expiry", "delay_queue"])
def test_overdue_orders_are_cancelled_whatever_is_configured(timeouts: str) -> None:
    assert {"sweep", "expire_orders"} <= set(default_roles(Settings(timeouts=timeouts)))


def test_a_name_that_is_no_role_is_a_mistake() -> None:
    assert known(["relay"]) == ["relay"]
    with pytest.raises(UserMistake, match=r"no role rely, swep; there are: place_orders, "):
        known(["rely", "relay", "swep"])
