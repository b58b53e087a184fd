"""A sale may ask for work before a ticket: done by its buyer, for it, and used once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from hashlib import sha256

import pytest
from aiohttp import ClientSession
from yarl import URL

from config.settings import PROJECT_ROOT
from ops.buyers import grab
from seckill.adapters import redis_keys
from seckill.auth import proof_of_work
from seckill.auth.key_ring import KeyRing
from seckill_client.proof_of_work import solve
from tests.processes import eventually

BITS = 10
WORKER = PROJECT_ROOT / "gateway" / "static" / "proof-worker.js"


async def post(http, sale, what, headers, **body):
    async with http.post(f"/v1/sales/{sale.sale_id}/{what}", headers=headers, **body) as response:
        return response.status, await response.json(content_type=None)


get_ticket = partial(post, what="tickets")


async def get_challenge(http, sale, headers):
    status, body = await post(http, sale, "challenges", headers)
    assert status == 201
    return body


async def get_proof(http, sale, headers):
    """Do the work: the JSON body of a ticket's request."""
    asked = await get_challenge(http, sale, headers)
    solution = solve(asked["challenge"], asked["bits"])
    return {"challenge": asked["challenge"], "solution": solution}


@pytest.fixture
def ring(settings):
    return KeyRing.parse(settings.ticket_keys.get_secret_value(), setting="test")


async def test_a_proof_gets_a_ticket_and_the_ticket_grabs(http, open_sale, login_for):
    sale = await open_sale(proof_bits=BITS)
    alice = login_for("alice")
    async with http.get(f"/v1/sales/{sale.sale_id}") as response:
        assert (await response.json())["proof_bits"] == BITS

    status, body = await get_ticket(http, sale, headers=alice)
    assert (status, body["code"]) == (403, "proof_needed")
    assert f"/v1/sales/{sale.sale_id}/challenges" in body["detail"]

    asked = await get_challenge(http, sale, alice)
    lives = datetime.fromisoformat(asked["expires_at"]) - datetime.now(UTC)
    assert asked["bits"] == BITS
    assert timedelta(minutes=4) < lives <= timedelta(minutes=5)
    solution = solve(asked["challenge"], BITS)
    proof = {"challenge": asked["challenge"], "solution": solution}
    status, body = await get_ticket(http, sale, headers=alice, json=proof)
    assert status == 201
    assert (await grab(http, sale.sale_id, "alice", body["ticket"])).status == 202


async def test_F35_a_solution_is_used_once_on_two_gateways_at_once(
    processes, open_sale, login_for, store
):
    first, second = await processes.run("gateway"), await processes.run("gateway")
    sale = await open_sale(proof_bits=BITS)
    alice = login_for("alice")
    async with ClientSession(first.url) as one, ClientSession(second.url) as two:
        for _ in range(5):
            proof = await get_proof(one, sale, alice)
            answers = await asyncio.gather(
                *(get_ticket(http, sale, headers=alice, json=proof) for http in (one, two) * 20)
            )
            answered = Counter((status, body.get("code")) for status, body in answers)
            assert answered == {(201, None): 1, (409, "proof_used"): 39}
            # Another solution of the same challenge is no other proof.
            other = proof | {"solution": next_solution(proof)}
            status, body = await get_ticket(two, sale, headers=alice, json=other)
            assert (status, body["code"]) == (409, "proof_used")
    # It is remembered until no clock can take its challenge for good, and not for ever.
    _, expires, _, nonce, _ = proof["challenge"].split("~")
    left_s = int(expires) - time.time()
    kept_s = await store.pttl(redis_keys.burnt_proof(sale.sale_id, nonce)) / 1000
    assert left_s + 50 < kept_s < left_s + 70


def next_solution(proof):
    """Return the second least solution of a challenge."""
    number = int(proof["solution"])
    while True:
        number += 1
        digest = sha256(f"{proof['challenge']}:{number}".encode()).digest()
        if proof_of_work.leading_zero_bits(digest) >= BITS:
            return str(number)


async def test_what_is_no_proof_is_refused_by_field_and_burns_nothing(
    http, open_sale, login_for, ring, store
):
    sale, other = await open_sale(proof_bits=BITS), await open_sale(proof_bits=BITS)
    alice = login_for("alice")
    proof = await get_proof(http, sale, alice)

    def made(**changes):
        terms = {
            "sale_id": sale.sale_id,
            "buyer_id": "alice",
            "bits": BITS,
            "expires_at_s": int(time.time()) + 60,
        }
        challenge = proof_of_work.issue(ring, **(terms | changes))
        return {"challenge": challenge, "solution": solve(challenge, BITS)}

    for bad, field in [
        (proof | {"challenge": proof["challenge"] + "0"}, "challenge"),
        (proof | {"challenge": "nonsense"}, "challenge"),
        (await get_proof(http, sale, login_for("bob")), "challenge"),
        (await get_proof(http, other, alice), "challenge"),
        (made(buyer_id="bob"), "challenge"),
        (made(bits=BITS - 1), "challenge"),
        (made(expires_at_s=int(time.time())), "challenge"),
        (proof | {"solution": "1" if proof["solution"] == "0" else "0"}, "solution"),
    ]:
        status, body = await get_ticket(http, sale, headers=alice, json=bad)
        assert (status, body["code"], body["field"]) == (403, "bad_proof", field), body
    for body, status, code, field in [
        (b'{"challenge": 1, "solution": "1"}', 422, "bad_request", "challenge"),
        (b'{"challenge": "x", "solution": 1}', 422, "bad_request", "solution"),
        (b'{"challenge": "x", "solution": "0x1"}', 422, "bad_request", "solution"),
        (b'{"challenge": "x"}', 422, "bad_request", None),
        (b"{}", 422, "bad_request", None),
        (b"{", 400, "malformed", None),
    ]:
        headers = alice | {"Content-Type": "application/json"}
        answer = await get_ticket(http, sale, headers=headers, data=body)
        assert (answer[0], answer[1]["code"], answer[1].get("field")) == (status, code, field)
    assert (await get_ticket(http, sale, headers=alice, data=json.dumps(proof)))[0] == 415
    assert await store.keys(redis_keys.burnt_proof(sale.sale_id, "*")) == []

    assert (await get_ticket(http, sale, headers=alice, json=proof))[0] == 201
    assert len(await store.keys(redis_keys.burnt_proof(sale.sale_id, "*"))) == 1


