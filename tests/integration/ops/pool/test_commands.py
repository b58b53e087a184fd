"""The pool with real processes: what it is asked for happens, and its figures are right."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from config.settings import Settings
from ops.processes.pid_files import start_time
from ops.processes.requests import PoolRequest
from ops.stack.services import Services, temporary_home
from seckill import messages
from seckill.adapters import topology
from tests.pools import RunningPool
from tests.processes import eventually

PLACE = "place_orders"


@pytest.fixture
async def pool(settings: Settings, queues) -> AsyncIterator[RunningPool]:
    with temporary_home() as home:
        async with RunningPool(settings, home) as pool:
            yield pool


@pytest.fixture
def send(publisher, shop, open_sale) -> Callable:
    """Publish grabs as a gateway would, a message each."""

    async def send(sale, *buyers: str) -> None:
        for placement in await shop.grab(sale, *buyers):
            grab = (placement.order_id, placement.buyer_id, placement.quantity)
            body = messages.encode_place(sale.sale_id, placement.epoch, [], [grab])
            await publisher.publish(topology.ORDERS_PLACE, body)

    return send


@pytest.fixture
def no_placing(db) -> Callable:
    """Let no order of a sale be placed inside a block."""

    @asynccontextmanager
    async def no_placing(sale) -> AsyncIterator[None]:
        async with db.acquire() as connection, connection.transaction():
            await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            await connection.execute(
                "SELECT FROM inventory WHERE sale_id = $1 FOR UPDATE", sale.sale_id
            )
            yield

    return no_placing


async def rows(shop, sale) -> int:
    return len(await shop.rows(sale))


def log_of(pool: RunningPool) -> str:
    return (pool.home / "logs/pool.log").read_text()


async def test_roles_change_without_a_restart_of_their_process(pool, shop, open_sale, send) -> None:
    sale = await open_sale(stock=10)
    await pool.start()
    before = await pool.pids()
    await pool.do("pause", PLACE)
    await send(sale, "alice", "bob")

    paused = await pool.role(PLACE)
    assert (paused["running"], paused["consumers"], paused["backlog"]) == (0, 0, 2)
    assert (await pool.role("sweep"))["running"] == 1, "the others go on"
    assert await rows(shop, sale) == 0

    await pool.do("resume", PLACE)

    async def placed() -> bool:
        return await rows(shop, sale) == 2

    await eventually(placed, "what waited is placed")
    assert await pool.pids() == before


async def test_one_role_scales_without_the_others(pool) -> None:
    await pool.start()
    for count in (4, 2, 1):
        await pool.do("scale", f"{PLACE}={count}")
        figures, workers = await pool.role(PLACE), await pool.workers()
        assert (figures["wanted"], figures["running"], figures["consumers"]) == (count,) * 3
        assert len(workers) == count
        assert (await pool.role("sweep"))["running"] == 1
        assert set(workers["consumers-1"]["roles"]) > {PLACE, "sweep"}
        assert all(w["roles"] == [PLACE] for n, w in workers.items() if n != "consumers-1")


async def test_wanted_back_before_it_has_left_a_worker_keeps_its_name(pool) -> None:
    await pool.start()
    for count in (3, 1, 3, 1, 2):
        await pool.do("scale", f"{PLACE}={count}", "--wait", "0")
    await pool.runs(PLACE, 2)
    assert (await pool.pids()).keys() == {"consumers-1", "consumers-2"}


async def test_a_killed_worker_is_back_with_its_roles_assigned_and_counted(pool) -> None:
    await pool.start(2)
    await pool.kill("consumers-2")

    await pool.runs(PLACE, 2)
    workers = await pool.workers()
    assert (workers["consumers-1"]["restarts"], workers["consumers-2"]["restarts"]) == (0, 1)
    assert (await pool.role(PLACE))["restarts"] == 1
    assert "consumers-2 was killed by SIGKILL; starting it again in 0." in log_of(pool)
    assert "consumers-2 is back" in log_of(pool)


async def test_a_killed_manager_takes_its_workers_along_and_the_next_goes_on_as_it_was(
    pool, shop, open_sale, send
) -> None:
    sale = await open_sale(stock=10)
    await pool.start()
    await pool.do("scale", f"{PLACE}=3", "sweep=1..2")
    await pool.do("pause", "relay")
    await pool.kill_manager()
    await send(sale, "alice")
    status, _, err = await pool.seckill("pool", "status")
    assert (status, err.count("\n")) == (1, 1)
    assert "no pool runs" in err

    await pool.start()
    await pool.runs(PLACE, 3)
    relay, sweep = await pool.role("relay"), await pool.role("sweep")
    assert (relay["wanted"], relay["paused"], relay["running"]) == (1, True, 0)
    assert (sweep["min"], sweep["max"]) == (1, 2)

    async def placed() -> bool:
        return await rows(shop, sale) == 1

    await eventually(placed, "what came meanwhile is placed")


async def test_draining_finishes_what_is_in_flight_and_loses_nothing(
    pool, shop, open_sale, send, queues, no_placing
) -> None:
    sale = await open_sale(stock=10)
    await pool.start(2)
    async with no_placing(sale):
        await send(sale, *(f"b{n}" for n in range(6)))

        async def taken() -> bool:
            return (await pool.role(PLACE))["in_hand"] > 0

        await eventually(taken, "messages are in flight")
        await pool.ask(PoolRequest("drain"))  # a command would take a second of the consumer's wait
        assert (await pool.role(PLACE))["in_hand"] > 0, "an unfinished batch is not let go"
    await pool.do("drain")

    placed, waiting = await rows(shop, sale), await queues.size(topology.ORDERS_PLACE)
    assert placed > 0
    assert placed + waiting == 6, "each is placed, or back in the queue"
    left = [r for r in (await pool.status())["roles"] if r["running"] or r["in_hand"]]
    assert left == []
    await pool.do("resume")

    async def all_placed() -> bool:
        return await rows(shop, sale) == 6

    await eventually(all_placed, "the rest is placed")


async def test_restart_replaces_each_worker_and_counts_no_failure(pool) -> None:
    await pool.start(2)
    before = await pool.pids()
    await pool.do("restart")
    after = await pool.pids()
    assert before.keys() == after.keys()
    assert not set(before.values()) & set(after.values())
    assert (await pool.role(PLACE))["restarts"] == 0


async def test_stop_ends_manager_and_workers_and_start_goes_on(pool) -> None:
    await pool.start()
    await pool.do("scale", f"{PLACE}=2")
    pids = (await pool.pids()).values()
    await pool.do("stop")
    await pool.manager.wait()
    assert pool.manager.describe_end() == "exited with 0"
    assert not [pid for pid in pids if start_time(pid)]

    await pool.do("start", "--detach")
    try:
        await pool.runs(PLACE, 2)
        await pool.do("scale", f"{PLACE}=1")
        assert "place_orders: 2 -> 1" in (log := log_of(pool))
        for words in ((), ("--detach",)):
            again = await pool.seckill("pool", "start", *words)
            assert (again[0], again[2].count("\n")) == (1, 1)
            assert "already runs" in again[2]
        assert log_of(pool).startswith(log)
        assert "place_orders: 1 -> 2" in (pool.home / "logs/pool.log.old").read_text()
    finally:
        await pool.do("stop")


async def test_a_role_with_bounds_grows_while_its_oldest_message_waits(
    pool, open_sale, send, shop
) -> None:
    sale = await open_sale(stock=10)
    await pool.start()
    await pool.do("scale", f"{PLACE}=1..2")
    (pid,) = (await pool.pids()).values()
    os.kill(pid, signal.SIGSTOP)  # takes one message and does nothing with it
    try:
        await send(sale, "alice", "bob", "carol")

        async def grown() -> bool:
            return len(await pool.pids()) == 2

        await eventually(grown, "a second process", within_s=60)

        async def placed() -> bool:
            return await rows(shop, sale) == 2

        await eventually(placed, "the second one works")
    finally:
        os.kill(pid, signal.SIGCONT)


async def test_figures_agree_with_the_stores(pool, shop, open_sale, send, queues, db) -> None:
    sale = await open_sale(stock=10)
    await pool.start(2)
    await pool.do("drain")
    await shop.grab(sale, "in-outbox", settle=False)
    placements = await shop.order(sale, "late", "gone")
    await shop.let_expire(placements[0])
    await shop.release(placements[1])
    await send(sale, "alice", "bob", "carol")

    figures = {role["role"]: role for role in (await pool.status())["roles"]}
    assert figures[PLACE]["backlog"] == await queues.size(topology.ORDERS_PLACE) == 3
    for role in ("sweep", "return_stock", "relay", "publish_events"):
        assert figures[role]["backlog"] >= 1, role
    assert figures["sweep"]["oldest_age_s"] >= 3600

    async def ages() -> bool:
        return (await pool.role("relay"))["oldest_age_s"] > 0

    await eventually(ages, "the entry in the outbox ages")
    await pool.do("resume")

    async def quiet() -> bool:
        roles = {role["role"]: role for role in (await pool.status())["roles"]}
        place = roles[PLACE]
        # Workers and broker are asked one after the other: a message may be on its way in between.
        return place["backlog"] == place["in_hand"] == 0 and place["rate_per_s"] > 0

    await eventually(quiet, "all is done")


async def test_figures_of_a_queue_are_the_brokers_own(
    pool, services: Services, open_sale, send, no_placing
) -> None:
    sale = await open_sale(stock=10)
    await pool.start(2)
    await pool.do("pause", "reconcile")  # it publishes again what is not placed for long
    idle = await pool.agrees(services, PLACE, topology.ORDERS_PLACE, consumers=2)
    assert (idle["in_hand"], idle["backlog"]) == (0, 0)
    async with no_placing(sale):
        await send(sale, *(f"b{n}" for n in range(6)))

        async def taken() -> bool:
            return (await pool.role(PLACE))["in_hand"] > 0

        await eventually(taken, "messages are in flight")
        busy = await pool.agrees(services, PLACE, topology.ORDERS_PLACE, consumers=2)
    assert busy["in_hand"] + busy["backlog"] == 6
    assert busy["oldest_age_s"] > 0


async def test_a_store_that_is_unavailable_is_unknown_with_a_note_never_zero(
    pool, services: Services
) -> None:
    await pool.start()
    await services.kill("postgresql")

    async def unknown() -> bool:
        return (await pool.role("sweep"))["backlog"] is None

    try:
        await eventually(unknown, "the manager has looked since")
        figures = {role["role"]: role for role in (await pool.status())["roles"]}
    finally:
        await services.start("postgresql")
    assert "PostgreSQL" in figures["sweep"]["note"]
    assert figures[PLACE]["backlog"] == 0


async def test_mistakes_are_one_line_and_json_is_json(pool) -> None:
    await pool.start()
    for words, code, word in (
        (("scale", "cook=2"), 2, "no role cook"),
        (("scale", f"{PLACE}=99"), 2, "out of bounds"),
        (("scale", PLACE), 2, "ROLE=N"),
        (("pause", "cook"), 2, "no role cook"),
    ):
        status, out, err = await pool.seckill("pool", *words)
        assert (status, out, err.count("\n")) == (code, "", 1), words
        assert word in err
    for words in (("status",), ("top", "--count", "1"), ("scale", f"{PLACE}=1"), ("resume",)):
        status, out, _ = await pool.seckill("pool", *words, "--json")
        assert status == 0
        assert json.loads(out).keys() == {"manager", "roles", "workers"}
    _, shown, _ = await pool.seckill("pool", "top", "--count", "1")
    assert "consumers-1" in shown
