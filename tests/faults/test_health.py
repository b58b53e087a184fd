"""What `/livez` and `/readyz` say while a store is in a bad state, at a gateway and a consumer."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
from aiohttp import ClientError, ClientSession

from ops.buyers import grab
from ops.processes.ports import free_port
from ops.stack.credentials import load_credentials
from ops.stack.servers import redis as redis_store
from ops.stack.servers.server import StackHome
from ops.stack.services import Services, temporary_home
from seckill.adapters import redis as redis_client
from tests.processes import Process, Processes, eventually

#: Longest wait for a look, a reconnect and an answer on a machine that does other things, too.
PATIENCE_S = 60.0

Health = dict[str, Any]


class Probe:
    """Asks both processes as a balancer does."""

    def __init__(self, gateway: ClientSession, consumer: ClientSession) -> None:
        self._sessions = {"gateway": gateway, "consumer": consumer}

    async def ask(self, who: str) -> tuple[int, Health]:
        async with self._sessions[who].get("/livez") as alive:
            assert (alive.status, await alive.json()) == (200, {"status": "alive"})
        async with self._sessions[who].get("/readyz") as ready:
            return ready.status, await ready.json()

    async def says(self, who: str, status: int, health: str, **reasons: str) -> Health:
        """Wait until a process says this, each reason with these words and no other; return it."""

        async def check() -> Health | None:
            found = await self.ask(who)
            right = (found[0], found[1]["status"]) == (status, health)
            said = found[1].get("reasons", {})
            if right and said.keys() == reasons.keys():
                return found[1] if all(reasons[name] in said[name] for name in said) else None
            return None

        try:
            return await eventually(check, "", within_s=PATIENCE_S)
        except AssertionError:
            raise AssertionError(f"{who} says {await self.ask(who)}") from None

    async def are_ready(self) -> None:
        """Wait until both are ready, without a restart."""
        for who in self._sessions:
            await self.says(who, 200, "ready")


@asynccontextmanager
async def probing(processes: Processes, **stores: str) -> AsyncIterator[tuple[Probe, Process]]:
    """Start a gateway and a consumer, and give a probe and the gateway."""
    gateway = await processes.run("gateway", **stores)
    consumer = await processes.run("consumers", **stores)
    async with AsyncExitStack() as stack:
        sessions = [
            await stack.enter_async_context(ClientSession(process.admin_url))
            for process in (gateway, consumer)
        ]
        probe = Probe(*sessions)
        await probe.are_ready()
        pids = gateway.child.pid, consumer.child.pid
        yield probe, gateway
        await probe.are_ready()
        assert pids == (gateway.child.pid, consumer.child.pid)
        for log in (processes.home / "logs").glob("*.log"):
            assert "Traceback" not in log.read_text(), log.read_text()[-5_000:]


async def test_a_redis_that_lives_and_takes_no_grabs_is_unready_with_its_words(
    processes, settings
) -> None:
    with temporary_home() as home:
        store = await redis_store.prepare(StackHome(home, load_credentials(home)))
        services = Services({"redis": store})
        await services.start("redis")
        url = services.redis_url
        password = urlsplit(url).password
        async with (
            redis_client.connect(url, timeout_s=5) as redis,
            probing(processes, SECKILL_REDIS_URL=url) as (probe, _),
        ):

            async def states() -> AsyncIterator[str]:
                await redis.replicaof("127.0.0.1", "1")
                yield "READONLY"
                await redis.replicaof("NO", "ONE")
                await redis.config_set("maxmemory", "1")
                yield "OOM"
                await redis.config_set("maxmemory", "0")
                await redis.execute_command("ACL", "SETUSER", "default", "-evalsha")
                yield "NOPERM"
                await redis.execute_command("ACL", "SETUSER", "default", "+@all")
                await redis.config_set("requirepass", "rotated")
                await redis.execute_command("CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES")
                yield "WRONGPASS"
                await redis.config_set("requirepass", password)

            async for words in states():
                await probe.says("gateway", 503, "unready", redis=words)
                await probe.says("consumer", 503, "unready", redis=words)
        await services.stop("redis")


def children_of(pid: int) -> list[int]:
    """Return the pids of the children of a process."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


