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


async def test_a_sale_is_shown_with_all_that_its_page_needs(http, admin):
    opens_at = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=1)
    page = {
        "name": "Schuhe für alle",
        "sku": "SN-42",
        "picture_url": "https://shop.example/shoe.jpg?size=2",
        "metadata": {"colour": "red", "sizes": [42, 43]},
    }
    terms = NEW | page | {"sale_id": "described", "opens_at": opens_at.isoformat()}
    status, made = await call(admin, "POST", "/admin/sales", json=terms)
    assert (status, {name: made[name] for name in page}) == (201, page)
    await call(admin, "POST", "/admin/sales/described/open")

    async def shown():
        async with http.get("/v1/sales/described") as response:
            return await response.json() if response.status == 200 else None

    view = await eventually(shown, "the sale is shown")
    assert {name: view[name] for name in page} == page
    assert datetime.fromisoformat(view["opens_at"]) == opens_at
    assert datetime.fromisoformat(view["tickets_from"]) <= opens_at
    for bad in (
        {"picture_url": "http://shop.example/shoe.jpg"},
        {"picture_url": "https://"},
        {"picture_url": 'https://shop.example/"onload='},
        {"picture_url": "https://user@shop.example/"},
        {"name": "two\nlines"},
        {"name": ""},
        {"sku": "x" * 65},
        {"metadata": {"text": "x" * 2050}},
        {"metadata": ["no object"]},
    ):
        assert await refusal(
            admin, "POST", "/admin/sales", json=NEW | {"sale_id": "bad"} | bad
        ) == (
            422,
            "bad_request",
        ), bad


async def test_the_copy_of_a_sale_is_the_same_for_all_and_named_by_a_strong_tag(http, open_sale):
    path = f"/v1/sales/{(await open_sale()).sale_id}"

    async def both():
        """Return a view and what the request with its tag was answered, within one second."""
        async with http.get(path) as response:
            body, headers = await response.read(), response.headers
        async with http.get(path, headers={"If-None-Match": headers["ETag"]}) as response:
            if response.status != 304:
                return None
            assert (await response.read(), response.headers["ETag"]) == (b"", headers["ETag"])
            assert response.headers["Cache-Control"] == "public, max-age=1"
        async with http.get(path) as response:
            same = response.headers["ETag"] == headers["ETag"]
            assert not same or await response.read() == body
        return headers

    headers = await eventually(both, "a copy is still right")
    assert headers["Cache-Control"] == "public, max-age=1"
    assert headers["ETag"].startswith('"')
    assert headers["Content-Type"] == "application/json"


async def test_a_hidden_sale_is_404_to_buyers_until_it_is_announced(
    http, admin, ticket_for, login_for
):
    await call(admin, "POST", "/admin/sales", json=NEW | {"sale_id": "secret", "hidden": True})
    status, opened = await call(admin, "POST", "/admin/sales/secret/open")
    assert (status, opened["hidden"]) == (200, True)
    path, login = "/v1/sales/secret", login_for("ann")
    for method, rest, headers in (
        ("GET", "", None),
        ("POST", "/tickets", login),
        ("POST", "/challenges", login),
        ("GET", "/orders/mine", login),
    ):
        answer = await refusal(http, method, path + rest, headers=headers)
        assert answer == (404, "not_found"), rest
    pressed = await grab(http, "secret", "ann", "no ticket")
    assert (pressed.status, pressed.code) == (404, "not_found")
    async with http.get("/v1/sales") as response:
        listed = [each["sale_id"] for each in (await response.json())["sales"]]
    assert "secret" not in listed

    for _ in range(2):
        status, announced = await call(admin, "POST", "/admin/sales/secret/announce")
        assert (status, announced["hidden"]) == (200, False)

    async def is_shown():
        async with http.get(path) as response:
            return response.status == 200

    await eventually(is_shown, "the sale is shown")


async def test_a_sale_that_was_never_opened_is_edited_and_deleted_by_http(admin, db):
    await call(admin, "POST", "/admin/sales", json=NEW | {"sale_id": "draft"})
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    status, changed = await call(
        admin, "POST", "/admin/sales/draft/edit", json={"name": "Shoe", "announce_at": soon}
    )
    assert (status, changed["name"], changed["hidden"]) == (200, "Shoe", True)
    _, changed = await call(admin, "POST", "/admin/sales/draft/edit", json={"hidden": False})
    assert (changed["hidden"], changed["announce_at"], changed["name"]) == (False, None, "Shoe")
    for bad in ({"stock": 0}, {"sale_id": "other"}, {}, {"opens_at": "2020-01-01T00:00:00Z"}):
        answer = await refusal(admin, "POST", "/admin/sales/draft/edit", json=bad)
        assert answer == (422, "bad_request"), bad
    assert (await call(admin, "POST", "/admin/sales/draft/delete"))[0] == 200
    assert await refusal(admin, "POST", "/admin/sales/draft/delete") == (404, "not_found")
    rows = await db.fetch(
        "SELECT actor, action, reason FROM audit WHERE sale_id = 'draft' ORDER BY audit_id"
    )
    assert [tuple(row) for row in rows] == [
        ("admin API", "sale.create", "created"),
        ("admin API", "sale.edit", "changed: name, hidden, announce_at"),
        ("admin API", "sale.edit", "changed: hidden, announce_at"),
        ("admin API", "sale.delete", "never opened"),
    ]


async def test_a_sold_out_sale_says_when_the_next_unpaid_order_runs_out(
    http, consumers, open_sale, order_for, db
):
    sale = await open_sale(stock=2)

    async def units_back_from():
        async with http.get(f"/v1/sales/{sale.sale_id}") as response:
            moment = (await response.json())["units_back_from"]
            return moment and datetime.fromisoformat(moment)

    await order_for(http, sale, "alice")
    assert await units_back_from() is None  # one is left
    await order_for(http, sale, "bob")
    moment = await eventually(units_back_from, "the moment is known")
    assert moment == await db.fetchval(
        "SELECT min(pay_by) FROM orders WHERE sale_id = $1", sale.sale_id
    )
