"""What a process asks of its stores before it starts: one line a fault, and all faults at once."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

import pytest

from ops.processes.ports import free_port
from ops.stack.credentials import load_credentials
from ops.stack.servers import redis as redis_store
from ops.stack.servers.server import StackHome
from ops.stack.services import Services, temporary_home
from seckill.adapters import features, postgres
from seckill.adapters import redis as redis_client
from seckill.adapters.rabbitmq import Broker, close_link
from seckill.consistency import requirements
from seckill.errors import NotReady
from tests.pools import rabbitmqctl


def login(url: str, user: str) -> str:
    """Return an address with the login of another user, whose password is x."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{user}:x@{parts.hostname}:{parts.port}"))


@pytest.fixture
async def redis_user(store, settings):
    """Make a user of Redis: `client = await redis_user("-info")`."""
    clients = []

    async def make(*rules: str, keys: str = "~*"):
        await store.execute_command(
            "ACL", "SETUSER", "tenant", "reset", "on", ">x", keys, "&*", "+@all", *rules
        )
        clients.append(redis_client.connect(login(settings.redis_url, "tenant"), timeout_s=5))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()
    await store.execute_command("ACL", "DELUSER", "tenant")


@pytest.fixture
async def role(db, settings):
    """A role of PostgreSQL without any right, and its address."""
    await db.execute("CREATE ROLE tenant LOGIN PASSWORD 'x'")
    yield login(settings.postgres_dsn, "tenant")
    await db.execute("DROP OWNED BY tenant; DROP ROLE tenant")


async def test_our_own_stores_are_as_a_process_needs_them(settings):
    await requirements.require(settings)


async def test_a_probe_leaves_nothing_behind(redis):
    assert await features.redis_faults(redis) == []
    assert await redis.dbsize() == 0


@pytest.mark.parametrize("rules", [("-info",), ("-@admin", "-@dangerous"), ("-config", "-acl")])
async def test_a_redis_that_hides_its_version_is_judged_by_what_it_does(redis_user, rules):
    assert await features.redis_faults(await redis_user(*rules)) == []


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (("-zmscore",), "ZMSCORE, which"),
        (("-xadd", "-xdel"), "XADD, XDEL, which"),
        (("-@scripting",), "SCRIPT LOAD, EVALSHA, which"),
        (("-@all", "+ping"), "SCRIPT LOAD, EVALSHA, SET, GET, INCRBY, DECRBY and "),
    ],
)
async def test_commands_that_redis_refuses_are_named(redis_user, rules, named):
    (line,) = await features.redis_faults(await redis_user(*rules))
    assert line.startswith(f"Redis refuses {named}")
    assert "NOPERM" in line
    assert "\n" not in line


async def test_a_redis_without_a_command_is_too_old():
    """Redis 6.0 has no ZMSCORE. Neither has one in whose configuration it is renamed."""
    with temporary_home() as home:
        place = StackHome(home, load_credentials(home))
        server = await redis_store.prepare(place)
        with (place.directory("redis") / "redis.conf").open("a") as config:
            config.write('rename-command ZMSCORE ""\n')
        services = Services({"redis": server})
        await services.start("redis")
        try:
            async with redis_client.connect(server.url, timeout_s=5) as client:
                (line,) = await features.redis_faults(client)
        finally:
            await services.stop("redis")
    assert re.fullmatch(
        r"Redis \d+\S+ lacks ZMSCORE; Redis 6\.2 or later, or Valkey, is needed", line
    )


async def test_keys_that_redis_refuses_are_one_line(redis_user):
    (line,) = await features.redis_faults(await redis_user(keys="~other:*"))
    assert re.fullmatch(r"Redis refuses EVALSHA, .* and \d+ more, which our user needs: .*", line)


