"""`seckill sale limit`: what cannot be is refused before anything is changed."""

from __future__ import annotations

import pytest

from config.settings import BadSettings
from ops.cli.main import load
from ops.cli.rate_limits import limit
from seckill.errors import UserMistake


def test_what_cannot_be_an_id_is_refused() -> None:
    with pytest.raises(UserMistake, match="id"):
        load("sale")(["limit", "\udcff"])  # a byte of the command line that is no text


def test_a_limit_is_set_or_unset() -> None:
    with pytest.raises(UserMistake, match="--unset try and --try-rate"):
        limit("demo", try_rate=1, unset="try")


def test_a_bad_profile_is_named_before_the_limit_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stores that are not there would be noticed next."""
    monkeypatch.setenv("SECKILL_LIMITS_PROFILE", "none")
    with pytest.raises(BadSettings, match="no profile none"):
        limit("demo", try_rate=1)