async def test_a_frozen_postgresql_is_degraded_and_probes_do_not_wait_for_it(
    processes, services, open_sale, ticket_for, assert_balanced
) -> None:
    sale = await open_sale(stock=5)
    async with probing(processes) as (probe, gateway), ClientSession(gateway.url) as http:
        assert (await grab(http, sale.sale_id, "a", ticket_for(sale, "a"))).status == 202
        server = services.pid("postgresql")
        frozen = [*children_of(server), server]  # with its sessions
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            # It stays frozen meanwhile, so no look has ended: these answers wait for none.
            await probe.says("gateway", 200, "degraded", postgresql="does not answer within")
            found = await probe.says("consumer", 503, "unready", postgresql="does not answer")
            assert found["checks"] == {"redis": True, "postgresql": False, "rabbitmq": True}
            assert (await grab(http, sale.sale_id, "b", ticket_for(sale, "b"))).status == 202
        finally:
            for pid in frozen:
                os.kill(pid, signal.SIGCONT)
    await assert_balanced(sale, wait_s=60)


async def test_a_postgresql_that_refuses_is_degraded_with_its_words(processes, settings) -> None:
    parts = urlsplit(settings.postgres_dsn)
    read_write = {"default_transaction_read_only": "off"}
    async with probing(processes) as (probe, _):
        # Opened before anything changes, so that it can undo it.
        operator = await asyncpg.connect(settings.postgres_dsn, server_settings=read_write)

        async def refuses(words: str) -> None:
            await probe.says("gateway", 200, "degraded", postgresql=words)
            await probe.says("consumer", 503, "unready", postgresql=words)

        try:
            await operator.execute("ALTER SYSTEM SET default_transaction_read_only = on")
            await operator.execute("SELECT pg_reload_conf()")
            await refuses("transaction_read_only is on")
        finally:
            await operator.execute("ALTER SYSTEM RESET default_transaction_read_only")
            await operator.execute("SELECT pg_reload_conf()")
        await probe.are_ready()
        try:
            await operator.execute(f"ALTER USER {parts.username} PASSWORD 'rotated'")
            await operator.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'seckill' AND pid <> pg_backend_pid()"
            )
            await refuses("password authentication failed")
        finally:
            await operator.execute(f"ALTER USER {parts.username} PASSWORD '{parts.password}'")
            await operator.close()


async def test_a_broker_with_an_alarm_or_another_password_is_degraded_with_its_words(
    processes, services, rabbitmqctl
) -> None:
    parts = urlsplit(services.amqp_url)
    async with probing(processes) as (probe, _):

        async def refuses(words: str) -> None:
            await probe.says("gateway", 200, "degraded", rabbitmq=words)
            await probe.says("consumer", 503, "unready", rabbitmq=words)

        try:
            await rabbitmqctl("set_vm_memory_high_watermark", "0.00001")
            await refuses("it has an alarm")
        finally:
            await rabbitmqctl("set_vm_memory_high_watermark", "absolute", "1GB")
        await probe.are_ready()
        try:
            await rabbitmqctl("change_password", parts.username, "rotated")
            await rabbitmqctl("close_all_connections", "a new password")
            await refuses("ACCESS_REFUSED")
        finally:
            await rabbitmqctl("change_password", parts.username, parts.password)


async def test_a_gateway_that_hangs_is_replaced_by_who_started_it(processes) -> None:
    admin_port = free_port()
    supervisor = await processes.begin(
        *("gateway", "--workers", "2"),
        SECKILL_GATEWAY_PORT=str(free_port()),
        SECKILL_ADMIN_PORT=str(admin_port),
        SECKILL_LIVENESS_S="4",
    )
    try:
        async with ClientSession() as admin:

            async def both_live() -> bool:
                try:
                    for port in (admin_port, admin_port + 1):
                        async with admin.get(f"http://127.0.0.1:{port}/livez") as response:
                            assert response.status == 200
                except ClientError:
                    return False
                return True

            await eventually(both_live, "both gateways live", within_s=PATIENCE_S)
            gateway = children_of(supervisor.pid)[0]
            os.kill(gateway, signal.SIGSTOP)
            async with asyncio.timeout(PATIENCE_S):
                hangs = (await supervisor.stderr.readuntil(b"ending it")).decode()
                await supervisor.stderr.readuntil(b"is back")
            assert f"(pid {gateway}) hangs: its /livez has not answered for 4 s" in hangs
            await eventually(both_live, "its successor lives", within_s=PATIENCE_S)
    finally:
        supervisor.terminate()
        await supervisor.communicate()


@pytest.fixture
def rabbitmqctl(services) -> Callable[..., Awaitable[None]]:
    """Run a command of rabbitmqctl on the broker of the session."""
    children = services.stores["rabbitmq"].children
    if not children:
        pytest.skip("a broker that the environment gave cannot be asked by rabbitmqctl")
    spec = children[-1].spec

    async def run(*words: str) -> None:
        program = Path(spec.argv[0]).with_name("rabbitmqctl")
        process = await asyncio.create_subprocess_exec(
            program,
            *words,
            env=spec.env,
            cwd=spec.cwd,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()

    return run
