"""The answers to grabs: one for each verdict of the script."""

from __future__ import annotations

import pytest

from gateway.grabs.responses import REFUSALS
from seckill.inventory.reservations import Verdict


def test_every_verdict_has_one_answer() -> None:
    # Accepted and duplicate are good news; a quantity's refusal says what would be right.
    answered_elsewhere = {Verdict.ACCEPTED, Verdict.DUPLICATE, Verdict.QUANTITY}
    assert set(Verdict) - answered_elsewhere == REFUSALS.keys()


@pytest.mark.parametrize(
    ("verdict", "code"),
    [
        (Verdict.NOT_OPEN, "not_open"),
        (Verdict.CLOSED, "closed"),
        (Verdict.PAUSED, "paused"),
        (Verdict.SOLD_OUT, "sold_out"),
        (Verdict.OUTBOX_FULL, "overloaded"),
        (Verdict.UNAVAILABLE, "unavailable"),
    ],
)
def test_a_refusal_has_its_published_code(verdict: Verdict, code: str) -> None:
    assert REFUSALS[verdict].code == code
