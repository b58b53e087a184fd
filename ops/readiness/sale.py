"""Are we ready for a sale? Each check is one line, which says what to do where something is amiss.

It looks at the stores, at what the processes of the installation report, and at this host. What
lies in front of the gateways (a proxy, its certificates, its limits) it cannot see.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import asyncpg
from redis.asyncio import Redis

from config.limits import Limits
from config.settings import Settings
from ops import sizing
from ops.readiness.host import Check, certificate, open_files
from seckill.adapters.rabbitmq import Broker
from seckill.consistency import clocks, fencing
from seckill.consistency.preflight import Preflight
from seckill.dead_letters import store as dead_letters
from seckill.errors import Unavailable
from seckill.health.backlogs import Backlogs
from seckill.registry import processes
from seckill.registry.processes import SILENT_S, ProcessState
from seckill.sales import rate_limits
from seckill.sales.sales import Sale
from seckill.transactions.log import TransactionLog

#: Whoever waits longer for their turn goes away.
PATIENCE_S = 60.0
#: Time in which the orders of a crowd should be placed.
PLACED_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Readiness:
    """The checks of one sale, on the stores of its installation."""

    settings: Settings
    limits: Limits
    redis: Redis
    db: asyncpg.Pool
    broker: Broker
    #: The roles that consumers must have.
    roles: Sequence[str]

    async def check(self, sale: Sale, *, crowd: int, within_s: float) -> list[Check]:
        """Return what was found, in the order in which an operator should mend it."""
        found: list[Check] = [_terms(sale)]
        found += await _looked("stores", lambda: self._stores(sale))
        found += await _looked("clocks", self._clocks)
        try:
            known = await processes.read(self.redis)
        except Unavailable as error:
            known = []
            found.append(Check("processes", "fail", str(error), "start Redis"))
        alive = [each for each in known if abs(time.time() - each.at) <= SILENT_S]
        found += [*_gateways(known, alive), *self._consumers(alive)]
        found += await _looked("queues", self._queues)
        found += await _looked("left over", self._left_over)
        gateways = [each for each in alive if each.kind == "gateway"]
        found += await _looked(
            "crowd", lambda: self._crowd(sale, crowd, within_s, max(1, len(gateways)))
        )
        found += open_files(gateways, self.settings.connections_max)
        return [*found, certificate(self.settings.tls_cert, sale)]

    async def _stores(self, sale: Sale) -> list[Check]:
        preflight = Preflight(self.redis, self.db, self.broker, self.settings.timeouts)
        report = await preflight.check()
        found = [Check("stores", "fail", each) for each in report.unavailable + report.problems]
        found += [Check("stores", "warn", each) for each in report.warnings]
        if sale.was_opened and not report.unavailable:
            fenced = await fencing.needing_rebuild(self.redis, self.db, [sale.sale_id])
            found += [Check("stores", "fail", fencing.advice(*each)) for each in fenced.items()]
        well = "Redis, PostgreSQL (schema included) and RabbitMQ lose nothing"
        return found or [Check("stores", "ok", well)]

    async def _clocks(self) -> list[Check]:
        found = await clocks.offsets(self.redis, self.db)
        wrong = [Check("clocks", "fail", each.line) for each in clocks.apart(found)]
        well = f"Redis, PostgreSQL and this host agree within {clocks.APART_S:g} s"
        return wrong or [Check("clocks", "ok", well)]

    def _consumers(self, alive: Sequence[ProcessState]) -> list[Check]:
        at_work = [each for each in alive if each.kind == "consumers"]
        working = {role for each in at_work for role in set(each.roles) - set(each.paused)}
        if missing := [role for role in self.roles if role not in working]:
            names = " ".join(missing)
            return [
                Check(
                    "consumers",
                    "fail",
                    f"no process works as {', '.join(missing)}",
                    f"start them: seckill consumers {names}; or, paused: seckill pool resume ROLE",
                )
            ]
        hosts = {each.host for each in at_work}
        said = f"{len(at_work)} processes on {len(hosts)} hosts have all {len(self.roles)} roles"
        return [Check("consumers", "ok", said)]

    async def _queues(self) -> list[Check]:
        backlogs = Backlogs(self.redis, self.db, self.broker)
        try:
            found = await backlogs.read()
        finally:
            await backlogs.close()
        waiting = {role: each.size for role, each in found.items() if each.size}
        unknown = [each.note for each in found.values() if each.size is None and each.note]
        lines = [Check("queues", "fail", note) for note in sorted(set(unknown))]
        if waiting:
            said = ", ".join(f"{size:,} wait for {role}" for role, size in waiting.items())
            lines.append(Check("queues", "warn", said, "watch them shrink: seckill pool top"))
        return lines or [Check("queues", "ok", "nothing waits for any role")]

    async def _left_over(self) -> list[Check]:
        found = []
        if letters := sum((await dead_letters.open_by_queue(self.db)).values()):
            found.append(
                Check("left over", "warn", f"{letters:,} dead letters", "seckill dead list")
            )
        if parked := await TransactionLog(self.db).parked():
            said = f"{parked:,} transactions wait for an operator"
            found.append(Check("left over", "warn", said, "seckill tx list"))
        return found or [Check("left over", "ok", "no dead letters, no parked transactions")]

    async def _crowd(self, sale: Sale, crowd: int, within_s: float, gateways: int) -> list[Check]:
        own = await rate_limits.limits_of(self.db, sale.sale_id)
        limit = rate_limits.in_force(self.limits, own)["try"]
        if not crowd:
            said = f"{limit['rate']:,} grabs/s are let in; no crowd was named"
            return [Check("crowd", "ok", said, "compare with one: --crowd BUYERS")]
        found = []
        wait_s = min(crowd, sale.total) / float(str(limit["rate"]))
        if limit["mode"] == "enforce" and wait_s > PATIENCE_S:
            found.append(
                Check(
                    "crowd",
                    "warn",
                    f"at {limit['rate']:,} grabs/s the last of {min(crowd, sale.total):,} buyers "
                    f"has a turn after {wait_s:,.0f} s",
                    f"seckill sale limit {sale.sale_id} --try-rate {crowd // int(PATIENCE_S) + 1}",
                )
            )
        if crowd > (room := gateways * self.settings.connections_max):
            found.append(
                Check(
                    "crowd",
                    "warn",
                    f"{gateways} gateways take {room:,} connections, {crowd:,} buyers may come",
                    "more gateways, a higher SECKILL_CONNECTIONS_MAX, or a proxy that keeps few",
                )
            )
        planned = sizing.plan(
            sizing.PartCosts.read(None),
            buyers=crowd,
            stock=sale.total,
            seconds=within_s,
            placed_within_s=PLACED_WITHIN_S,
            kept_connections=True,
        )
        needed = next(need for need in planned.needs if need.part == "gateway")
        if needed.processes > gateways:
            said = (
                f"{crowd:,} buyers within {within_s:g} s need about {needed.processes} gateway "
                f"processes of a core each, {gateways} run"
            )
            found.append(Check("crowd", "warn", said, f"seckill plan --buyers {crowd} says more"))
        return found or [Check("crowd", "ok", f"{crowd:,} buyers within {within_s:g} s fit")]


def _terms(sale: Sale) -> Check:
    now, edit = datetime.now(UTC), f"seckill sale edit {sale.sale_id}"
    if sale.archived or sale.state == "closed":
        return Check("sale", "fail", "it is archived" if sale.archived else "it is closed")
    if sale.closes_at and sale.closes_at <= now:
        return Check("sale", "fail", f"its time is over since {sale.closes_at}", edit)
    if not sale.was_opened:
        do = f"seckill sale open {sale.sale_id}"
        return Check("sale", "warn", "no operator has opened it: buyers do not see it", do)
    if sale.is_hidden(now) and (not sale.announce_at or sale.announce_at == sale.opens_at):
        do = f"seckill sale announce {sale.sale_id}"
        return Check("sale", "warn", "it is hidden from buyers until you announce it", do)
    if sale.state == "paused":
        return Check("sale", "warn", "it is paused", f"seckill sale resume {sale.sale_id}")
    begins = f"opens at {sale.opens_at}" if sale.opens_at and sale.opens_at > now else "is open"
    return Check("sale", "ok", f"it {begins}, with {sale.total:,} units")


def _gateways(known: Sequence[ProcessState], alive: Sequence[ProcessState]) -> list[Check]:
    gateways = [each for each in alive if each.kind == "gateway"]
    if not gateways:
        return [Check("gateways", "fail", "no gateway reports", "start one: seckill gateway")]
    found = []
    hosts, versions = ({each.host for each in gateways}, {each.version for each in alive})
    for each in known:
        if each not in alive:
            silent = f"{each.kind} {each.pid} on {each.host} has been silent for "
            silent += f"{abs(time.time() - each.at):.0f} s"
            do = "look whether it runs, and at the clock of its host"
            found.append(Check("processes", "warn", silent, do))
    for each in alive:
        for name, reason in each.reasons.items():
            said = f"{each.kind} {each.pid} on {each.host}: {name}: {reason.words}"
            found.append(Check("processes", "warn", said))
    if len(versions) > 1:
        said = f"the processes have versions {', '.join(sorted(versions))}"
        found.append(Check("processes", "warn", said, "restart the older ones"))
    if len(hosts) == 1:
        said = f"all {len(gateways)} gateways are on one host"
        found.append(Check("gateways", "warn", said, "start some on a second one"))
    else:
        said = f"{len(gateways)} gateways on {len(hosts)} hosts report"
        found.append(Check("gateways", "ok", said))
    return found


async def _looked(name: str, look: Callable[[], Awaitable[list[Check]]]) -> list[Check]:
    """Return what a look found; a store that does not answer is a finding as well."""
    try:
        return await look()
    except Unavailable as error:
        return [Check(name, "fail", str(error), "start it, or wait for it")]
