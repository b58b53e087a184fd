"""Sales that have not begun can be changed and removed; others cannot."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from seckill.adapters import redis_keys
from seckill.errors import Conflict, Missing, UserMistake, WrongState
from seckill.sales import drafts, sales, terms
from seckill.sales.terms import NewSale

LATER = datetime(2030, 1, 1, 20, tzinfo=UTC)


async def test_each_term_can_be_changed_until_the_sale_opens(db, stock, store, open_sale, shop):
    sale = await open_sale(opened=False, closes_at=LATER)
    changes = {
        "stock": 7,
        "price_cents": 5,
        "per_order_max": 3,
        "opens_at": LATER - timedelta(hours=1),
        "closes_at": None,
        "proof_bits": 4,
        "currency": "JPY",
    }
    changed = await drafts.edit(db, stock, sale.sale_id, changes)
    assert changed.number == sale.number
    assert {name: getattr(changed, name) for name in changes if name != "stock"} | {
        "stock": changed.total
    } == changes
    fields = await store.hgetall(redis_keys.sale(sale.sale_id))
    assert (fields[b"per_order_max"], fields[b"closes_at_ms"]) == (b"3", b"0")

    await sales.open_(db, stock, sale.sale_id)
    assert await shop.left(sale) == 7
    await drafts.edit(db, stock, sale.sale_id, {"opens_at": None})
    with pytest.raises(WrongState, match="has begun"):
        await drafts.edit(db, stock, sale.sale_id, changes)
    with pytest.raises(WrongState, match="has begun"):
        await drafts.delete(db, stock, sale.sale_id, actor="test")


async def test_the_audit_trail_has_who_made_and_changed_a_sale(db, stock):
    new = NewSale("told", 9, 1999, name="Shoes", announce_at=LATER)
    await sales.create(db, stock, new, by="ann")
    changes = {"stock": 7, "price_cents": 5, "announce_at": None, "name": "Shoes"}
    for _ in range(2):  # a repeat changes nothing, so it leaves no row
        await drafts.edit(db, stock, "told", changes, by="bob")

    made, edited = await trail_of(db, "told")
    assert made[:3] == ("ann", "sale.create", "created")
    terms_then = {"stock": 9, "price_cents": 1999, "name": "Shoes", "hidden": True}
    assert terms_then.items() <= made[3].items()
    assert datetime.fromisoformat(made[3]["announce_at"]) == LATER
    assert edited == (
        "bob",
        "sale.edit",
        "changed: stock, price_cents, hidden, announce_at",
        {
            "stock": {"from": 9, "to": 7},
            "price_cents": {"from": 1999, "to": 5},
            "hidden": {"from": True, "to": False},
            "announce_at": {"from": made[3]["announce_at"], "to": None},
        },
    )


async def test_a_change_that_is_refused_leaves_no_audit_row(db, stock, store, open_sale):
    sale = await open_sale(opens_at=LATER)
    await store.delete(redis_keys.sale(sale.sale_id))
    with pytest.raises(Conflict):  # Redis refuses after the row was written
        await drafts.edit(db, stock, sale.sale_id, {"price_cents": 7}, by="ann")
    with pytest.raises(WrongState, match="exists already"):
        await sales.create(db, stock, NewSale(sale.sale_id, 1, 1), by="ann")
    assert await trail_of(db, sale.sale_id) == []


async def trail_of(db, sale_id):
    """Return the audit rows of a sale, oldest first."""
    rows = await db.fetch(
        "SELECT actor, action, reason, details FROM audit WHERE sale_id = $1 ORDER BY audit_id",
        sale_id,
    )
    return [(*row[:3], json.loads(row["details"])) for row in rows]


async def test_terms_that_cannot_be_kept_change_nothing(db, stock, open_sale):
    sale = await open_sale(opened=False, opens_at=LATER)
    for changes, words in (
        ({}, "nothing to change"),
        ({"currency": "EURO"}, "ISO 4217"),
        ({"closes_at": LATER}, "close after it opens"),
        ({"price_cents": 10**15, "per_order_max": 10**6}, "must not exceed"),
    ):
        with pytest.raises(UserMistake, match=words):
            await drafts.edit(db, stock, sale.sale_id, changes)
    assert await sales.find(db, sale.sale_id) == sale


async def test_an_open_sale_is_postponed_and_removed_before_it_begins(
    db, stock, store, open_sale, shop
):
    sale = await open_sale(opens_at=LATER)
    later = LATER + timedelta(hours=1)
    for _ in range(2):  # a repeat changes nothing more
        changed = await drafts.edit(
            db, stock, sale.sale_id, {"opens_at": later, "price_cents": 7, "per_order_max": 2}
        )
    assert (changed.opens_at, changed.price_cents, changed.state) == (later, 7, "open")
    fields = await store.hgetall(redis_keys.sale(sale.sale_id))
    assert fields[b"opens_at_ms"] == b"%d" % (later.timestamp() * 1000)
    assert (fields[b"per_order_max"], fields[b"state"]) == (b"2", b"open")
    assert await shop.left(sale) == sale.total
    with pytest.raises(UserMistake, match="sale restock"):
        await drafts.edit(db, stock, sale.sale_id, {"stock": 99})

    await drafts.delete(db, stock, sale.sale_id, actor="test")
    assert not await store.exists(redis_keys.sale(sale.sale_id), redis_keys.stock(sale.sale_id))
    await db.execute("UPDATE audit SET at = at - interval '1 day' WHERE sale_id = $1", sale.sale_id)
    with pytest.raises(WrongState, match="choose another id"):
        await sales.create(db, stock, NewSale(sale.sale_id, 1, 1))


async def test_redis_says_whether_a_sale_has_begun(db, stock, store, open_sale):
    """The clock of this host may be behind."""
    sale = await open_sale(opens_at=LATER)
    await store.hset(redis_keys.sale(sale.sale_id), "opens_at_ms", 1)
    with pytest.raises(WrongState, match="has begun"):
        await drafts.edit(db, stock, sale.sale_id, {"opens_at": LATER + timedelta(hours=1)})
    with pytest.raises(WrongState, match="has begun"):
        await drafts.delete(db, stock, sale.sale_id, actor="test")
    assert await sales.find(db, sale.sale_id) == sale
    await store.unlink(redis_keys.sale(sale.sale_id))
    with pytest.raises(Conflict, match="sale rebuild"):
        await drafts.edit(db, stock, sale.sale_id, {"opens_at": LATER + timedelta(hours=1)})


async def test_a_sale_that_redis_alone_has_opened_is_left_alone(db, stock, store, open_sale):
    sale = await open_sale(opened=False)
    await stock.open_sale(sale.sale_id, sale.terms())
    with pytest.raises(WrongState, match="its opening broke off"):
        await drafts.edit(db, stock, sale.sale_id, {"stock": 1})
    with pytest.raises(WrongState, match="its opening broke off"):
        await drafts.delete(db, stock, sale.sale_id, actor="test")
    assert (await sales.open_(db, stock, sale.sale_id)).total == sale.total


async def test_a_deleted_sale_is_gone_and_its_id_is_free_a_moment_later(
    db, stock, store, open_sale
):
    sale = await open_sale(opened=False)
    assert await drafts.delete(db, stock, sale.sale_id, actor="test") == sale
    with pytest.raises(Missing):
        await drafts.delete(db, stock, sale.sale_id, actor="test")
    assert not await store.exists(redis_keys.sale(sale.sale_id))
    # Gateways may still know it by its old number.
    again = NewSale(sale.sale_id, 1, 1)
    with pytest.raises(WrongState, match="deleted just now"):
        await sales.create(db, stock, again)
    await db.execute(
        "UPDATE audit SET at = at - interval '1 minute' WHERE sale_id = $1", sale.sale_id
    )
    assert (await sales.create(db, stock, again)).number != sale.number


def test_times_that_are_over_are_refused():
    now = datetime.now(UTC)
    terms.check_times(None, None)
    terms.check_times(now, now + timedelta(hours=1))
    for times in ((None, now), (now - timedelta(hours=1), None), (None, now - timedelta(days=9))):
        with pytest.raises(UserMistake, match="is over") as refused:
            terms.check_times(*times)
        assert "\n" not in str(refused.value)
