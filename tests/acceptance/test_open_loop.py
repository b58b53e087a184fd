"""The load generator reports what happened: held against the stores and the gateway's counters."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

import pytest
from aiohttp import ClientSession

from loadtest.crowd import generator
from loadtest.crowd.generator import Crowd
from loadtest.crowd.grab_http import grab_bytes
from loadtest.crowd.requests import PlannedRequest
from tests.processes import eventually


@pytest.fixture
async def own_gateway(processes):
    """A gateway that counts the requests of one test alone, and that the test may stop or kill.

    It stands still for no longer than it waits for Redis: that would be an answer of its own.
    """
    return await processes.run("gateway", SECKILL_REDIS_TIMEOUT_S="30")


@pytest.fixture
def grabs_at(ticket_for):
    """Plan grabs of different buyers at a steady rate: `grabs_at(sale, rate=100, count=50)`."""

    def make(sale, *, rate, count, first=0, obedient_every=1):
        return [
            PlannedRequest(
                n / rate,
                grab_bytes(sale.sale_id, ticket_for(sale, f"b{first + n}")),
                obeys_within_s=60 if n % obedient_every == 0 else 0,
            )
            for n in range(count)
        ]

    return make


def crowd_at(gateway, **terms):
    return Crowd("127.0.0.1", int(gateway.url.rpartition(":")[2]), **terms)


async def due(crowd, count):
    """Wait until so many requests are due; return for when the last of them was intended."""

    async def are_due():
        return len(crowd.report.requests) >= count

    await eventually(are_due, f"{count} requests are due")
    return crowd.report.requests[-1].due_s


async def stand_still(process):
    process.child.send(signal.SIGSTOP)

    async def stands_still():
        return process_state(process.child.pid) == "T"

    await eventually(stands_still, "the process stands still")


def process_state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def counters(gateway):
    """Return how often the gateway has given each verdict, by its own count."""
    async with ClientSession(gateway.admin_url) as admin, admin.get("/metrics") as response:
        text = await response.text()
    found = re.findall(r'seckill_grabs_total\{verdict="(\w+)"\} (\d+)', text)
    return {verdict: int(count) for verdict, count in found if int(count)}


async def test_note_13_what_a_run_reports_is_what_happened(
    own_gateway, consumers, open_sale, grabs_at, set_limit, db, assert_balanced
):
    sale = await open_sale(stock=60)
    await set_limit(sale, rate=20)  # and a burst of 41
    crowd = crowd_at(own_gateway, connections_max=20)
    await crowd.warm_up(sale.sale_id, 1)
    requests = grabs_at(sale, rate=150, count=300, obedient_every=5)
    report = await crowd.run(requests, 2)

    # Every request is in it once, and returns beside them; each answer counts under its status.
    first = [request for request in report.requests if not request.comes_back]
    back = [request for request in report.requests if request.comes_back]
    assert [id(request) for request in first] == [id(request) for request in requests]
    answers = report.answers()
    assert set(answers) == {202, 409, 429}
    assert sum(answers.values()) == len(requests) + len(back)
    counted = await counters(own_gateway)
    assert counted == {"accepted": answers[202], "sold_out": answers[409]}
    # Every accepted grab is a row, and no other is.
    ledger = await assert_balanced(sale)
    rows = await db.fetch("SELECT buyer_id FROM orders WHERE sale_id = $1", sale.sale_id)
    accepted = {request.payload for request in report.requests if request.status == 202}
    expected = {n for n, request in enumerate(requests) if request.payload in accepted}
    assert {int(row["buyer_id"][1:]) for row in rows} == expected
    assert ledger.lines["orders pending"] == answers[202] == 60
    # The obedient come back once, after Retry-After and not before; the others do not.
    refused = {request.payload: request for request in first if request.status == 429}
    assert {request.payload for request in back} == {
        p for p, s in refused.items() if s.obeys_within_s
    }
    assert len(back) > 3
    for request in back:
        before = refused[request.payload]
        assert request.due_s == before.answered_s + before.retry_after_s
        assert request.sent_s >= request.due_s


async def test_note_13_a_server_that_stands_still_shows_in_the_percentiles(
    own_gateway, open_sale, grabs_at
):
    """Latency counts from the intended time, also of a request that waited for a connection."""
    sale = await open_sale(stock=1000)
    crowd = crowd_at(own_gateway, connections_max=4)
    await crowd.warm_up(sale.sale_id, 1)
    running = asyncio.create_task(crowd.run(grabs_at(sale, rate=100, count=300), 3))

    await due(crowd, 50)
    await stand_still(own_gateway)
    try:
        stopped_s = crowd.report.requests[-1].due_s
        went_on_s = await due(crowd, len(crowd.report.requests) + 100)
    finally:
        own_gateway.child.send(signal.SIGCONT)
    report = await running
    # Four connections: what it finds unread for too long when it goes on, it refuses.
    answers = report.answers()
    assert set(answers) <= {202, 503}
    assert sum(answers.values()) == 300
    # A request that came while it stood still waited at least until it went on.
    least_s = sorted(
        max(0.0, went_on_s - due_s) if due_s > stopped_s else 0.0
        for due_s in (request.due_s for request in report.requests)
    )
    assert least_s[-1] > 0.9
    for share in (0.7, 0.8, 0.9, 0.99):
        assert report.latency_ms(share, 202, 503) >= 1000 * least_s[int(share * 300)] > 0


async def test_note_13_what_got_no_answer_is_reported_as_no_answer(
    own_gateway, consumers, open_sale, grabs_at, monkeypatch, assert_balanced
):
    monkeypatch.setattr(generator, "END_AFTER_S", 1.0)
    sale = await open_sale(stock=1000)
    crowd = crowd_at(own_gateway, connections_max=8)
    await crowd.warm_up(sale.sale_id, 1)
    running = asyncio.create_task(crowd.run(grabs_at(sale, rate=100, count=200), 2))
    await due(crowd, 50)
    await stand_still(own_gateway)  # so that some are under way when it is killed
    await due(crowd, 100)
    own_gateway.child.send(signal.SIGKILL)
    report = await running
    answers = report.answers()
    assert set(answers) == {202, 0}
    assert answers[202] >= 40
    assert sum(answers.values()) == 200, "also those that found no server any more"
    ledger = await assert_balanced(sale)
    assert ledger.lines["orders pending"] >= answers[202]
