"""All keys of a sale hash to one cluster slot, and no two names are the same key."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from seckill.adapters import redis_keys
from seckill.order_ids import SALE_NUMBER_MAX, new_order_id

PER_SALE = (
    redis_keys.stock,
    redis_keys.sale,
    redis_keys.holders,
    redis_keys.outbox,
    partial(redis_keys.bucket, op="try"),
    partial(redis_keys.line, op="try"),
)
sale_ids = st.from_regex(r"[A-Za-z0-9_.-]{1,64}", fullmatch=True)


@given(sale_ids)
def test_a_sale_lives_in_one_slot(sale_id: str) -> None:
    assert {key_slot(key(sale_id).encode()) for key in PER_SALE} == {key_slot(sale_id.encode())}


@given(sale_ids)
def test_a_burnt_proof_lives_with_its_sale(sale_id: str) -> None:
    key = redis_keys.burnt_proof(sale_id, "a_nonce-")
    assert key_slot(key.encode()) == key_slot(sale_id.encode())
    assert key == f"sk:{{{sale_id}}}:proof:a_nonce-"


@given(sale_ids)
def test_the_lock_of_a_payment_lives_with_its_sale(sale_id: str) -> None:
    key = redis_keys.paying(sale_id, "019aab2f-4c00-8000-8005-5d3c1f0a2b7e")
    assert key_slot(key.encode()) == key_slot(sale_id.encode())
    assert key == f"sk:{{{sale_id}}}:paying:019aab2f-4c00-8000-8005-5d3c1f0a2b7e"


@given(st.lists(sale_ids, unique=True, min_size=1))
def test_every_key_of_every_sale_is_its_own(ids: list[str]) -> None:
    names = [key(sale_id) for sale_id in ids for key in PER_SALE] + [redis_keys.relay_lock()]
    assert len(set(names)) == len(names)


def test_names_are_the_published_ones() -> None:
    assert [key("s") for key in PER_SALE] == [
        "sk:{s}:stock",
        "sk:{s}:sale",
        "sk:{s}:holders",
        "sk:{s}:outbox",
        "sk:{s}:bucket:try",
        "sk:{s}:line:try",
    ]


@given(sale_ids, st.integers(1, SALE_NUMBER_MAX))
def test_an_expiry_key_lives_with_its_sale_and_names_its_order(sale_id: str, number: int) -> None:
    order_id = new_order_id(number)
    key = redis_keys.expiry(sale_id, order_id)
    assert key_slot(key.encode()) == key_slot(sale_id.encode())
    assert redis_keys.order_of_expiry(key) == order_id


@given(st.one_of(st.text(), st.from_regex(r"sk:\{s\}:expiry:.*")))
def test_other_keys_name_no_order(key: str) -> None:
    assert redis_keys.order_of_expiry(key) is None


def test_no_key_of_ours_is_taken_for_an_expiry_key() -> None:
    for key in (
        *(key("s") for key in PER_SALE),
        redis_keys.burnt_proof("s", "n"),
        redis_keys.relay_lock(),
    ):
        assert redis_keys.order_of_expiry(key) is None
