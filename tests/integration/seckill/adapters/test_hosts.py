"""Addresses with several hosts, and with IPv6: which host is taken, and what an error says."""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager

import asyncpg
import pytest

from config.addresses import parse_address
from loadtest.proxy import Proxy
from ops.processes.ports import free_port
from ops.stack.servers.greeting import greet
from seckill.adapters import postgres
from seckill.adapters.rabbitmq import Broker
from seckill.errors import FailureKind, Unavailable
from tests.processes import eventually

#: Behind a frozen host a connection waits for so long.
TIMEOUT_S = 1.0


@asynccontextmanager
async def proxied(url: str, **how: str):
    """Put a proxy before the host of a URL; yield the proxy, and the URL's parts."""
    address = parse_address(url)
    (host,) = address.hosts
    async with Proxy(host.name, host.port, **how) as proxy:
        yield proxy, address


def of_hosts(address, *hosts: str) -> str:
    return f"{address.scheme}://{address.user}@{','.join(hosts)}{address.rest}"


async def ask_postgresql(url):
    async with postgres.connect(url, size=1, timeout_s=TIMEOUT_S) as pool:
        assert await pool.fetchval("SELECT $1::int", 5) == 5


async def ask_rabbitmq(url):
    async with Broker(url, "test-hosts", TIMEOUT_S).channel() as channel:
        await channel.declare_queue(exclusive=True)


@pytest.fixture(params=["postgresql", "rabbitmq"])
def store(request, settings):
    """A store with its URL, and a way to ask it something."""
    if request.param == "postgresql":
        return settings.postgres_dsn, ask_postgresql
    return settings.amqp_url, ask_rabbitmq


async def test_the_next_host_is_taken_where_one_is_dead_or_frozen(store):
    url, ask = store
    async with proxied(url) as (frozen, address):
        frozen.freeze()
        dead, alive = f"127.0.0.1:{free_port()}", str(address.hosts[0])
        await ask(of_hosts(address, dead, f"127.0.0.1:{frozen.port}", alive))


async def test_an_error_names_each_host_with_its_reason_and_no_password(store):
    url, ask = store
    address = parse_address(url)
    ports = free_port(), free_port()
    with pytest.raises(Unavailable) as caught:
        await ask(of_hosts(address, *(f"localhost:{port}" for port in ports)))
    said = str(caught.value)
    for port in ports:
        assert f" at localhost:{port} does not answer: " in said
    assert address.user.partition(":")[2] not in said


async def test_a_password_that_one_host_refuses_is_for_an_operator(store):
    url, ask = store
    address = parse_address(url)
    user, _, password = address.user.partition(":")
    wrong = url.replace(f"{user}:{password}@", f"{user}:{password}x@")
    alive, dead = str(address.hosts[0]), f"127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=f"{dead} does not answer") as caught:
        await ask(of_hosts(parse_address(wrong), dead, alive))
    assert caught.value.kind is FailureKind.CONFIGURATION
    assert f" at {alive} refuses: " in str(caught.value)
    assert password not in str(caught.value)


async def test_connections_move_to_the_next_host_and_stay_there(settings):
    """The first host is cut off: its connections break, and new ones do not wait for it again."""
    async with proxied(settings.postgres_dsn) as (first, address):
        hosts = f"127.0.0.1:{first.port}", str(address.hosts[0])
        dsn = of_hosts(address, *hosts)
        async with postgres.connect(dsn, size=1, timeout_s=TIMEOUT_S) as pool:
            assert await pool.fetchval("SELECT 1") == 1
            first.refuses = True
            first.cut()

            async def works():
                try:
                    return await pool.fetchval("SELECT 1")
                except (Unavailable, OSError, asyncpg.PostgresError):
                    return False  # the broken connection

            await eventually(works, "the next host is asked")
            refused = first.refused
            await pool.expire_connections()
            assert await pool.fetchval("SELECT 1") == 1
            assert first.refused == refused, "the dead host was asked again"


@pytest.mark.parametrize("store", ["redis", "rabbitmq", "postgresql"])
async def test_ipv6_addresses_are_in_brackets(settings, services, store):
    if not socket.has_ipv6:
        pytest.skip("no IPv6 on this machine")
    url = services.stores[store].url
    async with proxied(url, at="::1") as (proxy, address):
        greeted = await greet(store, of_hosts(address, f"[::1]:{proxy.port}"))
        assert greeted.address == f"[::1]:{proxy.port}"
        proxy.refuses = True
        port = free_port()
        with pytest.raises(Unavailable, match=rf" at \[::1\]:{port} does not answer: "):
            await greet(store, of_hosts(address, f"[::1]:{port}"))


async def test_a_server_without_tls_is_no_outage_where_the_address_asks_for_it(settings):
    mark = "&" if "?" in settings.postgres_dsn else "?"
    with pytest.raises(Unavailable, match=r"refuses: .* rejected SSL upgrade") as caught:
        await ask_postgresql(f"{settings.postgres_dsn}{mark}sslmode=require")
    assert caught.value.kind is FailureKind.CONFIGURATION
