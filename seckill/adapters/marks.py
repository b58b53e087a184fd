"""What a store of another installation is refused with, and the mark in Redis.

`installation.py` says what the marks are for; `topology.claim` makes the mark in RabbitMQ.
"""

from __future__ import annotations

from redis.asyncio.connection import AbstractConnection, Connection
from redis.exceptions import AskError

from seckill.adapters import redis_keys
from seckill.adapters.failures import POSTGRESQL, RABBITMQ, REDIS
from seckill.errors import FailureKind, ForeignStore

#: Store -> its name in texts, and the setting of its address.
_STORES = {
    REDIS: ("Redis", "SECKILL_REDIS_URL"),
    RABBITMQ: ("RabbitMQ", "SECKILL_AMQP_URL"),
    POSTGRESQL: ("PostgreSQL", "SECKILL_POSTGRES_DSN"),
}


def foreign(store: str, theirs: str, ours: str) -> ForeignStore:
    """Return the refusal of a store that belongs to another installation, in one line."""
    name, setting = _STORES[store]
    return ForeignStore(
        f"{name} belongs to the installation {theirs}, and this one is {ours}; give the right "
        f"{setting}, or keep the two apart by SECKILL_NAMESPACE (docs/operating.md, Two "
        "installations on the same stores)",
        kind=FailureKind.CONFIGURATION,
        store=store,
    )


async def greet_redis(installation_id: str, connection: AbstractConnection) -> None:
    """Log a new connection in, and compare the mark of the Redis to which it leads.

    A Redis without a mark is marked as ours. Raise ForeignStore if it is another installation's.
    """
    try:
        await connection.on_connect()
        theirs = await _mark(installation_id, connection)
        if theirs != installation_id:
            refusal = foreign(REDIS, theirs, installation_id)
            if isinstance(connection, Connection):  # by TCP
                refusal = refusal.at(f"{connection.host}:{connection.port}")
            raise refusal
    except BaseException:
        # After errors that are not its own the client would lend the connection all the same.
        await connection.disconnect(nowait=True)
        raise


async def _mark(installation_id: str, connection: AbstractConnection) -> str:
    """Return the mark, made if there is none."""
    key = redis_keys.installation()
    try:
        found = await _ask(connection, "GET", key)
    except AskError:  # MOVED as well: another node of this cluster has the mark
        return installation_id
    if found is None:
        await _ask(connection, "SET", key, installation_id, "NX")
        found = await _ask(connection, "GET", key)
    return found.decode(errors="replace") if found is not None else installation_id


async def _ask(connection: AbstractConnection, *words: str) -> bytes | None:
    await connection.send_command(*words)
    reply: bytes | None = await connection.read_response()
    return reply
