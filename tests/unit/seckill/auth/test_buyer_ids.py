"""Buyer ids out of claims: always the same for the same value, never the same for two."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seckill.auth.buyer_ids import buyer_id_of
from seckill.auth.tickets import ID


@pytest.mark.parametrize("value", ["ann", "7", "a-b_c.D", "0042", "x" * 64, "hash"])
def test_what_is_an_id_stays_as_it_is(value: str) -> None:
    assert buyer_id_of(value) == value


@pytest.mark.parametrize(
    ("value", "buyer_id"), [(7, "7"), (-7, "-7"), (0, "0"), (2**63, f"{2**63}")]
)
def test_a_whole_number_is_its_digits(value: int, buyer_id: str) -> None:
    assert buyer_id_of(value) == buyer_id


def test_the_mapping_is_the_documented_one_for_ever() -> None:
    assert buyer_id_of("auth0|7") == "hash-" + hashlib.sha256(b"auth0|7").hexdigest()[:48]
    assert (
        buyer_id_of("ann@shop.example") == "hash-6a0bf011a1fc1e9a8add1728704b8ddb5d9d2701ae295a65"
    )


@pytest.mark.parametrize(
    "value",
    [
        "auth0|7",
        "ann@shop.example",
        "a b",
        "x" * 65,
        "x" * 255,
        "10" * 40,
        "安娜",
        "a/b",
        "~",
        10**64,
    ],
)
def test_what_is_no_id_is_mapped_to_one(value: object) -> None:
    mapped = buyer_id_of(value)
    assert mapped is not None
    assert mapped.startswith("hash-")
    assert ID.match(mapped)


@pytest.mark.parametrize("value", ["auth0|7", "ann@shop.example", "hash-", "hash-7"])
def test_nobody_is_called_what_another_is_mapped_to(value: str) -> None:
    mapped = buyer_id_of(value)
    assert mapped != value
    assert buyer_id_of(mapped) != mapped, "who chooses that name is mapped as well"


@given(st.text() | st.integers(), st.text() | st.integers())
def test_two_values_never_share_an_id(one: object, other: object) -> None:
    ids = buyer_id_of(one), buyer_id_of(other)
    if str(one) != str(other) and None not in ids:
        assert ids[0] != ids[1]


@pytest.mark.parametrize(
    "value",
    ["", "ann\n", "a\0b", "\ud800", "a\u2028b", "x" * 256, 1.0, 1.5, True, None, [], {}, b"a"],
)
def test_what_names_nobody_is_refused(value: object) -> None:
    assert buyer_id_of(value) is None
