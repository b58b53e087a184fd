"""The life of a sale through the admin API: made, opened, limited and closed, or refused."""

from __future__ import annotations

from aiohttp import ClientSession

from ops.buyers import grab
from seckill.adapters import redis_keys
from seckill.sales import sales
from tests.acceptance.admin_api import NEW, bearer, call, refusal

BAD_TERMS = [
    ({"stock": 0}, "stock"),
    ({"stock": 2**31}, "stock"),
    ({"stock": "2"}, "stock"),
    ({"price_cents": -1}, "price_cents"),
    ({"price_cents": 10**15 + 1}, "price_cents"),
    ({"per_order_max": 0}, "per_order_max"),
    ({"payment_window_s": 0}, "payment_window_s"),
    ({"payment_window_s": 30 * 86_400 + 1}, "payment_window_s"),
    ({"opens_at": "tomorrow"}, "opens_at"),
    ({"opens_at": "2030-11-11T20:00:00"}, "opens_at"),
    ({"sale_id": "with space"}, "sale_id"),
    ({"sale_id": "a\0b"}, "sale_id"),
    ({"opens_at": "2030-11-11T20:00:00Z", "closes_at": "2030-11-11T20:00:00Z"}, "closes_at"),
    ({"closes_at": "9999-12-31T23:59:59-12:00"}, "closes_at"),
    ({"opens_at": "9999-12-31T23:59:59Z"}, "opens_at"),
    ({"price_cents": 10**15, "per_order_max": 10**6}, "price_cents"),
    ({"currency": "eur"}, "currency"),
    ({"picture_url": "http://shop.example/shoe.jpg"}, "picture_url"),
    ({"metadata": {"text": "x" * 5_000}}, "metadata"),
    ({"colour": "red"}, None),
]


async def test_a_sale_is_made_opened_sold_and_closed(admin, http, ticket_for, db, store):
    status, made = await call(admin, "POST", "/admin/sales", json=NEW)
    assert (status, made["state"], made["total"], made["per_order_max"]) == (201, "created", 2, 1)
    sale = await sales.find(db, "by-http")
    assert made["number"] == sale.number
    assert (await grab(http, "by-http", "ann", ticket_for(sale, "ann"))).code == "not_open"

    status, opened = await call(admin, "POST", "/admin/sales/by-http/open")
    assert (status, opened["state"], opened["was_opened"]) == (200, "open", True)
    assert (await grab(http, "by-http", "ann", ticket_for(sale, "ann"))).status == 202

    # Opening again changes nothing.
    assert (await call(admin, "POST", "/admin/sales/by-http/open"))[0] == 200
    status, shown = await call(admin, "GET", "/admin/sales/by-http")
    outbox = shown["redis"].pop(
        "outbox"
    )  # the entry goes with the next grab, or a moment later without
    assert outbox in (0, 1)
    assert (status, shown) == (
        200,
        opened
        | {
            "redis": {
                "state": "open",
                "stock": 1,
                "holders": 1,
                "corrections": 0,
                "epoch": 1,
                "total": 2,
            }
        },
    )
    _, listed = await call(admin, "GET", "/admin/sales")
    assert opened in listed["sales"]

    for _ in range(2):
        status, closed = await call(admin, "POST", "/admin/sales/by-http/close")
        assert (status, closed["state"]) == (200, "closed")
    assert (await grab(http, "by-http", "bob", ticket_for(sale, "bob"))).code == "closed"


async def test_all_terms_of_a_sale_can_be_given(admin):
    terms = {
        "sale_id": "all-terms",
        "stock": 2**31 - 1,
        "price_cents": 0,
        "per_order_max": 7,
        "opens_at": "2030-11-11T20:00:00+08:00",
        "closes_at": "2030-11-11T13:00:00Z",
        "payment_window_s": 30 * 86_400,
    }
    status, made = await call(admin, "POST", "/admin/sales", json=terms)
    assert status == 201
    assert made["opens_at"] == "2030-11-11T12:00:00Z"
    assert {name: made[name] for name in ("per_order_max", "closes_at", "payment_window_s")} == {
        name: terms[name] for name in ("per_order_max", "closes_at", "payment_window_s")
    }


