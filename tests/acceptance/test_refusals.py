"""Refusals that say what a client, or its developer, can do."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest

from ops.buyers import grab
from seckill.auth.key_ring import KeyRing
from seckill.inventory.stock_returns import return_batch
from tests.processes import eventually


async def test_a_quantity_beyond_what_is_left_is_not_sold_out(each, open_sale, ticket_for) -> None:
    sale = await open_sale(stock=3, per_order_max=5)
    async with each[0].post(
        f"/v1/sales/{sale.sale_id}/grabs",
        headers={"Seckill-Ticket": ticket_for(sale, "alice")},
        json={"quantity": 5},
    ) as response:
        body = await response.json(content_type=None)
    assert (response.status, body["code"], body["detail"]) == (409, "too_few_left", "3 left")
    assert body["remaining"] == 3
    fewer = await grab(each[0], sale.sale_id, "alice", ticket_for(sale, "alice"), quantity=3)
    assert fewer.status == 202
    none_left = await grab(each[0], sale.sale_id, "bob", ticket_for(sale, "bob"), quantity=2)
    assert (none_left.status, none_left.code) == (409, "sold_out")


async def test_who_grabs_and_cancels_in_turn_may_do_so_three_times(
    each, open_sale, ticket_for, login_for, db, stock
) -> None:
    sale = await open_sale(stock=1)
    ticket, login = ticket_for(sale, "hog"), login_for("hog")

    async def grabbed() -> str | None:
        await return_batch(db, stock)  # or the consumers of another test have done it
        answer = await grab(each[0], sale.sale_id, "hog", ticket)
        return answer.order_id if answer.status == 202 else None

    async def cancel(order_id: str) -> tuple[int, dict[str, Any]]:
        async with each[1].delete(f"/v1/orders/{order_id}", headers=login) as response:
            return response.status, await response.json(content_type=None)

    for _ in range(3):
        order_id = await eventually(grabbed, "the unit is back")
        assert (await cancel(order_id))[0] == 200
        assert (await cancel(order_id))[0] == 200, "again changes nothing, and counts nothing"
    last = await eventually(grabbed, "the unit is back")
    status, body = await cancel(last)
    assert (status, body["code"]) == (409, "cancelled_too_often")
    assert (await cancel(order_id))[0] == 200, "an ended one is shown as before"


@pytest.mark.parametrize(
    ("claims", "words"),
    [
        ({"sub": "alice", "nbf": int(time.time()) + 4000}, "SECKILL_JWT_LEEWAY_S"),
        ({"sub": "alice", "aud": "web"}, "SECKILL_JWT_AUDIENCE"),
        ({"sub": "alice\n"}, "SECKILL_JWT_BUYER_CLAIM"),
    ],
)
async def test_a_refused_login_says_why_to_the_client_and_in_the_log(
    four_gateways, each, open_sale, settings, claims: dict[str, Any], words: str
) -> None:
    sale = await open_sale()
    ring = KeyRing.parse(settings.jwt_keys.get_secret_value(), setting="test")
    claims = {**claims, "exp": int(time.time()) + 3600}
    token = jwt.encode(
        claims, ring.keys[ring.signing_kid], "HS256", headers={"kid": ring.signing_kid}
    )
    for _ in range(2):
        async with each[0].get(
            f"/v1/sales/{sale.sale_id}/orders/mine", headers={"Authorization": f"Bearer {token}"}
        ) as response:
            body = await response.json(content_type=None)
        assert (response.status, body["code"]) == (401, "unauthorized")
        assert words in body["detail"]
    log = four_gateways[0].child.spec.log.read_text()
    assert sum(words in line for line in log.splitlines()) == 1
