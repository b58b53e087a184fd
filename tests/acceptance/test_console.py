"""The console's server: who may look, who may change, what is written down, and what it costs."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, CookieJar

from gateway.admin.console.hub import WATCHERS_MAX
from gateway.admin.console.routes import WRONG_MAX
from tests.acceptance.admin_api import bearer, call, refusal
from tests.acceptance.console_client import ConsoleClient, signed_in
from tests.processes import eventually

READING = "r" * 40


@pytest.fixture(scope="module")
async def gateway(processes):
    return await processes.run("gateway", SECKILL_ADMIN_READ_TOKEN=READING)


@pytest.fixture
async def console(gateway, admin_token) -> AsyncIterator[ConsoleClient]:
    async with signed_in(gateway.admin_url, admin_token) as client:
        yield client


@pytest.fixture
async def reader(gateway) -> AsyncIterator[ConsoleClient]:
    async with signed_in(gateway.admin_url, READING) as client:
        yield client


async def audit_of(db, sale) -> list[tuple[str, str]]:
    rows = await db.fetch(
        "SELECT actor, reason FROM audit WHERE sale_id = $1 ORDER BY audit_id", sale.sale_id
    )
    return [tuple(row) for row in rows]


async def test_the_page_runs_its_own_scripts_alone(gateway):
    async with ClientSession(gateway.admin_url) as http:
        async with http.get("/console") as response:
            page, policy = await response.text(), response.headers["Content-Security-Policy"]
            assert response.status == 200
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "<style" not in page
        assert "http:" not in page
        assert "https:" not in page
        for path in [part.split('"')[0] for part in page.split('="')[1:] if "/files/" in part]:
            async with http.get(path) as response:
                assert response.status == 200, path
                assert "immutable" in response.headers["Cache-Control"]
                assert response.headers["Content-Encoding"] == "gzip"
        assert await refusal(http, "GET", "/console/files/0/main.js") == (404, "not_found")
        digest = page.split("/files/")[1].split("/")[0]
        for name in ("index.html", "README.md", "uPlot-LICENSE.txt", "..%2Fproof-worker.js"):
            path = f"/console/files/{digest}/{name}"
            assert await refusal(http, "GET", path) == (404, "not_found")


async def test_nothing_is_shown_or_changed_without_a_session(gateway, open_sale, admin_token):
    sale = await open_sale()
    async with ClientSession(gateway.admin_url) as http:
        status, body = await call(http, "GET", "/console/session")
        assert (status, body) == (200, {"signed_in": False})
        for method, path in (
            ("GET", "/console/events"),
            ("GET", "/console/api/sales"),
            ("GET", "/console/api/audit"),
            ("POST", f"/console/api/sales/{sale.sale_id}/pause"),
            ("POST", "/console/session/end"),
        ):
            for headers in ({}, bearer(admin_token), {"Cookie": "seckill_console=rw|9|1|a|b"}):
                found = await refusal(http, method, path, headers=headers)
                assert found == (401, "not_signed_in"), path


async def test_the_cookie_is_for_this_page_of_this_host_alone(gateway, admin_token):
    async with ClientSession(gateway.admin_url) as http:
        for headers, secure in (({}, False), ({"X-Forwarded-Proto": "https"}, True)):
            body = {"token": admin_token}
            async with http.post("/console/session", json=body, headers=headers) as response:
                cookie = response.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
            assert "Path=/console" in cookie
            assert ("Secure" in cookie) is secure
            assert 0 < int(cookie.split("Max-Age=")[1].split(";")[0]) <= 12 * 3600


async def test_a_change_needs_the_token_of_the_session_and_is_written_down(console, open_sale, db):
    sale = await open_sale()
    path = f"/console/api/sales/{sale.sale_id}/pause"
    for proof in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "0" * 64}):
        found = await refusal(console.http, "POST", path, headers=proof, json={})
        assert found == (403, "bad_csrf_token")
    assert await audit_of(db, sale) == []
    for verb in ("pause", "pause", "resume", "close", "open"):
        status, _ = await console.change(f"/sales/{sale.sale_id}/{verb}")
        assert status == 200
    steps = ["open -> paused", "paused -> open", "open -> closed", "closed -> open"]
    assert await audit_of(db, sale) == [("console: anna", step) for step in steps]


async def test_the_second_token_may_look_and_change_nothing(reader, gateway, open_sale, db):
    sale = await open_sale()
    assert reader.session["may_change"] is False
    status, body = await reader.change(f"/sales/{sale.sale_id}/pause")
    assert (status, body["code"]) == (403, "read_only")
    await reader.until(lambda state: sale.sale_id in state["rows"])
    assert await audit_of(db, sale) == []
    async with ClientSession(gateway.admin_url, headers=bearer(READING)) as http:
        assert (await call(http, "GET", "/admin/sales"))[0] == 200
        found = await refusal(http, "POST", f"/admin/sales/{sale.sale_id}/pause")
        assert found == (403, "read_only")


async def test_a_session_is_over_for_the_browser_when_its_owner_says_so(console):
    assert await refusal(console.http, "POST", "/console/session/end") == (403, "bad_csrf_token")
    async with console.http.post("/console/session/end", headers=console.proof) as response:
        assert response.status == 200
    assert (await call(console.http, "GET", "/console/session"))[1] == {"signed_in": False}


async def test_snapshots_follow_a_sale_and_name_the_processes(console, open_sale, http, order_for):
    sale = await open_sale(stock=5)
    await console.until(lambda state: state["rows"].get(sale.sale_id, {}).get("left") == 5)
    await order_for(http, sale, "buyer")
    state = await console.until(lambda s: s["rows"].get(sale.sale_id, {}).get("left") == 4)
    assert state["me"]["pid"] in {each["pid"] for each in state["processes"]}
    assert [store["well"] for store in state["stores"]] == [True, True, True]
    state = await console.until(lambda state: "audit" in state and "queues" in state)
    assert state["troubles"] == {}


async def test_those_who_watch_are_bounded(gateway, admin_token):
    async with signed_in(gateway.admin_url, admin_token) as console:
        streams = [await console.http.get("/console/events") for _ in range(WATCHERS_MAX)]
        found = await refusal(console.http, "GET", "/console/events")
        assert found == (503, "overloaded")
        for stream in streams:
            stream.close()

        async def is_free() -> bool:
            async with console.http.get("/console/events") as again:
                return again.status == 200

        await eventually(is_free, "a place is free again", within_s=60)


async def test_dead_letters_are_grouped_looked_at_and_discarded(console, letters, db):
    for number in (1, 2):
        await letters.arrive(b"junk %d" % number, {"x-reason": f"order {number} is bad"})
    status, found = await call(console.http, "GET", "/console/api/dead-letters")
    (group,) = [group for group in found["groups"] if group["cause"] == "order … is bad"]
    assert (status, group["letters"], len(group["ids"])) == (200, 2, 2)
    status, letter = await call(console.http, "GET", f"/console/api/dead-letters/{group['ids'][0]}")
    assert (status, letter["reason"]) == (200, "order 2 is bad")
    assert (await console.change("/dead-letters/discard", {"ids": group["ids"]}))[0] == 422
    body = {"ids": group["ids"], "reason": "test"}
    status, done = await console.change("/dead-letters/discard", body)
    assert [each["outcome"] for each in done["letters"]] == ["discarded", "discarded"]
    rows = await db.fetch("SELECT actor FROM audit WHERE action = 'dead.discard'")
    assert {row[0] for row in rows} == {"console: anna"}


async def test_without_a_pool_in_its_home_a_gateway_says_so(console, db):
    for verb, body in (("scale", {"counts": {"relay": [1, 1]}}), ("pause", {"roles": ["relay"]})):
        status, problem = await console.change(f"/pool/{verb}", body)
        assert (status, problem["code"]) == (503, "no_pool")
    assert not await db.fetchval("SELECT count(*) FROM audit WHERE action LIKE 'pool.%'")


async def test_wrong_tokens_are_refused_and_soon_not_even_looked_at(processes, admin_token):
    gateway = await processes.run("gateway")
    async with ClientSession(gateway.admin_url, cookie_jar=CookieJar(unsafe=True)) as http:
        found = [
            await refusal(http, "POST", "/console/session", json={"token": "x" * 40})
            for _ in range(WRONG_MAX)
        ]
        assert set(found) == {(401, "bad_admin_token")}
        body = {"token": admin_token}
        found = await refusal(http, "POST", "/console/session", json=body)
        assert found == (429, "rate_limited")
