"""The admin API: for who has the token, on the admin port alone, and without harm to buyers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from config.settings import Settings
from ops.buyers import grab
from ops.processes.supervision import DRAIN_MARGIN_S
from seckill.adapters import redis_keys
from seckill.consistency import verify
from seckill.sales import sales
from tests.processes import Process, Processes, eventually

CALLS = [
    ("GET", "/admin/sales"),
    ("POST", "/admin/sales"),
    ("GET", "/admin/sales/x"),
    ("POST", "/admin/sales/x/open"),
    ("POST", "/admin/sales/x/close"),
    ("POST", "/admin/sales/x/pause"),
    ("POST", "/admin/sales/x/resume"),
    ("POST", "/admin/sales/x/restock"),
    ("GET", "/admin/sales/x/ledger"),
]
NEW = {"sale_id": "by-http", "stock": 2, "price_cents": 1999}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def token(settings: Settings) -> str:
    return settings.admin_token.get_secret_value()


@pytest.fixture
async def admin(gateway: Process, token: str) -> AsyncIterator[ClientSession]:
    async with ClientSession(gateway.admin_url, headers=bearer(token)) as session:
        yield session


async def call(http: ClientSession, method: str, path: str, **options):
    """Status and body; what is refused is a problem with a code."""
    async with http.request(method, path, **options) as response:
        body = await response.json(content_type=None)
        if response.status >= 400:
            assert response.content_type == "application/problem+json"
        return response.status, body


async def refusal(http: ClientSession, method: str, path: str, **options):
    status, body = await call(http, method, path, **options)
    return status, body["code"]


def counting(gateway: Process) -> list[int]:
    """The pids of the processes that count a ledger for this gateway."""
    pid = gateway.child.pid
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # empty once it has ended
    except OSError:
        return False


async def unbalance(sale, store) -> None:
    """Take a unit away: who waits for the ledger waits until it is back."""
    await store.decr(redis_keys.stock(sale.sale_id))


# Who is let in.


@pytest.mark.parametrize(("method", "path"), CALLS)
async def test_every_call_needs_the_token(gateway, token, method, path):
    altered = token[:-1] + ("0" if token[-1] != "0" else "1")
    async with ClientSession(gateway.admin_url) as http:
        for headers in ({}, bearer(""), bearer(altered), {"Authorization": f"Basic {token}"}):
            async with http.request(method, path, headers=headers) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
                assert (await response.json(content_type=None))["code"] == "bad_admin_token"


async def test_bytes_that_are_no_text_are_a_wrong_token(gateway):
    host, port = gateway.admin_url.removeprefix("http://").split(":")
    for raw in (b"\xff" * 32, b"\xc3\xa9" * 16, b"\x80"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            b"GET /admin/sales HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Authorization: Bearer " + raw + b"\r\n\r\n"
        )
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answer.split()[1] == b"401", raw


async def test_health_and_metrics_need_no_token(gateway):
    async with ClientSession(gateway.admin_url) as http:
        for path in ("/livez", "/readyz", "/metrics"):
            for method in ("GET", "HEAD"):
                async with http.request(method, path) as response:
                    assert response.status == 200, (method, path)


async def test_other_paths_and_methods_are_problems(admin):
    assert await refusal(admin, "GET", "/admin") == (404, "not_found")
    async with admin.post("/livez") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    async with admin.delete("/admin/sales") as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET, POST")


async def test_neither_port_answers_for_the_other(http, admin, token):
    for method, path in (*CALLS, ("GET", "/metrics"), ("GET", "/livez"), ("GET", "/readyz")):
        assert await refusal(http, method, path, headers=bearer(token)) == (404, "not_found")
    for method, path in (
        ("GET", "/v1/sales"),
        ("GET", "/v1/sales/x"),
        ("POST", "/v1/sales/x/grabs"),
        ("POST", "/v1/sales/x/tickets"),
        ("GET", "/v1/sales/x/orders/mine"),
        ("DELETE", "/v1/orders/x"),
    ):
        assert await refusal(admin, method, path) == (404, "not_found")


async def test_without_a_token_in_the_settings_the_api_is_off_and_says_so(processes):
    gateway = await processes.run("gateway", SECKILL_ADMIN_TOKEN="")
    async with ClientSession(gateway.admin_url) as http:
        for headers in ({}, bearer(""), {"Authorization": "Bearer"}):
            for method, path in CALLS:
                status, body = await call(http, method, path, headers=headers)
                assert (status, body["code"]) == (403, "admin_off")
                assert "SECKILL_ADMIN_TOKEN" in body["detail"]
        async with http.get("/livez") as response:
            assert response.status == 200


# The life of a sale.


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
    outbox = shown["redis"].pop("outbox")  # the entry goes when the next grab or nobody comes
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
    ({"sale_id": "with space"}, None),
    ({"sale_id": "a\0b"}, None),
    ({"opens_at": "2030-11-11T20:00:00Z", "closes_at": "2030-11-11T20:00:00Z"}, None),
    ({"closes_at": "9999-12-31T23:59:59-12:00"}, None),
    ({"price_cents": 10**15, "per_order_max": 10**6}, None),
    ({"colour": "red"}, None),
]


async def test_impossible_terms_are_refused_by_field_and_make_nothing(admin, db):
    for terms, field in BAD_TERMS:
        status, body = await call(
            admin, "POST", "/admin/sales", json=NEW | {"sale_id": "bad"} | terms
        )
        assert (status, body["code"], body.get("field")) == (422, "bad_request", field), terms
        assert body["detail"]
    assert not await db.fetchval("SELECT count(*) FROM sales WHERE sale_id = 'bad'")
    for body, code in ((b"{", (400, "malformed")), (b"x" * 5_000, (413, "too_large"))):
        headers = {"Content-Type": "application/json"}
        assert await refusal(admin, "POST", "/admin/sales", data=body, headers=headers) == code
    assert await refusal(admin, "POST", "/admin/sales", data=b"{}") == (
        415,
        "unsupported_media_type",
    )


async def test_what_does_not_fit_is_a_conflict_and_what_is_not_there_404(admin, open_sale, store):
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


async def test_each_change_is_one_line_in_the_log(processes, open_sale, token):
    gateway = await processes.run("gateway")
    sale = await open_sale(opened=False)
    async with ClientSession(gateway.admin_url, headers=bearer(token)) as http:
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


# The ledger.


async def test_the_ledger_is_the_one_of_verify(admin, open_sale, store, db):
    sale = await open_sale(stock=5)
    path = f"/admin/sales/{sale.sale_id}/ledger"
    expected = (await verify.verify(store, db, sale.sale_id)).summary()
    assert await call(admin, "GET", path) == (200, expected)
    assert expected["balanced"]

    await unbalance(sale, store)
    status, books = await call(admin, "GET", path, params={"wait": "0.01"})
    assert (status, books["balanced"]) == (200, False)
    assert "I1: redis stock 4" in books["violations"][0]


@pytest.mark.parametrize("wait", ["-1", "60.1", "nan", "inf", "soon", ""])
async def test_a_wait_that_cannot_be_is_refused(admin, wait):
    status, body = await call(admin, "GET", "/admin/sales/x/ledger", params={"wait": wait})
    assert (status, body["field"]) == (422, "wait")


async def test_the_ledger_is_counted_beside_the_gateway_one_at_a_time(
    gateway, admin, http, open_sale, store
):
    sale = await open_sale(stock=5)
    path = f"/admin/sales/{sale.sale_id}/ledger"
    await unbalance(sale, store)
    waiting = asyncio.create_task(call(admin, "GET", path, params={"wait": "60"}))

    async def counts():
        return counting(gateway)

    (pid,) = await eventually(counts, "a process counts")

    async def stands_back():
        return os.getpriority(os.PRIO_PROCESS, pid) > 0

    await eventually(stands_back, "it leaves the processor to the gateway")
    assert await refusal(admin, "GET", path) == (503, "overloaded")
    assert (await call(http, "GET", "/v1/sales"))[0] == 200
    assert not waiting.done()

    await store.incr(redis_keys.stock(sale.sale_id))

    status, books = await waiting
    assert (status, books["balanced"]) == (200, True)
    assert counting(gateway) == []


async def test_when_nobody_waits_any_more_nobody_counts(gateway, admin, open_sale, store):
    sale = await open_sale(stock=5)
    path = f"/admin/sales/{sale.sale_id}/ledger"
    await unbalance(sale, store)
    waiting = asyncio.create_task(call(admin, "GET", path, params={"wait": "60"}))

    async def counts():
        return counting(gateway)

    async def rests():
        return not counting(gateway)

    await eventually(counts, "a process counts")
    waiting.cancel()
    await eventually(rests, "the process has ended")
    assert (await call(admin, "GET", path))[0] == 200


@pytest.fixture
async def beset(processes: Processes, open_sale, store, token):
    """A gateway that counts for somebody who waits, and the process that does."""
    gateway = await processes.run("gateway")
    sale = await open_sale(stock=5)
    await unbalance(sale, store)
    async with ClientSession(gateway.admin_url, headers=bearer(token)) as http:
        path = f"/admin/sales/{sale.sale_id}/ledger"
        waiting = asyncio.create_task(http.get(path, params={"wait": "60"}))

        async def counts():
            return counting(gateway)

        (pid,) = await eventually(counts, "a process counts")
        yield gateway, pid
        await asyncio.gather(waiting, return_exceptions=True)


async def test_a_gateway_told_to_stop_does_so_within_its_supervisors_patience(beset, settings):
    gateway, pid = beset
    await gateway.child.stop(settings.drain_s + DRAIN_MARGIN_S)
    assert gateway.child.describe_end() == "exited with 0"
    assert not runs(pid)


async def test_a_gateway_that_is_killed_takes_its_counting_along(beset):
    gateway, pid = beset
    await gateway.child.kill()

    async def gone():
        return not runs(pid)

    await eventually(gone, "the process has ended")


async def test_limits_are_shown_and_set_while_a_sale_runs(gateway, admin, http, open_sale):
    sale = await open_sale()
    path = f"/admin/sales/{sale.sale_id}/limits"
    status, body = await call(admin, "GET", path)
    assert (status, body["try"]["own"], body["try"]["mode"]) == (200, False, "enforce")
    status, body = await call(admin, "PUT", path, json={"try": {"rate": 5}})
    assert (status, body["try"]["rate"], body["try"]["burst"]) == (200, 5, 11)
    assert body["cancel"]["own"] is False
    for bad in ({"try": {"rate": 0}}, {"pay": {"rate": 1}}, {"try": {"rate": 1, "burst": -1}}):
        status, body = await call(admin, "PUT", path, json=bad)
        assert (status, body["code"]) == (422, "bad_request"), bad
    status, body = await call(
        admin, "PUT", "/admin/sales/nowhere/limits", json={"try": {"rate": 5}}
    )
    assert (status, body["code"]) == (404, "not_found")
