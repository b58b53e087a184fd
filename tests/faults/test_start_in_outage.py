"""A process that starts while a store is unavailable: it begins without it, or waits for it."""

from __future__ import annotations

import re

import pytest
from aiohttp import ClientConnectionError, ClientSession

from loadtest.store_states.redis import RedisStates
from ops.buyers import grab
from ops.processes.ports import free_port
from tests.processes import Process, Processes, eventually

#: Longest wait for a link and a look on a machine that does other things, too.
PATIENCE_S = 60.0


def log_of(process: Process) -> str:
    assert process.child.spec.log is not None
    return process.child.spec.log.read_text()


async def probe(admin_url: str, path: str = "/readyz") -> tuple[int, dict]:
    """Return what an admin port says; 0 and nothing while it is closed."""
    try:
        async with ClientSession(admin_url) as http, http.get(path) as response:
            return response.status, await response.json()
    except ClientConnectionError:
        return 0, {}


async def says(admin_url: str, status: int, word: str) -> dict:
    """Wait until a process reports this, and return its report."""

    async def reported() -> dict | None:
        found, body = await probe(admin_url)
        return body if (found, body.get("status")) == (status, word) else None

    return await eventually(reported, f"{admin_url} says {word}", within_s=PATIENCE_S)


@pytest.fixture
def press(ticket_for):
    async def call(gateway, sale, buyer):
        async with ClientSession(gateway.url) as http:
            return await grab(http, sale.sale_id, buyer, ticket_for(sale, buyer))

    return call


async def test_a_gateway_that_starts_without_rabbitmq_sells_into_the_outbox(
    processes, amqp_proxy, open_sale, press, assert_balanced
):
    proxy, url = amqp_proxy
    proxy.refuses = True
    gateway = await processes.run("gateway", SECKILL_AMQP_URL=url)
    sale = await open_sale(stock=3)
    assert [(await press(gateway, sale, f"b{n}")).status for n in range(3)] == [202] * 3
    report = await says(gateway.admin_url, 200, "degraded")
    assert report["reasons"].keys() == {"rabbitmq"}
    assert re.match("RabbitMQ.* does not answer", report["reasons"]["rabbitmq"])
    proxy.refuses = False
    await says(gateway.admin_url, 200, "ready")
    await processes.run("consumers")
    ledger = await assert_balanced(sale, wait_s=PATIENCE_S)
    assert ledger.lines["orders pending"] == 3
    assert len(re.findall("RabbitMQ.* does not answer", log_of(gateway))) == 1


@pytest.mark.parametrize("state", ["away", "demoted"])
async def test_a_gateway_that_starts_without_redis_says_why_and_sells_when_it_is_back(
    processes, redis_proxy, services, open_sale, press, state
):
    proxy, url = redis_proxy
    sale = await open_sale()
    words = {"away": "does not answer", "demoted": "refuses: READONLY"}[state]
    if state == "away":
        proxy.refuses = True
        gateway = await processes.run("gateway", SECKILL_REDIS_URL=url)
    else:
        async with RedisStates(services).demoted():
            gateway = await processes.run("gateway", SECKILL_REDIS_URL=url)
            answer = await press(gateway, sale, "a")
            assert (answer.status, answer.code) == (503, "unavailable")
            await says(gateway.admin_url, 503, "unready")
    if state == "away":
        answer = await press(gateway, sale, "a")
        assert (answer.status, answer.code) == (503, "unavailable")
        assert words in (await says(gateway.admin_url, 503, "unready"))["reasons"]["redis"]
        proxy.refuses = False

    async def sells():
        return (await press(gateway, sale, "b")).status in (200, 202)

    await eventually(sells, "the gateway sells", within_s=PATIENCE_S)
    await says(gateway.admin_url, 200, "ready")
    assert len(re.findall(f"Redis {words}", log_of(gateway))) == 1


@pytest.mark.parametrize("missing", ["redis", "rabbitmq"])
async def test_consumers_that_start_without_a_store_do_what_they_can_and_then_the_rest(
    processes, redis_proxy, amqp_proxy, open_sale, press, db, assert_balanced, missing
):
    proxy, url = {"redis": redis_proxy, "rabbitmq": amqp_proxy}[missing]
    gateway = await processes.run("gateway")
    sale = await open_sale(stock=2)
    assert (await press(gateway, sale, "a")).status == 202
    proxy.refuses = True
    name = {"redis": "SECKILL_REDIS_URL", "rabbitmq": "SECKILL_AMQP_URL"}[missing]
    consumers = await processes.run("consumers", **{name: url})
    pid = consumers.child.pid
    report = await says(consumers.admin_url, 503, "unready")
    assert report["reasons"].keys() == {missing}

    async def placed():
        return await db.fetchval("SELECT count(*) FROM orders WHERE sale_id = $1", sale.sale_id)

    if missing == "redis":  # the order lies on the broker, and its row needs no Redis
        await eventually(placed, "the order is placed", within_s=PATIENCE_S)
    proxy.refuses = False
    await says(consumers.admin_url, 200, "ready")
    assert (await press(gateway, sale, "b")).status == 202
    ledger = await assert_balanced(sale, wait_s=PATIENCE_S)
    assert ledger.lines["orders pending"] == 2
    assert consumers.child.pid == pid
    text = log_of(consumers)
    assert "Traceback" not in text
    assert not re.search(r"attempt \d+ failed|dead letter", text)


@pytest.mark.parametrize("command", ["gateway", "consumers"])
async def test_a_process_waits_for_postgresql_alive_and_unready(processes, postgres_proxy, command):
    proxy, url = postgres_proxy
    proxy.refuses = True
    process = await processes.run(command, SECKILL_POSTGRES_DSN=url)
    pid = process.child.pid
    report = await says(process.admin_url, 503, "starting")
    assert f"PostgreSQL at 127.0.0.1:{proxy.port}" in report["reasons"]["postgresql"]
    assert await probe(process.admin_url, "/livez") == (200, {"status": "alive"})
    proxy.refuses = False
    await says(process.admin_url, 200, "ready")
    assert process.child.pid == pid
    assert len(re.findall("this process waits for it", log_of(process))) == 1


async def test_a_process_that_waits_stops_when_it_is_told_to(processes: Processes):
    admin_port, nowhere = free_port(), free_port()
    process = await processes.begin(
        "consumers",
        SECKILL_POSTGRES_DSN=f"postgresql://u:p@127.0.0.1:{nowhere}/x",
        SECKILL_ADMIN_PORT=str(admin_port),
    )
    await says(f"http://127.0.0.1:{admin_port}", 503, "starting")
    process.terminate()
    _, complaints = await process.communicate()
    assert process.returncode == 0
    lines = complaints.decode().splitlines()
    assert len(lines) == 1, lines
    assert f"PostgreSQL at 127.0.0.1:{nowhere} does not answer" in lines[0]


@pytest.mark.parametrize(
    ("command", "missing"),
    [("gateway", "REDIS_URL"), ("consumers", "AMQP_URL"), ("consumers", "POSTGRES_DSN")],
)
async def test_a_wrong_password_at_start_is_one_line_and_exit_1(
    processes, settings, command, missing
):
    login, _, rest = getattr(settings, missing.lower()).rpartition("@")
    wrong = f"{login}-and-more@{rest}"
    code, _, complaints = await processes.ask(
        command,
        **{
            f"SECKILL_{missing}": wrong,
            "SECKILL_GATEWAY_PORT": str(free_port()),
            "SECKILL_ADMIN_PORT": str(free_port()),
        },
    )
    assert code == 1
    (line,) = complaints.splitlines()
    assert re.search("(?i)password|refused", line), line
