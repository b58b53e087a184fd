"""What a grab needs: a ticket. It buys for its owner alone, and the path of a sale buys nothing."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from ops.buyers import grab
from seckill.adapters import redis_keys
from seckill.auth import tickets
from seckill.auth.key_ring import KeyRing


async def test_F34_note_10_a_ticket_that_was_passed_on_buys_for_its_owner_alone(
    each, open_sale, ticket_for, login_for, store
):
    sale = await open_sale(stock=5)
    stolen = ticket_for(sale, "alice")
    answer = await grab(each[0], sale.sale_id, "mallory", stolen)
    assert answer.status == 202
    assert await store.hkeys(redis_keys.holders(sale.sale_id)) == [b"alice"]
    path = f"/v1/orders/{answer.order_id}"
    for buyer, status in (("mallory", 404), ("alice", 200)):
        async with each[1].get(path, headers=login_for(buyer)) as response:
            assert response.status == status
    async with each[1].delete(path, headers=login_for("mallory")) as response:
        assert response.status == 404
    again = await grab(each[1], sale.sale_id, "mallory", stolen)
    assert (again.status, again.order_id) == (200, answer.order_id), (
        "one order, whoever sends the ticket"
    )


async def test_F34_who_knows_the_path_of_a_sale_has_nothing(
    each, open_sale, ticket_for, settings, store
):
    sale, other = await open_sale(stock=5), await open_sale(stock=5)
    ring = KeyRing.parse(settings.ticket_keys.get_secret_value(), setting="test")
    foreign = KeyRing(ring.signing_kid, {ring.signing_kid: b"another shop's key".ljust(32, b"!")})

    def issued(keyring, expires_at_s):
        return tickets.issue(
            keyring, sale_id=sale.sale_id, buyer_id="alice", expires_at_s=expires_at_s
        )

    soon = int(time.time()) + 3600
    for ticket in [
        "",
        "alice",
        ticket_for(other, "alice"),
        issued(foreign, soon),
        issued(ring, int(time.time())),
        f"{issued(ring, soon).rpartition('~')[0]}~{'0' * 32}",
    ]:
        answer = await grab(each[0], sale.sale_id, "alice", ticket)
        assert (answer.status, answer.code) == (401, "bad_ticket"), ticket
    assert not await store.exists(
        redis_keys.holders(sale.sale_id), redis_keys.bucket(sale.sale_id, "try")
    )
    assert (await grab(each[0], sale.sale_id, "alice", issued(ring, soon))).status == 202


async def test_F35_note_10_a_ticket_used_forty_times_at_once_is_one_order(
    each, open_sale, ticket_for, store
):
    sale = await open_sale(stock=5)
    ticket = ticket_for(sale, "alice")
    answers = await asyncio.gather(
        *(grab(http, sale.sale_id, "alice", ticket) for http in each * 10)
    )
    assert Counter(answer.status for answer in answers) == {202: 1, 200: 39}
    assert len({answer.order_id for answer in answers}) == 1
    assert await store.get(redis_keys.stock(sale.sale_id)) == b"4"
