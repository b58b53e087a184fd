"""The load generator tells the truth: checked against the stores and the gateway's own counters."""

from __future__ import annotations

import asyncio
import re
import signal
from pathlib import Path

import pytest
from aiohttp import ClientSession

from loadtest.crowd import generator
from loadtest.crowd.generator import Crowd, PlannedRequest, grab_bytes
from tests.processes import eventually


@pytest.fixture
async def own_gateway(processes):
    """A gateway that counts nobody else's requests, and that a test may stop or kill.

    It stands still for no longer than it waits for Redis: that would be an answer of its own.
    """
    return await processes.run("gateway", SECKILL_REDIS_TIMEOUT_S="30")


@pytest.fixture
def shots_at(ticket_for):
    """Make shots of different buyers at a steady rate: `shots_at(sale, rate=100, count=50)`."""

    def make(sale, *, rate, count, first=0, obedient_every=1):
        return [
            PlannedRequest(
                n / rate,
                grab_bytes(sale.sale_id, ticket_for(sale, f"b{first + n}")),
                obedient=n % obedient_every == 0,
            )
            for n in range(count)
        ]

    return make


def crowd_at(gateway, **terms):
    return Crowd("127.0.0.1", int(gateway.url.rpartition(":")[2]), **terms)


async def due(crowd, count):
    """Wait until so many shots are due; return for when the last of them was intended."""

    async def are_due():
        return len(crowd.report.shots) >= count

    await eventually(are_due, f"{count} shots are due")
    return crowd.report.shots[-1].due_s


async def stand_still(process):
    process.child.send(signal.SIGSTOP)

    async def stands_still():
        return process_state(process.child.pid) == "T"

    await eventually(stands_still, "the process stands still")


def process_state(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


async def counters(gateway):
    """What the gateway itself says that it has answered to grabs, by verdict."""
    async with ClientSession(gateway.admin_url) as admin, admin.get("/metrics") as response:
        text = await response.text()
    found = re.findall(r'seckill_grabs_total\{verdict="(\w+)"\} (\d+)', text)
    return {verdict: int(count) for verdict, count in found if int(count)}


async def test_note_13_what_a_run_reports_is_what_happened(
    own_gateway, consumers, open_sale, shots_at, set_limit, db, assert_balanced
):
    sale = await open_sale(stock=60)
    await set_limit(sale, rate=20)  # and a burst of 41
    crowd = crowd_at(own_gateway, connections_max=20)
    await crowd.warm_up(sale.sale_id, 1)
    shots = shots_at(sale, rate=150, count=300, obedient_every=5)
    report = await crowd.run(shots)

    # Every shot is in it once, and returns beside them; every answer was counted under its status.
    first = [shot for shot in report.shots if not shot.comes_back]
    back = [shot for shot in report.shots if shot.comes_back]
    assert [id(shot) for shot in first] == [id(shot) for shot in shots]
    told = report.told()
    assert set(told) == {202, 409, 429}
    assert sum(told.values()) == len(shots) + len(back)
    counted = await counters(own_gateway)
    assert counted == {"accepted": told[202], "sold_out": told[409]}
    # Every admitted one is a row, and nobody else is.
    books = await assert_balanced(sale)
    rows = await db.fetch("SELECT buyer_id FROM orders WHERE sale_id = $1", sale.sale_id)
    admitted = {shot.payload for shot in report.shots if shot.status == 202}
    expected = {n for n, shot in enumerate(shots) if shot.payload in admitted}
    assert {int(row["buyer_id"][1:]) for row in rows} == expected
    assert books.lines["orders pending"] == told[202] == 60
    # The obedient come back, once, when they were told to and not before; the others do not.
    refused = {shot.payload: shot for shot in first if shot.status == 429}
    assert {shot.payload for shot in back} == {p for p, s in refused.items() if s.obedient}
    assert len(back) > 3
    for shot in back:
        told_to = refused[shot.payload]
        assert shot.due_s == told_to.answered_s + told_to.retry_after_s
        assert shot.sent_s >= shot.due_s


async def test_note_13_a_server_that_stands_still_shows_in_the_percentiles(
    own_gateway, open_sale, shots_at
):
    """Latency counts from the intended time: also for those who had no connection to wait on."""
    sale = await open_sale(stock=1000)
    crowd = crowd_at(own_gateway, connections_max=4)
    await crowd.warm_up(sale.sale_id, 1)
    running = asyncio.create_task(crowd.run(shots_at(sale, rate=100, count=300)))

    await due(crowd, 50)
    await stand_still(own_gateway)
    try:
        stopped_s = crowd.report.shots[-1].due_s
        went_on_s = await due(crowd, len(crowd.report.shots) + 100)
    finally:
        own_gateway.child.send(signal.SIGCONT)
    report = await running
    assert report.told() == {202: 300}
    # Who came while it stood still waited at least until it went on.
    least_s = sorted(
        max(0.0, went_on_s - shot.due_s) if shot.due_s > stopped_s else 0.0 for shot in report.shots
    )
    assert least_s[-1] > 0.9
    for share in (0.7, 0.8, 0.9, 0.99):
        assert report.latency_ms(share, 202) >= 1000 * least_s[int(share * 300)] > 0


async def test_note_13_what_got_no_answer_is_reported_as_no_answer(
    own_gateway, consumers, open_sale, shots_at, monkeypatch, assert_balanced
):
    monkeypatch.setattr(generator, "PATIENCE_S", 1.0)
    sale = await open_sale(stock=1000)
    crowd = crowd_at(own_gateway, connections_max=8)
    await crowd.warm_up(sale.sale_id, 1)
    running = asyncio.create_task(crowd.run(shots_at(sale, rate=100, count=200)))
    await due(crowd, 50)
    await stand_still(own_gateway)  # so that some are under way when it is killed
    await due(crowd, 100)
    own_gateway.child.send(signal.SIGKILL)
    report = await running
    told = report.told()
    assert set(told) == {202, 0}
    assert told[202] >= 40
    assert sum(told.values()) == 200, "also those for whom there was no server any more"
    books = await assert_balanced(sale)
    assert books.lines["orders pending"] >= told[202]
