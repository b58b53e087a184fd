"""Whether a store has what this project needs: its version, its commands, our rights in it.

Each check returns its findings, one line each: what was found, and what is needed. A store that
does not answer raises Unavailable.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from collections.abc import Sequence

import asyncpg
from aio_pika.abc import AbstractConnection
from redis.asyncio import Redis
from redis.exceptions import RedisError

from seckill.adapters import redis_keys, schema
from seckill.adapters.failures import words
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.adapters.redis import open_pipeline, redis_errors_as_unavailable
from seckill.adapters.redis_cluster import spread_ids

#: ZMSCORE and exclusive ranges of streams came with 6.2.
REDIS_MIN = (6, 2)
#: The oldest whose functions and statements the tests of the project have seen.
POSTGRESQL_MIN = 13
#: Queues that dead-letter at least once came with 3.10.
RABBITMQ_MIN = (3, 10)

#: Keys of a probe expire by themselves if its process is killed.
_EXPIRES_MS = "60000"
_SCRIPT = "return 1"
_DIGEST = hashlib.sha1(_SCRIPT.encode(), usedforsecurity=False).hexdigest()
#: One call of each command that scripts and processes use, in an order in which each succeeds.
#: The names of keys are {string}, {hash}, {zset} and {stream}.
_CALLS = """
SET {string} 1 PX 60000
GET {string}
INCRBY {string} 1
DECRBY {string} 1
EXISTS {string}
PEXPIREAT {string} 99999999999999
HSET {hash} field 1
HGET {hash} field
HMGET {hash} field
HINCRBY {hash} field 1
HLEN {hash}
HSCAN {hash} 0
HDEL {hash} field
ZADD {zset} 1 member
ZRANGE {zset} 0 0
ZMSCORE {zset} member
ZCARD {zset}
ZCOUNT {zset} 0 1
ZREM {zset} member
ZREMRANGEBYSCORE {zset} 0 1
XADD {stream} 1-1 field 1
XLEN {stream}
XRANGE {stream} (0-1 + COUNT 1
XINFO STREAM {stream}
XDEL {stream} 1-1
TIME
"""
COMMANDS = frozenset(line.split()[0] for line in _CALLS.split("\n") if line)
_MISSING = re.compile(r"unknown (sub)?command", re.IGNORECASE)

#: What a process does to tables beside SELECT and INSERT, which it needs on all of them.
_RIGHTS = {
    "UPDATE": "coupons dead_letters installation inventory orders payments sales shipments"
    " stock_returns transactions wallets",
    "DELETE": "barriers branches events stock_returns transactions wallet_holds",
}
_REFUSED = """
SELECT kind || ' on ' || name FROM unnest($1::text[], $2::text[]) AS needed (kind, name)
 WHERE NOT has_table_privilege(to_regclass(name), kind)
"""


async def redis_faults(redis: Redis, *more: str) -> list[str]:
    """Try each command on keys of our own: a server is judged by what it can do, not by its name.

    Each node of a cluster is tried, with `more` commands as text. Redis may refuse `INFO`, which
    only adds the version.
    """
    with redis_errors_as_unavailable():
        tokens = await spread_ids(redis, secrets.token_hex(8))
    found = await asyncio.gather(*(_faults_of(redis, token, more) for token in tokens))
    return list(dict.fromkeys(line for lines in found for line in lines))


async def _faults_of(redis: Redis, token: str, more: Sequence[str]) -> list[str]:
    kinds = ("string", "hash", "zset", "stream")
    keys = {kind: redis_keys.probe(token, kind) for kind in kinds}
    lines = [line.split() for line in [*_CALLS.format(**keys).split("\n"), *more] if line]
    calls = [
        ["INFO", "server"],
        ["SCRIPT LOAD", _SCRIPT],
        ["EVALSHA", _DIGEST, "1", keys["string"]],
        *lines,
        *(["PEXPIRE", key, _EXPIRES_MS] for key in keys.values()),
        ["UNLINK", *keys.values()],
    ]
    async with open_pipeline(redis) as pipe:
        for call in calls:
            pipe.execute_command(*call)
        info, *replies = await pipe.execute(raise_on_error=False)
        version = info.get("redis_version", "") if isinstance(info, dict) else ""
        return _judged([call[0] for call in calls[1:]], replies, str(version))


async def postgresql_faults(db: asyncpg.Pool | asyncpg.Connection) -> list[str]:
    """Check the version, then the schema, then our rights: each makes sense only after the last."""
    with database_errors_as_unavailable():
        number = await db.fetchval("SELECT current_setting('server_version_num')::integer")
        if number // 10_000 < POSTGRESQL_MIN:
            version = await db.fetchval("SELECT current_setting('server_version')")
            return [f"PostgreSQL is {version}; {POSTGRESQL_MIN} or later is needed"]
        try:
            if fault := (await schema.look(db)).fault:
                return [f"PostgreSQL: {fault}"]
        except asyncpg.InsufficientPrivilegeError as error:
            denied = error  # the rights that lack are named below, with the line to type
        else:
            denied = None
        needed = [(kind, name) for kind, names in _rights().items() for name in names]
        refused = await db.fetch(_REFUSED, *map(list, zip(*needed, strict=True)))
        if not refused:
            if denied:  # another right, as to use the schema at all
                raise denied
            return []
        user = await db.fetchval("SELECT current_user")
        names = schema.some([row[0] for row in refused])
        return [
            f"PostgreSQL: the role {user} lacks {names}; type there: GRANT SELECT, INSERT, UPDATE, "
            f'DELETE ON ALL TABLES IN SCHEMA public TO "{user}"'
        ]


def rabbitmq_faults(connection: AbstractConnection) -> list[str]:
    """Check the version that the broker gave when the connection was opened."""
    transport = connection.transport
    found = getattr(transport and transport.connection, "server_properties", None) or {}
    version = found.get("version", "")
    text = version.decode() if isinstance(version, bytes) else str(version)
    if (number := _number(text)) and number < RABBITMQ_MIN:
        return [f"RabbitMQ is {text}; {_dotted(RABBITMQ_MIN)} or later is needed"]
    return []


def _judged(commands: list[str], replies: list[object], version: str) -> list[str]:
    """Return what the replies to a probe mean; raise the first that says that Redis is not well."""
    failed = [
        (command, reply)
        for command, reply in zip(commands, replies, strict=True)
        if isinstance(reply, RedisError)
    ]
    named = f"Redis {version}".strip()
    needed = f"Redis {_dotted(REDIS_MIN)} or later, or Valkey, is needed"
    if missing := [command for command, reply in failed if _MISSING.search(str(reply))]:
        return [f"{named} lacks {schema.some(missing)}; {needed}"]
    refused = [(command, reply) for command, reply in failed if _is_refusal(reply)]
    if refused:
        names = schema.some([command for command, _ in refused])
        return [f"Redis refuses {names}, which our user needs: {words(refused[0][1])}"]
    for _, reply in failed:
        raise reply
    if (number := _number(version)) and number < REDIS_MIN:
        return [f"{named} is too old; {needed}"]
    return []


def _is_refusal(reply: RedisError) -> bool:
    return "NOPERM" in words(reply)


def _rights() -> dict[str, list[str]]:
    made = schema.objects_of(tuple(file.text for file in schema.numbered_files()))
    tables = [name for kind, name in made if kind == "table"]
    some = {kind: [t for t in names.split() if t in tables] for kind, names in _RIGHTS.items()}
    return {"SELECT": tables, "INSERT": tables, **some}


def _number(version: str) -> tuple[int, int] | None:
    """Return the first two numbers of a version; None for a text of another form."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def _dotted(number: tuple[int, int]) -> str:
    return ".".join(map(str, number))