async def test_impossible_terms_are_refused_by_field_and_make_nothing(admin, db):
    for terms, field in BAD_TERMS:
        status, body = await call(
            admin, "POST", "/admin/sales", json=NEW | {"sale_id": "bad"} | terms
        )
        assert (status, body["code"], body.get("field")) == (422, "bad_request", field), terms
        assert body["detail"]
    assert not await db.fetchval("SELECT count(*) FROM sales WHERE sale_id = 'bad'")
    for body, code in ((b"{", (400, "malformed")), (b"x" * 40_000, (413, "too_large"))):
        headers = {"Content-Type": "application/json"}
        assert await refusal(admin, "POST", "/admin/sales", data=body, headers=headers) == code
    assert await refusal(admin, "POST", "/admin/sales", data=b"{}") == (
        415,
        "unsupported_media_type",
    )


async def test_a_change_that_does_not_fit_is_a_conflict_and_a_missing_sale_is_404(
    admin, open_sale, store
):
    sale = await open_sale(opened=False)
    path = f"/admin/sales/{sale.sale_id}"
    taken = NEW | {"sale_id": sale.sale_id}
    assert await refusal(admin, "POST", "/admin/sales", json=taken) == (409, "conflict")
    status, body = await call(admin, "POST", f"{path}/close")
    assert (status, body["code"]) == (409, "conflict")
    assert "never opened" in body["detail"]
    for method, rest in (("GET", ""), ("POST", "/open"), ("POST", "/close"), ("GET", "/ledger")):
        assert await refusal(admin, method, f"/admin/sales/nowhere{rest}") == (404, "not_found")
        status, body = await call(admin, method, f"/admin/sales/a%00b{rest}")
        assert (status, body["field"]) == (422, "sale_id")


async def test_F8_a_sale_that_redis_has_lost_is_shown_as_such_and_not_opened(
    admin, open_sale, store
):
    sale = await open_sale()
    await store.delete(redis_keys.stock(sale.sale_id), redis_keys.sale(sale.sale_id))
    assert (await call(admin, "GET", f"/admin/sales/{sale.sale_id}"))[1]["redis"] is None
    for change in ("open", "close"):
        assert await refusal(admin, "POST", f"/admin/sales/{sale.sale_id}/{change}") == (
            409,
            "conflict",
        )


async def test_limits_are_shown_and_set_while_a_sale_runs(gateway, admin, http, open_sale):
    sale = await open_sale()
    path = f"/admin/sales/{sale.sale_id}/limits"
    status, body = await call(admin, "GET", path)
    assert (status, body["try"]["own"], body["try"]["mode"]) == (200, False, "enforce")
    status, body = await call(admin, "PUT", path, json={"try": {"rate": 5}})
    assert (status, body["try"]["rate"], body["try"]["burst"]) == (200, 5, 11)
    assert body["cancel"]["own"] is False
    status, body = await call(admin, "PUT", path, json={"try": None, "cancel": {"rate": 7}})
    assert (status, body["try"]["own"], body["cancel"]["rate"]) == (200, False, 7)
    assert body["try"]["rate"] != 5
    for bad in ({"try": {"rate": 0}}, {"pay": {"rate": 1}}, {"try": {"rate": 1, "burst": -1}}):
        status, body = await call(admin, "PUT", path, json=bad)
        assert (status, body["code"]) == (422, "bad_request"), bad
    status, body = await call(
        admin, "PUT", "/admin/sales/nowhere/limits", json={"try": {"rate": 5}}
    )
    assert (status, body["code"]) == (404, "not_found")


async def test_each_change_is_one_line_in_the_log(processes, open_sale, admin_token):
    gateway = await processes.run("gateway")
    sale = await open_sale(opened=False)
    async with ClientSession(gateway.admin_url, headers=bearer(admin_token)) as http:
        for change in ("close", "open", "close"):
            await call(http, "POST", f"/admin/sales/{sale.sale_id}/{change}")
        await call(http, "POST", "/admin/sales", json=NEW | {"sale_id": "a\nb", "stock": 1})
        await call(http, "GET", f"/admin/sales/{sale.sale_id}")
    lines = [
        line.partition("gateway.admin.auth: ")[2]
        for line in gateway.child.spec.log.read_text().splitlines()
        if "gateway.admin.auth" in line
    ]
    assert lines == [
        f"admin: close sale '{sale.sale_id}': WrongState",
        f"admin: open sale '{sale.sale_id}': done",
        f"admin: close sale '{sale.sale_id}': done",
        r"admin: create sale 'a\nb': UserMistake",
    ]
