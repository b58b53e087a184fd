"""Order ids are UUIDs that say when, and in which sale, they were made."""

from __future__ import annotations

from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seckill import order_ids
from seckill.order_ids import SALE_NUMBER_MAX, created_ms_of, new_order_id, sale_number_of

numbers = st.integers(1, SALE_NUMBER_MAX)


@given(numbers, st.integers(0, 2**48 - 1))
def test_sale_number_and_time_are_read_back(number: int, made_at_ms: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order_ids, "now_ms", lambda: made_at_ms)
        order_id = new_order_id(number)
    assert sale_number_of(order_id) == number
    assert created_ms_of(order_id) == made_at_ms


@given(numbers)
def test_is_a_version_8_uuid_in_canonical_form(number: int) -> None:
    order_id = new_order_id(number)
    assert order_ids.PATTERN.match(order_id)
    assert str(UUID(order_id)) == order_id
    assert (UUID(order_id).version, UUID(order_id).variant) == (8, RFC_4122)


def test_ids_of_one_sale_and_moment_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order_ids, "now_ms", lambda: 1_900_000_000_000)
    assert len({new_order_id(1) for _ in range(10_000)}) == 10_000


def test_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for made_at_ms in range(1000, 1100):
        monkeypatch.setattr(order_ids, "now_ms", lambda now=made_at_ms: now)
        ids.append(new_order_id(SALE_NUMBER_MAX - made_at_ms))
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    "text",
    [
        "0190a0b0-0000-7000-8000-000000000000",  # another version
        "0190a0b0-0000-8000-c000-000000000000",  # another variant
        "0190A0B0-0000-8000-8000-000000000000",
        "0190a0b0-0000-8000-8000-000000000000\n",
        "0190a0b0-0000-8000-8000-0000000000000",
        "0190a0b0000080008000000000000000",
    ],
)
def test_other_text_is_not_an_order_id(text: str) -> None:
    assert not order_ids.PATTERN.match(text)