async def test_a_sale_that_asks_for_no_work_takes_any_request(http, open_sale, login_for):
    sale = await open_sale()
    alice = login_for("alice")
    asked = await get_challenge(http, sale, alice)
    assert asked["bits"] == 0
    solved = {
        "challenge": asked["challenge"],
        "solution": solve(asked["challenge"], 0),
    }
    for body in ({}, {"json": solved}, {"json": solved}, {"data": b"anything"}, {"data": b""}):
        assert (await get_ticket(http, sale, headers=alice, **body))[0] == 201


async def test_a_client_that_sends_neither_body_nor_type_is_served_as_ever(
    gateway, open_sale, login_for
):
    host, port = gateway.url.removeprefix("http://").split(":")
    for bits, status in ((0, 201), (BITS, 403)):
        sale = await open_sale(proof_bits=bits)
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            f"POST /v1/sales/{sale.sale_id}/tickets HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            f"Authorization: {login_for('alice')['Authorization']}\r\n\r\n".encode()
        )
        answer = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert int(answer.split()[1]) == status


async def test_challenges_keep_the_window_of_tickets_and_need_a_login(http, open_sale, login_for):
    now = datetime.now(UTC)
    alice = login_for("alice")
    early = await open_sale(proof_bits=BITS, opens_at=now + timedelta(hours=1))
    soon = await open_sale(proof_bits=BITS, opens_at=now + timedelta(minutes=9))
    for sale, headers, status, code in [
        (early, {}, 401, "unauthorized"),
        (early, alice, 403, "too_early"),
        (soon, alice, 201, None),
    ]:
        answer = await post(http, sale, "challenges", headers)
        assert (answer[0], answer[1].get("code")) == (status, code)
    async with http.post("/v1/sales/nowhere/challenges", headers=alice) as response:
        assert response.status == 404


async def test_a_raised_difficulty_makes_older_challenges_worthless(
    gateway, open_sale, login_for, db
):
    sale = await open_sale(proof_bits=BITS)
    alice = login_for("alice")
    async with ClientSession(gateway.url) as http:
        proof = await get_proof(http, sale, alice)
        await db.execute(
            "UPDATE sales SET proof_bits = $2 WHERE sale_id = $1", sale.sale_id, BITS + 1
        )

        async def asks_for_more():
            # A gateway learns of it when it next reads the sales.
            async with http.get(f"/v1/sales/{sale.sale_id}") as response:
                return (await response.json())["proof_bits"] == BITS + 1

        await eventually(asks_for_more, "the gateway asks for more")
        status, body = await get_ticket(http, sale, headers=alice, json=proof)
        assert (status, body["code"], body["field"]) == (403, "bad_proof", "challenge")
        harder = await get_proof(http, sale, alice)
        assert (await get_ticket(http, sale, headers=alice, json=harder))[0] == 201


async def test_the_browsers_solver_is_served_as_it_is(http):
    async with http.get("/proof-worker.js") as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert response.headers["Cache-Control"] == "public, max-age=3600"
        assert await response.read() == WORKER.read_bytes()


async def test_a_shop_sets_the_work_when_it_makes_a_sale(settings, tmp_path, services):
    environment = {
        **os.environ,
        "SECKILL_HOME": str(tmp_path),
        "SECKILL_REDIS_URL": settings.redis_url,
        "SECKILL_AMQP_URL": settings.amqp_url,
        "SECKILL_POSTGRES_DSN": settings.postgres_dsn,
    }

    async def create(sale_id, *options):
        command = (sys.executable, "-m", "ops.cli", "sale", "create", sale_id, "--stock", "1")
        process = await asyncio.create_subprocess_exec(
            *command, "--price-cents", "1", "--json", *options,
            cwd=PROJECT_ROOT, env=environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, _ = await process.communicate()
        return process.returncode, out

    code, out = await create("worked-for", "--proof-bits", "20")
    assert (code, json.loads(out)["proof_bits"]) == (0, 20)
    code, out = await create("free", "--proof-bits", "0")
    assert (code, json.loads(out)["proof_bits"]) == (0, 0)
    assert (await create("endless", "--proof-bits", "27"))[0] == 2


async def test_bodies_that_never_come_take_no_place_of_others(processes, open_sale, login_for):
    """64 connections of one buyer would keep all others out, for five seconds each time."""
    gateway = await processes.run("gateway", SECKILL_REQUESTS_IN_HAND_MAX="64")
    sale = await open_sale(proof_bits=BITS)
    url = URL(gateway.url)
    head = (
        f"POST /v1/sales/{sale.sale_id}/tickets HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: {login_for('mallory')['Authorization']}\r\nExpect: 100-continue\r\n"
        "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    ).encode()
    async with AsyncExitStack() as stack:
        for _ in range(64):
            reader, writer = await asyncio.open_connection(url.host, url.port)
            stack.callback(writer.close)
            writer.write(head)
            assert (await reader.readline()).startswith(b"HTTP/1.1 100")
        async with ClientSession(gateway.url) as http, http.get("/v1/sales") as response:
            assert response.status == 200
