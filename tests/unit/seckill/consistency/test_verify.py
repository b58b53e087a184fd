"""A ledger as programs read it."""

from __future__ import annotations

from seckill.consistency.verify import Ledger


def test_the_lines_of_a_ledger_have_names_for_programs() -> None:
    ledger = Ledger({"total": 5, "oldest in flight, s": 2, "external taken, EUR": 1999}, ["I1: x"])
    assert ledger.summary() == {
        "balanced": False,
        "lines": {"total": 5, "oldest_in_flight_s": 2, "external_taken_eur": 1999},
        "violations": ["I1: x"],
    }
