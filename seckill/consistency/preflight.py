"""Preflight: check that the stores are set up so that nothing promised can be lost.

It runs before a sale opens and for `/readyz`. Each finding is one line that says what to do.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from config.field_types import KEY_EXPIRY
from seckill.adapters import features, topology
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.adapters.rabbitmq import Broker, link_call
from seckill.adapters.redis import open_pipeline, redis_errors_as_unavailable
from seckill.adapters.redis_cluster import each_server
from seckill.consistency import clocks, fencing
from seckill.errors import Conflict, NotReady, Unavailable, WrongQueue
from seckill.sales.sales import Sale

#: Without these settings Redis can lose an acknowledged grab, or evict a key. Snapshots add nothing
#: to the append-only file, and a snapshot that fails makes Redis refuse all writes.
REDIS_MUST_BE = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
    "save": "",
}
#: So far apart clocks of nodes may be: a tenth of the time limit of a call, and some way.
CLOCKS_APART_S = 0.25
KEYSPACE_EVENTS = "notify-keyspace-events"


@dataclass(slots=True)
class PreflightReport:
    """The findings."""

    #: Faults that keep every sale from opening.
    problems: list[str] = field(default_factory=list)
    #: Settings that could not be read, and what works without.
    warnings: list[str] = field(default_factory=list)
    #: Stores that did not answer, or that have another schema. A sale does not open meanwhile; a
    #: gateway goes on without them.
    unavailable: list[str] = field(default_factory=list)
    #: Faults of single sales, by sale id: each keeps only its sale from opening.
    sales: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preflight:
    """The checks, on the stores to be checked."""

    redis: Redis
    db: asyncpg.Pool
    broker: Broker
    timeouts: Collection[str]

    async def check(self) -> PreflightReport:
        """Check all stores at once; report an unavailable store, never raise."""
        report = PreflightReport()
        checks = (self._redis, self._postgresql, self._clocks_of_stores, self._queues, self._sales)
        ended = await asyncio.gather(*(check(report) for check in checks), return_exceptions=True)
        for error in ended:
            if isinstance(error, WrongQueue):
                report.problems.append(str(error))
            elif isinstance(error, Unavailable):
                if str(error) not in report.unavailable:  # two checks read the same store
                    report.unavailable.append(str(error))
            elif error is not None:
                raise error
        return report

    async def _redis(self, report: PreflightReport) -> None:
        report.problems += await features.redis_faults(self.redis)
        with redis_errors_as_unavailable():
            servers = await each_server(self.redis)
        for server in servers:
            await self._settings(server, report)
        await self._clocks(servers, report)

    async def _settings(self, server: Redis, report: PreflightReport) -> None:
        found = await redis_settings(server, [*REDIS_MUST_BE, KEYSPACE_EVENTS])
        for name, right in REDIS_MUST_BE.items():
            if name not in found:
                report.warnings.append(
                    f"Redis does not report its {name}; make sure that it is {right or 'empty'}"
                )
            elif found[name] != right:
                report.problems.append(
                    f"Redis has {name} {found[name] or 'empty'}; set it to {right or 'nothing'}, "
                    f'now (CONFIG SET {name} "{right}") and in its configuration file'
                )
        if KEY_EXPIRY in self.timeouts and (line := missing_expiry_events(found)):
            report.warnings.append(line)

    async def _clocks(self, servers: Sequence[Redis], report: PreflightReport) -> None:
        """Compare the clocks of the nodes: sales open, and calls expire, by that of their node."""
        times = []
        with redis_errors_as_unavailable():
            for server in servers:
                before, (seconds, microseconds) = time.time(), await server.time()
                times.append(seconds + microseconds / 1e6 - (before + time.time()) / 2)
        if times and (apart_s := max(times) - min(times)) > CLOCKS_APART_S:
            report.problems.append(
                f"the clocks of the nodes of Redis are {apart_s:.1f} s apart; let them keep time "
                "(chrony, systemd-timesyncd)"
            )

    async def _clocks_of_stores(self, report: PreflightReport) -> None:
        found = await clocks.offsets(self.redis, self.db)
        report.warnings += [each.line for each in clocks.apart(found)]

    async def _postgresql(self, report: PreflightReport) -> None:
        # Grabs wait for it like for a server that is away. While a new version is rolled out, all
        # gateways of the old one find the schema of the new one.
        report.unavailable += await features.postgresql_faults(self.db)
        with database_errors_as_unavailable():
            found = dict(
                await self.db.fetch(
                    "SELECT name, setting FROM pg_settings"
                    " WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes')"
                )
            )
        report.problems += [
            f"PostgreSQL has {name} off, so an order that it confirmed can be lost; turn it on: "
            f"ALTER SYSTEM SET {name} = on, SELECT pg_reload_conf()"
            for name, setting in sorted(found.items())
            if setting == "off"
        ]

    async def _queues(self, _: PreflightReport) -> None:
        timeout_s = self.broker.timeout_s
        async with self.broker.channel() as channel, link_call("checking the queues", timeout_s):
            await topology.declare(channel)

    async def _sales(self, report: PreflightReport) -> None:
        """Find sales that are open in PostgreSQL and that Redis cannot sell."""
        with database_errors_as_unavailable():
            rows = await self.db.fetch(
                "SELECT sale_id FROM sales WHERE state IN ('open', 'paused')"
            )
        fenced = await fencing.needing_rebuild(self.redis, self.db, [row[0] for row in rows])
        report.sales = {id_: fencing.advice(id_, reason) for id_, reason in fenced.items()}


async def require(preflight: Preflight, sale: Sale, *, only_warn: bool) -> list[str]:
    """Return the warnings for an operator who opens a sale.

    Raise NotReady if the stores are not set up as they must be, unless `only_warn`. Raise Conflict
    if this sale must be rebuilt.
    """
    report = await preflight.check()
    faults = report.problems + report.unavailable
    if faults and not only_warn:
        without_redis = any(line.startswith("Redis") for line in report.unavailable)
        advice = "" if without_redis else " (SECKILL_PREFLIGHT=warn opens it all the same)"
        raise NotReady(f"sale {sale.sale_id} does not open: {'; '.join(faults)}{advice}")
    _require_time_left(sale)
    if sale.was_opened:  # also a closed sale, which `check` leaves out
        fenced = await fencing.needing_rebuild(preflight.redis, preflight.db, [sale.sale_id])
        for sale_id, reason in fenced.items():
            raise Conflict(fencing.advice(sale_id, reason))
    return faults + report.warnings


def _require_time_left(sale: Sale) -> None:
    """Raise Conflict if the sale would be closed as soon as it is open."""
    if sale.closes_at is None or sale.closes_at > datetime.now(UTC):
        return
    over = f"sale {sale.sale_id} would sell nothing: its closes_at, {sale.closes_at}, is over"
    if sale.was_opened:
        raise Conflict(f"{over}, and the terms of a sale that was opened are fixed")
    raise Conflict(f"{over}; change it: seckill sale edit {sale.sale_id} --closes-at TIME")


async def redis_settings(redis: Redis, names: Collection[str]) -> dict[str, str]:
    """Return the settings that Redis reports; a managed Redis may report none of them."""
    async with open_pipeline(redis) as pipe:
        for name in names:
            pipe.config_get(name)
        replies = await pipe.execute(raise_on_error=False)
        found: dict[str, str] = {}
        for reply in replies:
            if isinstance(reply, RedisError) and not isinstance(reply, ResponseError):
                raise reply
            if not isinstance(reply, RedisError):
                found |= reply
    return found


def missing_expiry_events(settings: dict[str, str]) -> str | None:
    """Return what to do if Redis does not announce the keys that expire; None if it does."""
    flags = settings.get(KEYSPACE_EVENTS)
    if flags is None:
        return f"Redis does not report its {KEYSPACE_EVENTS}; key_expiry needs Ex there"
    if "E" in flags and ("x" in flags or "A" in flags):
        return None
    return (
        "Redis announces no expired keys, so key_expiry hears nothing and the sweep cancels; set "
        f'{KEYSPACE_EVENTS} to "{flags}Ex", now (CONFIG SET) and in its configuration file'
    )
