"""survey: what all sales have in common, as metrics: backlogs, units, and how the stores differ.

It runs as a part of the role `reconcile`. Every process with that role reports the same figures, so
alarms take their maximum. A figure that a store keeps to itself is unknown, and never zero.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

import asyncpg

from consumers.resources import Resources
from consumers.runtime.poll_role import Polled, PollRole
from consumers.runtime.role import Role
from seckill import metrics
from seckill.errors import Unavailable
from seckill.health.backlogs import Backlogs
from seckill.inventory.reservations import Stock
from seckill.payments.external_payments import ExternalPayments
from seckill.sales import listing
from seckill.sales.listing import LiveUnits

#: Between two looks: less than the usual 15 s between two scrapes. A look costs this process some
#: 5 ms with a few sales.
IDLE_S = 10.0
#: States of a live sale.
STATES = ("created", "open", "paused", "closed", "over")
#: What is not known, as Prometheus writes it: no alarm compares with it.
UNKNOWN = float("nan")


class Survey:
    """Looks at the stores, and sets the gauges."""

    def __init__(
        self, backlogs: Backlogs, db: asyncpg.Pool, stock: Stock, *, sales_named: int
    ) -> None:
        self._backlogs = backlogs
        self._db = db
        self._external = ExternalPayments(db)
        self._stock = stock
        #: Open sales that are reported by name: the largest ones, and of equal ones the newest.
        self._sales_named = sales_named

    async def run_once(self) -> Polled:
        """Look once; there is never more to do at once."""
        for role, backlog in (await self._backlogs.read()).items():
            metrics.BACKLOG.labels(role).set(_known(backlog.size))
            metrics.BACKLOG_OLDEST.labels(role).set(_known(backlog.oldest_age_s))
            if backlog.size is None or backlog.consumers is not None:
                metrics.BACKLOG_CONSUMERS.labels(role).set(_known(backlog.consumers))
        try:
            due = await self._external.due()
            metrics.EXTERNAL_DUE.set(due.payments)
            metrics.EXTERNAL_DUE_OLDEST.set(due.oldest_s)
            await self._count_units()
        except Unavailable:
            _forget()
            raise
        return Polled(0, more=False)

    async def _count_units(self) -> None:
        sales = await listing.live_units(self._db)
        states = Counter(sale.state for sale in sales)
        for state in STATES:
            metrics.SALES_LIVE.labels(state).set(states[state])
        opened = [sale for sale in sales if sale.was_opened]
        for state in ("available", "frozen", "sold"):
            metrics.UNITS.labels(state).set(sum(getattr(sale, state) for sale in opened))
        # After PostgreSQL, so that a grab that is placed meanwhile does not look like a unit that
        # Redis has too many.
        left = await self._stock.left_of([sale.sale_id for sale in opened])
        self._compare(opened, left)

    def _compare(self, opened: Sequence[LiveUnits], left: Sequence[int | None]) -> None:
        known = [
            (sale, units) for sale, units in zip(opened, left, strict=True) if units is not None
        ]
        differences = [sale.available - units for sale, units in known]
        metrics.LEDGER_DIFFERENCE.labels("redis_fewer").set(sum(d for d in differences if d > 0))
        metrics.LEDGER_DIFFERENCE.labels("redis_more").set(sum(-d for d in differences if d < 0))
        if self._sales_named:
            metrics.SALE_UNITS_LEFT.clear()
            largest = sorted((k for k in known if k[0].state == "open"), key=lambda k: -k[0].total)
            for sale, units in largest[: self._sales_named]:
                metrics.SALE_UNITS_LEFT.labels(sale.sale_id).set(units)


class SurveyRole:
    """Polls the survey, and leaves the broker in the end."""

    def __init__(self, survey: Survey, backlogs: Backlogs) -> None:
        self._survey, self._backlogs = survey, backlogs

    async def run(self, stop: asyncio.Event) -> None:
        """Look until `stop` is set."""
        try:
            await PollRole("reconcile", self._survey.run_once, idle_s=IDLE_S).run(stop)
        finally:
            await self._backlogs.close()


def build(stores: Resources) -> Role:
    """Return the poller over the stores of this process; it counts as `reconcile`."""
    backlogs = Backlogs(stores.redis, stores.db, stores.consuming)
    survey = Survey(backlogs, stores.db, stores.stock, sales_named=stores.settings.metrics_sales)
    return SurveyRole(survey, backlogs)


def _known(figure: float | None) -> float:
    return UNKNOWN if figure is None else figure


def _forget() -> None:
    for state in STATES:
        metrics.SALES_LIVE.labels(state).set(UNKNOWN)
    for state in ("available", "frozen", "sold"):
        metrics.UNITS.labels(state).set(UNKNOWN)
    for kind in ("redis_fewer", "redis_more"):
        metrics.LEDGER_DIFFERENCE.labels(kind).set(UNKNOWN)
    metrics.SALE_UNITS_LEFT.clear()
    metrics.EXTERNAL_DUE.set(UNKNOWN)
    metrics.EXTERNAL_DUE_OLDEST.set(UNKNOWN)
