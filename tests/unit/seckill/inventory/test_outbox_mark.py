"""An outbox id as one number: PostgreSQL compares what Redis orders."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seckill.inventory.outbox import id_of, mark_of

parts = st.tuples(st.integers(0, 10**13 - 1), st.integers(0, 10**5 - 1))


@given(parts, parts)
def test_marks_are_ordered_as_ids_are(one: tuple[int, int], other: tuple[int, int]) -> None:
    marks = [mark_of([f"{ms}-{sequence}"]) for ms, sequence in (one, other)]
    assert (marks[0] < marks[1]) == (one < other)
    assert max(marks) < 2**63, "a bigint holds it"


@given(parts)
def test_an_id_comes_back_from_its_mark(one: tuple[int, int]) -> None:
    assert id_of(mark_of([f"{one[0]}-{one[1]}"])) == f"{one[0]}-{one[1]}"


def test_the_newest_of_several_counts() -> None:
    assert mark_of(["5-1", "5-3", "4-9", "5-2"]) == mark_of(["5-3"])


@pytest.mark.parametrize(
    "text", ["", "5", "5-", "-5", "x-1", "5-1 ", "1" * 14 + "-0", "\u0663-\u0661"]
)
def test_what_is_no_id_says_nothing(text: str) -> None:
    assert mark_of([text]) == 0
    assert mark_of([text, "5-1"]) == mark_of(["5-1"])
