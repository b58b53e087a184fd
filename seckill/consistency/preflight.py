"""Preflight: whether the stores are set up so that nothing can be lost that was promised.

Asked before a sale opens and by `/readyz`. Each finding is one line that says what to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass, field

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from config.field_types import KEY_EXPIRY
from seckill.adapters import topology
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.adapters.rabbitmq import Broker, link_call
from seckill.adapters.redis import redis_errors_as_unavailable
from seckill.consistency import fencing
from seckill.errors import Conflict, NotReady, Unavailable, WrongQueue
from seckill.sales.sales import Sale

#: Settings of Redis without which an acknowledged grab can be lost, or a key be evicted. Snapshots
#: add nothing to the log, and one that fails makes Redis refuse all writes.
REDIS_MUST_BE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
    "save": "",
}
KEYSPACE_EVENTS = "notify-keyspace-events"


@dataclass(slots=True)
class PreflightReport:
    """What was found."""

    #: What must be mended first.
    problems: list[str] = field(default_factory=list)
    #: What could not be looked at.
    warnings: list[str] = field(default_factory=list)
    #: Stores that did not answer. A sale does not open meanwhile; a gateway goes on with the rest.
    unavailable: list[str] = field(default_factory=list)
    #: Problems of single sales, by their ids: they keep that sale from opening, nothing else.
    sales: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preflight:
    """The checks, on the stores that are to be checked."""

    redis: Redis
    db: asyncpg.Pool
    broker: Broker
    timeouts: Collection[str]

    async def check(self) -> PreflightReport:
        """Look at all stores at once; one that is away is reported, never raised."""
        report = PreflightReport()
        checks = (self._redis, self._postgresql, self._queues, self._sales)
        ended = await asyncio.gather(*(check(report) for check in checks), return_exceptions=True)
        for error in ended:
            if isinstance(error, WrongQueue):
                report.problems.append(str(error))
            elif isinstance(error, Unavailable):
                if str(error) not in report.unavailable:  # two checks ask the same store
                    report.unavailable.append(str(error))
            elif error is not None:
                raise error
        return report

    async def _redis(self, report: PreflightReport) -> None:
        told = await redis_settings(self.redis, [*REDIS_MUST_BE, KEYSPACE_EVENTS])
        for name, right in REDIS_MUST_BE.items():
            if name not in told:
                report.warnings.append(
                    f"Redis does not tell its {name}; see that it is {right or 'empty'}"
                )
            elif told[name] != right:
                report.problems.append(
                    f"Redis has {name} {told[name] or 'empty'}; set it to {right or 'nothing'}, "
                    f'now (CONFIG SET {name} "{right}") and in its configuration file'
                )
        if KEY_EXPIRY in self.timeouts and (line := missing_expiry_events(told)):
            report.warnings.append(line)

    async def _postgresql(self, report: PreflightReport) -> None:
        with database_errors_as_unavailable():
            told = dict(
                await self.db.fetch(
                    "SELECT name, setting FROM pg_settings"
                    " WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes')"
                )
            )
        report.problems += [
            f"PostgreSQL has {name} off, so an order that it confirmed can be lost; turn it on: "
            f"ALTER SYSTEM SET {name} = on, SELECT pg_reload_conf()"
            for name, setting in sorted(told.items())
            if setting == "off"
        ]

    async def _queues(self, _: PreflightReport) -> None:
        timeout_s = self.broker.timeout_s
        async with self.broker.channel() as channel, link_call("checking the queues", timeout_s):
            await topology.declare(channel)

    async def _sales(self, report: PreflightReport) -> None:
        """Find sales that PostgreSQL has open and Redis cannot sell."""
        with database_errors_as_unavailable():
            rows = await self.db.fetch(
                "SELECT sale_id FROM sales WHERE state IN ('open', 'paused')"
            )
        troubles = await fencing.needing_rebuild(self.redis, self.db, [row[0] for row in rows])
        report.sales = {
            sale_id: fencing.advice(sale_id, trouble) for sale_id, trouble in troubles.items()
        }


async def require(preflight: Preflight, sale: Sale, *, only_warn: bool) -> list[str]:
    """Return what to warn an operator of who opens a sale.

    NotReady when the stores are not as they must be, unless `only_warn`; Conflict when Redis cannot
    sell this sale until it is rebuilt.
    """
    report = await preflight.check()
    faults = report.problems + report.unavailable
    if faults and not only_warn:
        raise NotReady(
            f"sale {sale.sale_id} does not open: {'; '.join(faults)} "
            "(SECKILL_PREFLIGHT=warn opens it all the same)"
        )
    if sale.was_opened:  # a closed one, too, which `check` leaves out
        troubles = await fencing.needing_rebuild(preflight.redis, preflight.db, [sale.sale_id])
        for sale_id, trouble in troubles.items():
            raise Conflict(fencing.advice(sale_id, trouble))
    return faults + report.warnings


async def redis_settings(redis: Redis, names: Collection[str]) -> dict[str, str]:
    """Return those of its settings that Redis tells; managed ones may keep them to themselves."""
    with redis_errors_as_unavailable():
        async with redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.config_get(name)
            replies = await pipe.execute(raise_on_error=False)
        told: dict[str, str] = {}
        for reply in replies:
            if isinstance(reply, RedisError) and not isinstance(reply, ResponseError):
                raise reply
            if not isinstance(reply, RedisError):
                told |= reply
    return told


def missing_expiry_events(told: dict[str, str]) -> str | None:
    """Say what to do when Redis does not announce the keys that expire; None when it does."""
    flags = told.get(KEYSPACE_EVENTS)
    if flags is None:
        return f"Redis does not tell its {KEYSPACE_EVENTS}; key_expiry needs Ex there"
    if "E" in flags and ("x" in flags or "A" in flags):
        return None
    return (
        "Redis announces no expired keys, so key_expiry hears nothing and the sweep cancels; set "
        f'{KEYSPACE_EVENTS} to "{flags}Ex", now (CONFIG SET) and in its configuration file'
    )
