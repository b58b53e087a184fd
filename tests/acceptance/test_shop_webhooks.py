"""`/shop/v1/webhooks` at a real gateway: every answer is held against the contract of its port."""

from __future__ import annotations

import asyncio

import pytest

from seckill.shop.tokens import Scope
from tests.acceptance.admin_api import audited, call, refusal
from tests.webhooks import WebhookBench

PATH = "/shop/v1/webhooks"
URL = "https://shop.example/seckill-events"


@pytest.fixture
async def bench(db):
    bench = WebhookBench(db)
    await bench.clear()
    yield bench
    await bench.clear()


@pytest.fixture
async def manager(session_of, bench):
    return await session_of(Scope.WEBHOOKS_READ, Scope.WEBHOOKS_WRITE)


def key(name):
    return {"Idempotency-Key": name}


async def paused(manager, name="of-a-test"):
    """Add an endpoint to which nothing is sent."""
    _, made = await call(manager, "POST", PATH, json={"url": URL}, headers=key(name))
    webhook_id = made["webhook"]["webhook_id"]
    body = {"reason": "a test"}
    assert (await call(manager, "POST", f"{PATH}/{webhook_id}/pause", json=body))[0] == 200
    return webhook_id


async def test_a_webhook_is_added_once_for_each_key_and_its_secret_shown_once(manager, db):
    body = {"url": URL, "events": ["order.paid", "sale.*"]}
    for replayed in (None, "true"):
        async with manager.post(PATH, json=body, headers=key("first")) as response:
            made = await response.json()
            assert (response.status, made["webhook"]["events"]) == (200, body["events"])
            assert response.headers.get("Idempotent-Replayed") == replayed
    id_, secret = made["webhook"]["webhook_id"], made["secret"]
    assert secret == await db.fetchval("SELECT secret FROM webhook_endpoints")
    async with manager.get(f"{PATH}/{id_}") as response:
        text = await response.text()
        assert await response.json() == made["webhook"]
    async with manager.get(PATH) as response:
        assert "whsec_" not in text + await response.text()
    ((_, _, details),) = await audited(db, manager, "webhook.add")
    assert URL in details
    assert "whsec_" not in details


async def test_two_calls_with_one_key_at_once_add_one_webhook(manager, bench, db):
    body = {"url": URL}
    both = await asyncio.gather(
        *(call(manager, "POST", PATH, json=body, headers=key("twins")) for _ in range(2))
    )
    assert both[0] == both[1]
    assert await db.fetchval("SELECT count(*) FROM webhook_endpoints") == 1


async def test_a_webhook_is_changed_paused_resumed_and_removed_on_record(manager, bench, db):
    id_ = await paused(manager)
    one = f"{PATH}/{id_}"
    _, shown = await call(manager, "POST", f"{one}/pause", json={"reason": "another"})
    assert (shown["state"], shown["paused_because"]) == ("paused", "a test")
    for _ in range(2):
        _, shown = await call(manager, "POST", f"{one}/resume")
        assert (shown["state"], shown["paused_because"]) == ("active", None)
    _, shown = await call(manager, "PATCH", one, json={"events": ["order.*"]})
    assert (shown["url"], shown["events"]) == (URL, ["order.*"])
    _, shown = await call(manager, "PATCH", one, json={"url": f"{URL}/2", "events": []})
    assert (shown["url"], shown["events"]) == (f"{URL}/2", [])
    await call(manager, "POST", f"{one}/pause", json={"reason": "ends"})
    await bench.queue(2)
    assert await refusal(manager, "DELETE", one) == (409, "conflict")
    assert await call(manager, "DELETE", f"{one}?drop=true") == (200, {"dropped": 2})
    assert await refusal(manager, "DELETE", one) == (404, "not_found")
    reasons = [row[1] for row in await audited(db, manager, "webhook.disable")]
    assert reasons == ["a test", "ends"]
    for action, rows in (("enable", 1), ("change", 2), ("remove", 1)):
        assert len(await audited(db, manager, f"webhook.{action}")) == rows


async def test_a_secret_is_rolled_once_for_each_key_and_the_old_one_signs_for_a_while(
    manager, bench
):
    _, made = await call(manager, "POST", PATH, json={"url": URL}, headers=key("rolled"))
    rotate = f"{PATH}/{made['webhook']['webhook_id']}/rotate"
    answers = [
        await call(manager, "POST", rotate, json={}, headers=key("roll-1")) for _ in range(2)
    ]
    assert answers[0] == answers[1]
    new = answers[0][1]["secret"]
    (endpoint,) = await bench.db.fetch("SELECT secret, old_secret FROM webhook_endpoints")
    assert tuple(endpoint) == (new, made["secret"])
    leaked = {"keep_old_s": 0}
    assert (await call(manager, "POST", rotate, json=leaked, headers=key("roll-2")))[0] == 200
    assert await bench.db.fetchval("SELECT old_secret_until <= now() FROM webhook_endpoints")


