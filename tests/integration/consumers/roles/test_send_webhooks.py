"""send_webhooks: every event reaches every endpoint that wants it, whatever fails in between."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from aiohttp import web

from consumers.roles import send_webhooks
from consumers.roles.send_webhooks import SendWebhooks
from seckill import audit
from seckill.webhooks import deliveries, endpoints, replays
from tests.webhook_receiver import Receiver, documented_check
from tests.webhooks import WebhookBench


@pytest.fixture
async def bench(db):
    bench = WebhookBench(db)
    await bench.clear()
    yield bench
    await bench.clear()


@pytest.fixture
async def shop_server():
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def other_server():
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
async def sender(bench):
    async with bench.sender() as sender:
        yield sender


@pytest.fixture
def sending(db, sender, running):
    """Run the role in the block."""

    def run():
        return running(SendWebhooks(db, sender, timeout_s=30))

    return run


@pytest.fixture
def once(db, sender):
    """Make the attempts that are due, each to its end; return how many."""
    role = SendWebhooks(db, sender, timeout_s=30)

    async def run():
        begun = await role.begin()
        await asyncio.gather(*(role.attempt(*each, asyncio.Event()) for each in begun))
        return len(begun)

    return run


async def test_an_event_is_sent_to_each_endpoint_that_wants_it(
    bench, shop_server, other_server, once
):
    everything = await bench.add(shop_server.url)
    await bench.add(other_server.url, "sale.*", "order.paid")
    for topic in ("order.placed", "order.paid", "sale.opened", "saga.parked"):
        await bench.queue(topic=topic)
    assert await once() == 6
    topics = [each.body["topic"] for each in shop_server.requests]
    assert sorted(topics) == ["order.paid", "order.placed", "saga.parked", "sale.opened"]
    assert {each.body["topic"] for each in other_server.requests} == {"order.paid", "sale.opened"}
    check = documented_check()
    assert all(check(everything.secret, r.headers, r.raw) for r in shop_server.requests)
    assert {(d.state, d.last_status, d.last_words) for d in await bench.all()} == {
        ("delivered", 200, "thanks")
    }
    assert await once() == 0


async def test_a_failure_is_tried_again_with_the_same_id_and_body(
    bench, shop_server, sending, eventually
):
    endpoint = await bench.add(shop_server.url)
    shop_server.answers = [web.Response(status=500, text="in\x00 the\n\nred")]
    await bench.queue()
    async with sending():

        async def failed():
            (delivery,) = await bench.all()
            failing = (await bench.find(endpoint)).failing_since
            return delivery.last_status == 500 and failing and delivery

        delivery = await eventually(failed, "the first attempt failed")
        assert (delivery.state, delivery.attempts) == ("pending", 1)
        assert delivery.last_words == "in the red"
        await bench.let_time_pass(hours=0.01)

        async def well():
            delivered = await bench.count("delivered")
            return delivered and (await bench.find(endpoint)).failing_since is None

        await eventually(well, "the second attempt is taken")
    first, second = shop_server.requests
    assert (first.message_id, first.raw) == (second.message_id, second.raw)


async def test_an_endpoint_that_hangs_holds_up_no_other(
    bench, shop_server, other_server, sending, eventually
):
    await bench.add(shop_server.url)
    await bench.add(other_server.url)
    go_on = shop_server.hang()
    await bench.queue(count=40)
    async with sending():
        await eventually(lambda: len(set(other_server.ids)) == 40, "the other has all")
        assert shop_server.in_flight == send_webhooks.IN_FLIGHT_MAX
        go_on.set()
        await eventually(lambda: len(set(shop_server.ids)) == 40, "the slow one has all")
    assert shop_server.most_in_flight <= send_webhooks.IN_FLIGHT_MAX


async def test_an_answer_that_does_not_come_in_time_is_a_failure(bench, db, shop_server):
    await bench.add(shop_server.url)
    shop_server.hang()
    await bench.queue()
    async with bench.sender(timeout_s=0.1) as impatient:
        role = SendWebhooks(db, impatient, timeout_s=0.1)
        (begun,) = await role.begin()
        await role.attempt(*begun, asyncio.Event())
    (delivery,) = await bench.all()
    assert (delivery.state, delivery.last_words) == ("pending", "no answer in time")


@pytest.mark.parametrize(
    "after",
    ["Mon, 01 Jan 99999999999 00:00:00 GMT", "Mon, 01 Jan 2026 00:00:00 +99999999999999999"],
)
async def test_a_retry_after_that_is_no_time_harms_no_one(bench, shop_server, once, after):
    await bench.add(shop_server.url)
    shop_server.answers = [web.Response(status=503, headers={"Retry-After": after})]
    await bench.queue()
    assert await once() == 1
    (delivery,) = await bench.all()
    assert (delivery.state, delivery.last_status) == ("pending", 503)


async def test_messages_are_deleted_also_after_the_last_endpoint_was_removed(
    bench, db, shop_server, once
):
    endpoint = await bench.add(shop_server.url)
    await bench.queue()
    assert await once() == 1
    await endpoints.remove(db, endpoint.endpoint_id, drop=True, actor="test")
    await db.execute("UPDATE webhook_messages SET queued_at = now() - interval '8 days'")
    role = SendWebhooks(db, None, timeout_s=30)
    assert await role.begin() == []
    assert await db.fetchval("SELECT count(*) FROM webhook_messages") == 0


async def test_of_an_answer_without_end_the_beginning_is_read(bench, shop_server, once):
    async def endless(request):
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"so long " * 1000)
        except ConnectionError:
            return response

    await bench.add(shop_server.url)
    shop_server.handler = endless
    await bench.queue()
    await once()
    (delivery,) = await bench.all()
    assert (delivery.state, delivery.last_status) == ("delivered", 200)
    assert len(delivery.last_words) <= 512


async def test_a_redirect_is_not_followed(bench, shop_server, other_server, once):
    await bench.add(shop_server.url)
    shop_server.answers = [web.Response(status=307, headers={"Location": other_server.url})]
    await bench.queue()
    await once()
    (delivery,) = await bench.all()
    assert delivery.state == "pending"
    assert f"not followed: {other_server.url}" in delivery.last_words
    assert other_server.requests == []


async def test_a_private_address_is_refused_when_the_connection_is_made(bench, db, shop_server):
    await bench.add(shop_server.url.replace("http:", "https:").replace("127.0.0.1", "localhost"))
    await bench.queue()
    async with bench.sender(private_allowed=False) as careful:
        role = SendWebhooks(db, careful, timeout_s=30)
        (begun,) = await role.begin()
        await role.attempt(*begun, asyncio.Event())
    (delivery,) = await bench.all()
    assert "no public address" in delivery.last_words
    assert delivery.last_status is None


async def test_an_endpoint_that_is_gone_for_three_days_has_dead_letters_and_a_replay(
    bench, db, shop_server, once
):
    endpoint = await bench.add(shop_server.url)
    await bench.queue(count=2)
    for hours in (1, 24, 48):
        shop_server.answers = [web.Response(status=503) for _ in range(2)]
        while shop_server.answers:
            await once()  # one by one, since it fails
            await bench.let_time_pass(hours=0.02)
        await bench.let_time_pass(hours=hours)
    assert await deliveries.upkeep(db) == 2
    assert await once() == 0
    assert {(d.state, d.attempts, d.last_status) for d in await bench.all()} == {("dead", 3, 503)}

    # A replay of all that died, with the same ids
    first = set(shop_server.ids)
    count = await replays.replay_dead(db, endpoint.endpoint_id, None, actor="ann")
    assert count == 2
    while await once():
        pass
    assert await bench.count("delivered") == 2
    assert set(shop_server.ids) == first
    assert (await audit.newest(db, 1))[0].action == "webhook.replay"

    # And one by its number, though it was delivered
    sent = len(shop_server.ids)
    await replays.replay(db, [(await bench.all())[0].delivery_id], actor="ann")
    assert await once() == 1
    assert len(shop_server.ids) == sent + 1


async def test_dead_ones_are_replayed_since_a_time(bench, db, shop_server):
    endpoint = await bench.add(shop_server.url)
    await bench.queue()
    await bench.let_time_pass(hours=10)
    await bench.queue()
    await db.execute("UPDATE webhook_deliveries SET state = 'dead'")
    since = await db.fetchval("SELECT now() - interval '1 hour'")
    assert await replays.replay_dead(db, endpoint.endpoint_id, since, actor="ann") == 1
    assert [each.state for each in await bench.all()] == ["dead", "pending"]


async def test_what_was_never_tried_is_tried_first_however_late(bench, db, shop_server, once):
    await bench.add(shop_server.url)
    await bench.queue()
    await bench.let_time_pass(hours=100)
    assert await deliveries.upkeep(db) == 0
    assert await once() == 1
    assert await bench.count("delivered") == 1


async def test_gone_disables_the_endpoint_and_its_events_wait(bench, db, shop_server, once):
    endpoint = await bench.add(shop_server.url)
    shop_server.answers = [web.Response(status=410)]
    await bench.queue()
    await once()
    found = await bench.find(endpoint)
    assert (found.enabled, found.disabled_because) == (False, "it answered 410 Gone")
    row = (await audit.newest(db, 1))[0]
    assert (row.actor, row.action) == ("send_webhooks", "webhook.disable")

    await bench.queue()
    await bench.let_time_pass(hours=2)
    assert await once() == 0
    await endpoints.switch(db, endpoint.endpoint_id, on=True, actor="ann", reason="")
    while await once():
        pass
    assert await bench.count("delivered") == 2


async def test_events_of_a_disabled_endpoint_die_after_three_days(bench, db, shop_server):
    endpoint = await bench.add(shop_server.url)
    await endpoints.switch(db, endpoint.endpoint_id, on=False, actor="ann", reason="moves")
    await bench.queue()
    await bench.let_time_pass(hours=71)
    assert await deliveries.upkeep(db) == 0
    await bench.let_time_pass(hours=2)
    assert await deliveries.upkeep(db) == 1
    assert await bench.count("dead") == 1


@pytest.mark.parametrize(
    ("asked", "least_s", "most_s"),
    [("120", 100, 121), ("999999999999", 3500, 3601), ("soon", 0, 6), ("-5", 0, 6)],
)
async def test_retry_after_is_obeyed_within_bounds(
    bench, db, shop_server, once, asked, least_s, most_s
):
    endpoint = await bench.add(shop_server.url)
    shop_server.answers = [web.Response(status=429, headers={"Retry-After": asked})]
    await bench.queue()
    await once()
    wait_s = await db.fetchval(
        "SELECT extract(epoch FROM next_attempt_at - now())::float8 FROM webhook_deliveries"
    )
    assert least_s <= wait_s <= most_s
    assert bool((await bench.find(endpoint)).rests) == (least_s > 0)
    if least_s:  # no other event is sent meanwhile
        await bench.queue()
        assert await once() == 0


async def test_an_endpoint_that_fails_is_asked_one_by_one_and_ever_more_seldom(
    bench, db, shop_server, once
):
    endpoint = await bench.add(shop_server.url)
    shop_server.answers = [web.Response(status=500) for _ in range(10)]
    await bench.queue(count=20)
    assert await once() == 8
    assert await once() == 1
    await bench.let_time_pass(hours=2)
    assert await once() == 1
    assert await once() == 0
    rest = (await bench.find(endpoint)).resume_at - await db.fetchval("SELECT now()")
    assert 30 < rest.total_seconds() <= 60

    # When it works again, all that waits is due at once
    await bench.let_time_pass(hours=0.1)
    assert await once() == 1
    while await once():
        pass
    assert await bench.count("delivered") == 20


async def test_during_a_rotation_both_secrets_sign(bench, db, shop_server, once):
    old = await bench.add(shop_server.url)
    new = await endpoints.rotate(db, old.endpoint_id, keep_old=timedelta(days=1), actor="ann")
    await bench.queue()
    await once()
    check = documented_check()
    (request,) = shop_server.requests
    assert check(old.secret, request.headers, request.raw)
    assert check(new.secret, request.headers, request.raw)

    await bench.let_time_pass(hours=25)
    await bench.queue()
    await once()
    request = shop_server.requests[-1]
    assert not check(old.secret, request.headers, request.raw)
    assert check(new.secret, request.headers, request.raw)


async def test_of_two_processes_one_sends_each_event(bench, shop_server, sending, eventually):
    await bench.add(shop_server.url)
    await bench.queue(count=60)

    async def all_delivered():
        return await bench.count("delivered") == 60

    async with sending(), sending():
        await eventually(all_delivered, "all is delivered")
    assert len(shop_server.ids) == len(set(shop_server.ids)) == 60


async def test_a_delivery_of_a_killed_process_is_sent_again_after_its_lease(
    bench, db, sender, shop_server, once
):
    await bench.add(shop_server.url)
    await bench.queue()
    killed = SendWebhooks(db, sender, timeout_s=30)
    ((endpoint, claimed),) = await killed.begin()
    await sender.send(endpoint, deliveries.public_id(claimed.message_id), claimed.body)
    assert await once() == 0  # it may still be at work
    await bench.let_time_pass(hours=0.02)
    assert await once() == 1
    first, second = shop_server.requests
    assert first.message_id == second.message_id
    (delivery,) = await bench.all()
    assert (delivery.state, delivery.attempts) == ("delivered", 2)


async def test_a_late_failure_does_not_undo_what_another_process_delivered(bench, db, sender, once):
    await bench.add("http://127.0.0.1:9/")
    await bench.queue()
    slow = SendWebhooks(db, sender, timeout_s=30)
    ((endpoint, claimed),) = await slow.begin()
    await db.execute("UPDATE webhook_deliveries SET state = 'delivered'")
    await slow.attempt(endpoint, claimed, asyncio.Event())
    assert await bench.count("delivered") == 1


async def test_what_ended_is_kept_for_a_while(bench, db, shop_server):
    await bench.add(shop_server.url)
    await bench.queue(count=3)
    ids = [each.delivery_id for each in await bench.all()]
    await db.execute(
        "UPDATE webhook_deliveries SET state = 'delivered' WHERE delivery_id = $1", ids[0]
    )
    await db.execute("UPDATE webhook_deliveries SET state = 'dead' WHERE delivery_id = $1", ids[1])
    for hours, left in [(6 * 24, ids), (2 * 24, ids[1:]), (30 * 24, ids[2:])]:
        await bench.let_time_pass(hours)
        await deliveries.upkeep(db)
        assert [each.delivery_id for each in await bench.all()] == left