@pytest.mark.parametrize(
    ("minimum", "value", "line"),
    [
        ("REDIS_MIN", (99, 0), r"Redis \d+\.\S+ is too old; Redis 99\.0 or later, or Valkey, .*"),
        ("POSTGRESQL_MIN", 99, r"PostgreSQL is \d+.*; 99 or later is needed"),
        ("RABBITMQ_MIN", (99, 0), r"RabbitMQ is \d+\.\S+; 99\.0 or later is needed"),
    ],
)
async def test_a_store_that_is_too_old_is_named_with_its_address(
    settings, monkeypatch, minimum, value, line
):
    monkeypatch.setattr(features, minimum, value)
    with pytest.raises(NotReady) as refused:
        await requirements.require(settings)
    found = re.sub(r" at 127\.0\.0\.1:\d+", "", str(refused.value))
    assert found != str(refused.value)
    assert re.fullmatch(line, found)


async def test_the_version_of_a_broker_is_known(settings, monkeypatch):
    """It has to be in what the broker says at the start of a connection."""
    connection = await Broker(settings.amqp_url, "test-version", 15).connect()
    try:
        assert features.rabbitmq_faults(connection) == []
        monkeypatch.setattr(features, "RABBITMQ_MIN", (99, 0))
        assert len(features.rabbitmq_faults(connection)) == 1
    finally:
        await close_link(connection)


async def test_rights_that_a_role_lacks_are_named(role, db):
    async with postgres.connect(role, size=1, timeout_s=5, at_once=False) as pool:
        (line,) = await features.postgresql_faults(pool)
        assert line.startswith("PostgreSQL: the role tenant lacks SELECT on ")
        assert "type there: GRANT " in line

        await db.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO tenant")
        (line,) = await features.postgresql_faults(pool)
        assert line.startswith("PostgreSQL: the role tenant lacks INSERT on sales, INSERT on ")
        grant = line.partition("type there: ")[2]

        await db.execute(grant)

        assert await features.postgresql_faults(pool) == []
        await db.execute("REVOKE DELETE ON stock_returns FROM tenant")
        (line,) = await features.postgresql_faults(pool)
        assert "lacks DELETE on stock_returns;" in line


async def test_a_broker_that_lets_us_declare_nothing_is_one_line(services, settings):
    erlang = (
        'rabbit_auth_backend_internal:add_user(<<"tenant">>, <<"x">>, <<"test">>),'
        'rabbit_auth_backend_internal:set_permissions(<<"tenant">>, <<"/">>, <<"^$">>,'
        ' <<".*">>, <<".*">>, <<"test">>).'
    )
    await rabbitmqctl(services, "eval", erlang)
    other = settings.model_copy(update={"amqp_url": login(settings.amqp_url, "tenant")})

    with pytest.raises(NotReady) as refused:
        await requirements.require(other)

    line = str(refused.value)
    assert line.startswith("RabbitMQ")
    assert "ACCESS_REFUSED" in line
    assert "\n" not in line


async def test_all_faults_are_reported_at_once_without_a_secret(settings, db):
    nowhere = f"postgresql://seckill:s3cr3t@127.0.0.1:{free_port()}/seckill"
    wrong = settings.model_copy(
        update={
            "redis_url": login(settings.redis_url, "s3cr3t"),
            "postgres_dsn": nowhere,
            "amqp_url": f"{settings.amqp_url}nowhere",
        }
    )
    with pytest.raises(NotReady) as refused:
        await requirements.require(wrong)

    text = str(refused.value)
    assert [line.split(" at ")[0] for line in text.split("; ")] == [
        "Redis",
        "PostgreSQL",
        "RabbitMQ",
    ]
    assert "\n" not in text
    assert "s3cr3t" not in text


async def test_a_table_that_is_missing_is_named(db):
    async with db.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("DROP TABLE notifications")
        await connection.execute("ALTER FUNCTION place RENAME TO place_")
        (line,) = await features.postgresql_faults(connection)
        await transaction.rollback()
    assert "has lost" in line
    assert "table notifications" in line
    assert "function place" in line
    assert "restore it" in line