async def test_deliveries_are_listed_page_by_page_and_replayed_once(manager, bench, db):
    id_, other = await paused(manager), await paused(manager, "another")
    await bench.queue(3)
    await db.execute("UPDATE webhook_deliveries SET state = 'dead', last_words = 'no route'")
    _, first = await call(manager, "GET", f"{PATH}/{id_}/deliveries?limit=2")
    _, rest = await call(manager, "GET", f"{PATH}/{id_}/deliveries?cursor={first['next']}")
    listed = [*first["deliveries"], *rest["deliveries"]]
    numbers = [each["delivery_id"] for each in listed]
    assert (len(numbers), rest["next"]) == (3, None)
    assert numbers == sorted(numbers, reverse=True)
    assert {(each["webhook_id"], each["last_words"]) for each in listed} == {(id_, "no route")}

    newest = f"{numbers[0]}/replay"
    assert await refusal(
        manager, "POST", f"{PATH}/{other}/deliveries/{newest}", headers=key("strange")
    ) == (404, "not_found")
    again = f"{PATH}/{id_}/deliveries/{newest}"
    for _ in range(2):
        answer = await call(manager, "POST", again, headers=key("once"))
        assert answer == (200, {"replayed": 1})
    assert len(await audited(db, manager, "webhook.replay")) == 1
    _, dead = await call(manager, "GET", f"{PATH}/{id_}/deliveries?state=dead")
    assert [each["delivery_id"] for each in dead["deliveries"]] == numbers[1:]
    _, shown = await call(manager, "GET", f"{PATH}/{id_}")
    assert (shown["pending"], shown["dead"]) == (1, 2)

    replay, later = f"{PATH}/{id_}/replay", {"since": "2100-01-01T00:00:00Z"}
    none = await call(manager, "POST", replay, json=later, headers=key("later"))
    assert none == (200, {"replayed": 0})
    all_ = await call(manager, "POST", replay, json={}, headers=key("all"))
    assert all_ == (200, {"replayed": 2})
    _, shown = await call(manager, "GET", f"{PATH}/{other}")
    assert (shown["pending"], shown["dead"]) == (0, 3)


async def test_webhooks_are_listed_page_by_page(manager):
    made = [await paused(manager, f"page-{n}") for n in range(3)]
    _, first = await call(manager, "GET", f"{PATH}?limit=2")
    _, rest = await call(manager, "GET", f"{PATH}?limit=2&cursor={first['next']}")
    listed = [each["webhook_id"] for each in (*first["webhooks"], *rest["webhooks"])]
    assert (listed, rest["next"]) == (made[::-1], None)


async def test_each_scope_allows_its_own_calls(session_of, bench):
    reader = await session_of(Scope.WEBHOOKS_READ)
    writer = await session_of(Scope.WEBHOOKS_WRITE)
    wrong = (403, "missing_scope")
    assert await refusal(reader, "POST", PATH, json={"url": URL}, headers=key("r")) == wrong
    assert await refusal(writer, "GET", PATH) == wrong
    assert (await call(reader, "GET", PATH))[0] == 200


@pytest.mark.parametrize(
    ("url", "events"),
    [
        ("http://shop.example/", []),
        ("https://127.0.0.1/", []),
        ("https://[::ffff:10.0.0.1]/", []),
        ("https://user:word@shop.example/", []),
        ("no address", []),
        (URL, ["order.eaten"]),
    ],
)
async def test_an_address_or_event_that_cannot_be_is_refused(manager, db, url, events):
    body = {"url": url, "events": events}
    refused = await refusal(manager, "POST", PATH, json=body, headers=key("wrong"))
    assert refused == (422, "bad_request")
    assert await db.fetchval("SELECT count(*) FROM webhook_endpoints") == 0


async def test_a_call_that_names_nothing_says_so(manager):
    for path, status in (("/7", 404), ("/0", 422), ("/x", 422), ("/7/deliveries", 404)):
        assert (await refusal(manager, "GET", f"{PATH}{path}"))[0] == status
    assert await refusal(manager, "GET", f"{PATH}?state=dead") == (422, "bad_request")
    assert await refusal(manager, "POST", PATH, json={"url": URL}) == (
        400,
        "idempotency_key_needed",
    )
    assert await refusal(manager, "PATCH", f"{PATH}/7", json={}) == (422, "bad_request")
