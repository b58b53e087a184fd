"""Sales as buyers see them: pages, copies that are still good, hidden and archived sales."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

from ops.buyers import grab
from seckill.consistency import archive
from seckill.sales import drafts, sales
from tests.acceptance.admin_api import NEW, call, refusal
from tests.processes import eventually


async def test_pages_have_every_opened_sale_once_and_the_newest_first(http, open_sale):
    made = [(await open_sale()).sale_id for _ in range(5)]
    hidden = (await open_sale(opened=False)).sale_id
    found, cursor = [], str(2**24)
    while cursor:
        async with http.get("/v1/sales", params={"limit": "2", "cursor": cursor}) as response:
            page = await response.json()
        found += [sale["sale_id"] for sale in page["sales"]]
        assert len(page["sales"]) == 2 or page["next"] is None
        cursor = page["next"]
    assert len(set(found)) == len(found)
    assert found[:5] == made[::-1]
    assert hidden not in found
    async with http.get("/v1/sales", params={"cursor": "0"}) as response:
        assert await response.json() == {"sales": [], "next": None}
    for query in ({"limit": "0"}, {"limit": "101"}, {"limit": ""}, {"cursor": "-1"}):
        async with http.get("/v1/sales", params=query) as response:
            refused = await response.json(content_type=None)
            assert (response.status, refused["field"]) == (422, next(iter(query)))


async def test_a_client_with_a_good_copy_gets_304(http, open_sale):
    sale = await open_sale()
    path, statuses = "/v1/sales?limit=1", []
    for _ in range(3):  # between two of them the time of a tag may be over
        async with http.get(path) as response:
            assert response.headers["Cache-Control"] == "public, max-age=1"
            tag, body = response.headers["ETag"], await response.json()
        async with http.get(path, headers={"If-None-Match": tag}) as response:
            statuses.append(response.status)
            if response.status == 304:
                assert await response.read() == b""
                assert response.headers["ETag"] == tag
                assert response.headers["Cache-Control"] == "public, max-age=1"
    assert 304 in statuses
    assert body["sales"][0]["sale_id"] == sale.sale_id
    async with http.get(path, headers={"If-None-Match": '"other"'}) as response:
        assert response.status == 200


async def test_a_sale_is_hidden_until_it_is_opened_and_shown_before_it_begins(
    http, open_sale, db, stock, ticket_for
):
    sale = await open_sale(opened=False, opens_at=datetime.now(UTC) + timedelta(hours=1))
    path = f"/v1/sales/{sale.sale_id}"
    assert await refusal(http, "GET", path) == (404, "not_found")
    assert (await grab(http, sale.sale_id, "ann", ticket_for(sale, "ann"))).code == "not_open"
    await drafts.edit(db, stock, sale.sale_id, {"price_cents": 5})
    await sales.open_(db, stock, sale.sale_id)

    async def is_shown():
        async with http.get(path) as response:
            return response.status == 200 and (await response.json())["price_cents"] == 5

    await eventually(is_shown, "the sale is shown")


async def test_an_archived_sale_is_closed_for_all_but_who_holds_an_order(
    http, gateway, consumers, open_sale, ticket_for, login_for, db, store, stock, checkout,
    assert_balanced,
):  # fmt: skip
    sale = await open_sale()
    ann, bob = (ticket_for(sale, name) for name in ("ann", "bob"))

    async def pressed(buyer, ticket, *expected):
        """Return the reply that is no 503, as a busy store may cause one."""
        reply = await grab(http, sale.sale_id, buyer, ticket)
        return reply if reply.status in expected else None

    # From here on the gateway believes that units are for sale.
    first = await eventually(partial(pressed, "ann", ann, 200, 202), "ann has an order")
    await checkout.give("ann", 10_000)

    async def is_paid():
        path = f"/v1/orders/{first.order_id}/payments"
        async with http.post(path, json={"method": "wallet"}, headers=login_for("ann")) as paid:
            return paid.status == 200

    await eventually(is_paid, "the order is paid")
    await sales.close(db, stock, sale.sale_id)
    await assert_balanced(sale)
    await archive.archive(store, db, sale.sale_id, actor="test", reason="test")

    assert (await eventually(partial(pressed, "bob", bob, 410), "closed for bob")).code == "closed"
    again = await eventually(partial(pressed, "ann", ann, 200), "ann's order")
    assert again.order_id == first.order_id
    for path in (f"/v1/orders/{first.order_id}", f"/v1/sales/{sale.sale_id}/orders/mine"):
        async with http.get(path, headers=login_for("ann")) as response:
            assert (response.status, (await response.json())["status"]) == (200, "paid")
    async with http.get(f"/v1/orders/{first.order_id}", headers=login_for("bob")) as response:
        assert response.status == 404
    async with http.get(f"/v1/sales/{sale.sale_id}") as response:
        assert (response.status, (await response.json())["state"]) == (200, "closed")

    async def is_unlisted():
        async with http.get("/v1/sales") as response:
            listed = [each["sale_id"] for each in (await response.json())["sales"]]
            return sale.sale_id not in listed

    await eventually(is_unlisted, "the sale is no longer listed")


async def test_times_that_are_over_are_refused(admin):
    over = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    for terms in ({"closes_at": over}, {"opens_at": over}):
        body = NEW | {"sale_id": "too-late"} | terms
        assert await refusal(admin, "POST", "/admin/sales", json=body) == (422, "bad_request")


async def test_an_opening_after_the_closing_time_is_refused(admin, open_sale, db):
    sale = await open_sale(opened=False, closes_at=datetime.now(UTC) + timedelta(hours=1))
    await db.execute(
        "UPDATE sales SET closes_at = now() - interval '1 second' WHERE sale_id = $1", sale.sale_id
    )
    status, body = await call(admin, "POST", f"/admin/sales/{sale.sale_id}/open")
    assert (status, "closes_at" in body["detail"]) == (409, True)
