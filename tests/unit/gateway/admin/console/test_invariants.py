"""The lights: each violation of a ledger lights exactly one, and numbers are those behind it."""

from __future__ import annotations

import pytest

from gateway.admin.console.invariants import INVARIANTS, LedgerSummary, invariant_of, light

LINES = {"total": 10, "available": 4, "in_flight": 1, "oldest_in_flight_s": 2}


def summary(*violations: str, **lines: int) -> LedgerSummary:
    return LedgerSummary(not violations, LINES | lines, list(violations))


def test_without_a_count_no_light_is_green() -> None:
    assert {light(name, {})["state"] for name in INVARIANTS} == {"unknown"}


def test_numbers_of_sales_add_up_but_ages() -> None:
    found = light("I4", {"a": summary(), "b": summary(oldest_in_flight_s=7)})
    assert found["numbers"] == {"in_flight": 2, "oldest_in_flight_s": 7}
    assert found["state"] == "holds"


def test_a_violation_breaks_its_own_light_and_names_the_sale() -> None:
    counted = {"a": summary(), "b": summary("I2: oversold: live orders hold 11 of 10")}
    assert light("I2", counted)["says"] == ["b: I2: oversold: live orders hold 11 of 10"]
    states = {name: light(name, counted)["state"] for name in INVARIANTS}
    assert [name for name, state in states.items() if state == "broken"] == ["I2"]


def test_what_waits_for_an_operator_wants_a_look() -> None:
    assert light("I5", {"a": summary(on_dead_letters=1)})["state"] == "watch"
    assert light("I4", {"a": summary(oldest_in_flight_s=31)})["state"] == "watch"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("I7: orders and payments differ: 1 (x)", "I7"),
        ("I9: not one of ours", "I1"),
        ("epoch is 2 in Redis and 1 in PostgreSQL", "I1"),
        ("PostgreSQL knows no sale x", "I1"),
        ("all postings sum to 3 cents, not to 0", "I7"),
        ("wallets are not what their entries say: 1 (x)", "I7"),
    ],
)
def test_each_violation_belongs_to_one_invariant(text: str, name: str) -> None:
    assert invariant_of(text) == name
