"""The ledger of a sale: the invariants, counted by ids from the stores themselves.

Tests, load runs and `seckill verify` use it. Nothing is guessed from queue lengths: the holders in
Redis and the rows in PostgreSQL are compared name by name.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

import asyncpg
from redis.asyncio import Redis

from seckill.clock import now_ms
from seckill.consistency import charges, fencing
from seckill.consistency.fencing import FenceReason
from seckill.consistency.money_checks import MoneyCheck, read_money
from seckill.consistency.snapshots import (
    RedisSnapshot,
    SqlSnapshot,
    read_redis,
    read_sql,
    states_of,
)
from seckill.dead_letters import store
from seckill.dead_letters.store import LetterFilter
from seckill.errors import Unavailable
from seckill.order_ids import created_ms_of
from seckill.orders.orders import LIVE
from seckill.payments.provider import Provider

#: Between two counts: a consumer can finish a batch, and the user hardly waits.
COUNTS_APART_S = 0.2
#: A violation names so many ids, and counts the rest.
NAMED_MAX = 5
#: What a name for programs has "_" for.
_NO_LETTERS = re.compile(r"\W+")


@dataclass(slots=True)
class Ledger:
    """The counts of both stores, what is under way, and what is wrong."""

    lines: dict[str, int] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    #: Order ids of holders without a row.
    in_flight: list[str] = field(default_factory=list)
    #: Order ids of holders whose row is not live.
    return_pending: list[str] = field(default_factory=list)
    #: Transactions that have not ended.
    open_txs: list[str] = field(default_factory=list)
    #: Card payments without an outcome.
    unknown_txs: list[str] = field(default_factory=list)
    #: Order ids of holders without a row that wait for an operator: an open dead letter names them.
    on_dead_letters: list[str] = field(default_factory=list)
    #: Units that a restock has still to add in Redis; below 0, to take away.
    restock_pending: int = 0
    quiet: bool = False

    @property
    def balanced(self) -> bool:
        """Whether every invariant holds."""
        return not self.violations

    def summary(self) -> dict[str, object]:
        """Return the ledger as `verify --json` prints it, its lines under names for programs."""
        lines = {_NO_LETTERS.sub("_", name.lower()): count for name, count in self.lines.items()}
        return {"balanced": self.balanced, "lines": lines, "violations": self.violations}


async def verify(
    redis: Redis,
    db: asyncpg.Pool,
    sale_id: str,
    *,
    wait_s: float = 0.0,
    provider: Provider | None = None,
) -> Ledger:
    """Count a sale; with `wait_s`, count again until it balances and nothing is under way.

    What is under way is no violation, unless the caller has waited for its end. With a provider,
    its charges are compared as well.
    """
    deadline = time.monotonic() + wait_s
    while True:
        ledger = await _count(redis, db, sale_id)
        if provider:
            await _check_charges(ledger, db, provider, sale_id)
        if ledger.balanced and (ledger.quiet or not wait_s):
            return ledger
        if time.monotonic() >= deadline:
            break
        await asyncio.sleep(COUNTS_APART_S)
    if wait_s and not ledger.quiet:
        ledger.violations.append(
            f"not quiet after {wait_s:g} s: {_named(ledger.in_flight)} in flight, "
            f"{_named(ledger.return_pending)} on their way back, "
            f"{ledger.lines.get('outbox entries', 0)} outbox entries, "
            f"{ledger.restock_pending} units of a restock, "
            f"{_named(ledger.open_txs)} transactions open (I8), "
            f"{_named(ledger.unknown_txs)} card payments without an outcome"
        )
    return ledger


async def _count(redis: Redis, db: asyncpg.Pool, sale_id: str) -> Ledger:
    """Read PostgreSQL, then Redis, then the rows of all orders that occur; compare.

    In this order every violation by name is certain, whatever changes meanwhile: a row that was
    live before and is live after has been live all the time, so its holder had to be there.
    """
    ledger = Ledger()
    sql = await read_sql(db, sale_id)
    if sql is None:
        ledger.violations.append(f"PostgreSQL knows no sale {sale_id}")
        return ledger
    _check_sql(ledger, sql)
    _check_money(ledger, await read_money(db, sale_id))
    if sql.archived:  # PostgreSQL alone has it
        ledger.lines["archived"] = 1
        open_work = (sql.frozen, sql.returns_pending, ledger.open_txs, ledger.unknown_txs)
        ledger.quiet = not any(open_work)
        return ledger
    if reason := (await fencing.needing_rebuild(redis, db, [sale_id])).get(sale_id):
        ledger.violations.append(fencing.advice(sale_id, reason))
    in_redis = await read_redis(redis, sale_id)
    if in_redis is None:
        if not reason:  # it has been lost since then
            ledger.violations.append(fencing.advice(sale_id, FenceReason.LOST))
        return ledger
    _check_redis(ledger, sql, in_redis)
    held_ids = {holding.order_id for holding in in_redis.holders.values()}
    rows = await states_of(db, held_ids | sql.live.keys())
    open_letters = await store.count(db, LetterFilter(sale_id=sale_id))
    ledger.lines["dead letters"] = open_letters
    dead = await store.open_order_ids(db, sale_id) if open_letters else set()
    _check_names(ledger, sql, in_redis, rows, dead)
    return ledger


def _check_sql(ledger: Ledger, sql: SqlSnapshot) -> None:
    """I1, I2, I3 within PostgreSQL."""
    units = {state: n for state, (_, n) in sql.by_state.items()}
    ledger.lines |= {
        "total": sql.total,
        "available": sql.available,
        "frozen": sql.frozen,
        "sold": sql.sold,
    }
    for state in ("pending", "paying", "paid", "cancelled", "rejected", "refunding", "refunded"):
        ledger.lines[f"orders {state}"] = sql.by_state.get(state, (0, 0))[0]
    ledger.lines["returns pending"] = sql.returns_pending
    owed = units.get("pending", 0) + units.get("paying", 0)
    live = owed + units.get("paid", 0)
    checks = (
        (
            sql.available + sql.frozen + sql.sold == sql.total,
            "I1: available + frozen + sold is not total",
        ),
        (sql.frozen == owed, f"I1: frozen is {sql.frozen}, unpaid live orders hold {owed}"),
        (
            sql.sold == units.get("paid", 0),
            f"I1: sold is {sql.sold}, paid orders hold {units.get('paid', 0)}",
        ),
        (live <= sql.total, f"I2: oversold: live orders hold {live} of {sql.total}"),
        (not sql.doubled_buyers, f"I3: more than one live order: {_named(sql.doubled_buyers)}"),
    )
    ledger.violations += [text for holds, text in checks if not holds]


def _check_money(ledger: Ledger, money: MoneyCheck) -> None:
    """I7, I8: each order agrees with its payment, and all that ended is booked, once."""
    ledger.open_txs = money.open_txs
    ledger.unknown_txs = money.unknown_txs
    ledger.lines |= {
        "charged, cents": money.charged_cents,
        "discounted, cents": money.discounted_cents,
        "refunded, cents": money.refunded_cents,
        "transactions open": len(money.open_txs),
        "card payments unknown": len(money.unknown_txs),
    }
    ledger.lines |= _external_lines(money)
    checks = (
        (not money.wrong_orders, f"I7: orders and payments differ: {_named(money.wrong_orders)}"),
        (not money.misbooked_txs, f"I8: ended, not as booked: {_named(money.misbooked_txs)}"),
        (not money.balance_cents, f"all postings sum to {money.balance_cents} cents, not to 0"),
        (
            not money.wrong_wallets,
            f"wallets are not what their entries say: {_named(money.wrong_wallets)}",
        ),
        (
            not money.stray_postings,
            f"I8: posted for no payment: {_named(money.stray_postings)}",
        ),
        (
            not money.stray_claims,
            f"I8: frozen or locked for no payment: {_named(money.stray_claims)}",
        ),
        (
            not money.wrong_external,
            f"I8: external payments, not as booked: {_named(money.wrong_external)}",
        ),
    )
    ledger.violations += [text for holds, text in checks if not holds]


def _external_lines(money: MoneyCheck) -> dict[str, int]:
    """Return where the money of the shop's own checkout is, in each currency by itself."""
    lines: dict[str, int] = {}
    for each in money.external:
        unit = "cents" if each.is_of_sale else each.currency
        lines |= {
            f"external taken, {unit}": each.taken_cents,
            f"external earned, {unit}": each.earned_cents,
            f"external due back, {unit}": each.due_back_cents,
            f"external sent back, {unit}": each.sent_back_cents,
        }
    return lines


async def _check_charges(
    ledger: Ledger, db: asyncpg.Pool, provider: Provider, sale_id: str
) -> None:
    """I7: the provider has no money that PostgreSQL does not know of."""
    try:
        compared = await charges.compare(db, provider, sale_id)
    except Unavailable as error:
        ledger.violations.append(f"the charges were not compared: {error}")
        return
    if compared is None:  # then operators compare the provider's own reports
        return
    orphans = compared.orphans
    ledger.lines["charges without a payment"] = len(orphans)
    if compared.unfunded:
        ledger.violations.append(
            f"I7: paid here, and voided at the provider: {_named(compared.unfunded)}; repeat each "
            "refund: seckill refund ORDER"
        )
    if compared.wrong_parts:
        ledger.violations.append(
            "I7: the provider gave back other parts than are booked: "
            f"{_named(compared.wrong_parts)}; look at each: seckill order"
        )
    if compared.wrong_amounts:
        ledger.violations.append(
            "I7: the provider charged other amounts than are booked: "
            f"{_named(compared.wrong_amounts)}; look at each: seckill order"
        )
    if orphans:
        ledger.violations.append(
            f"I7: the provider has {charges.total(orphans)} cents of charges without a payment: "
            f"{_named(orphan.key for orphan in orphans)}; see: seckill sale recover {sale_id}"
        )


def _check_redis(ledger: Ledger, sql: SqlSnapshot, redis: RedisSnapshot) -> None:
    """I1 within Redis, by its own total: a restock changes one store after the other.

    Before the opening there is no stock that could be lost.
    """
    total = sql.total if redis.total is None else redis.total
    ledger.restock_pending = sql.total - total
    held = sum(holding.quantity for holding in redis.holders.values())
    ledger.lines |= {
        "redis stock": redis.stock,
        "redis holders": len(redis.holders),
        "redis held units": held,
        "redis corrections": redis.corrections,
        "redis moving": int(redis.moved),
        "outbox entries": redis.outbox,
        "restock pending": ledger.restock_pending,
    }
    if redis.epoch != sql.epoch:
        ledger.violations.append(f"epoch is {redis.epoch} in Redis and {sql.epoch} in PostgreSQL")
    if redis.stock < 0:
        ledger.violations.append(f"I2: redis stock is {redis.stock}")
    whole = redis.stock + held + redis.corrections
    if not redis.moved and redis.state != "created" and whole != total:
        ledger.violations.append(
            f"I1: redis stock {redis.stock} + held {held} + corrections {redis.corrections}"
            f" is not total {total}"
        )


def _check_names(
    ledger: Ledger, sql: SqlSnapshot, redis: RedisSnapshot, rows: dict[str, str], dead: set[str]
) -> None:
    """I1 between the stores, I4, I5: holders against rows, live rows against holders."""
    units = {holding.order_id: holding.quantity for holding in redis.holders.values()}
    held_ids = units.keys()
    without_row = held_ids - rows.keys()
    ledger.on_dead_letters = sorted(without_row & dead)
    ledger.in_flight = sorted(without_row - dead)
    ledger.return_pending = sorted(i for i in held_ids & rows.keys() if rows[i] not in LIVE)
    stranded = sorted(i for i in sql.live.keys() - held_ids if rows[i] in LIVE)
    ledger.lines["in flight"] = len(ledger.in_flight)
    ages_ms = [now_ms() - created_ms_of(order_id) for order_id in ledger.in_flight]
    ledger.lines["oldest in flight, s"] = max(ages_ms, default=0) // 1000
    ledger.lines["return pending"] = len(ledger.return_pending)
    ledger.lines["on dead letters"] = len(ledger.on_dead_letters)
    if stranded:
        ledger.violations.append(f"I1: live orders without a holder: {_named(stranded)}")
    # What waits for an operator may wait for long, so it counts as at rest.
    at_rest = held_ids - set(ledger.on_dead_letters)
    ledger.quiet = (
        not redis.moved
        and not ledger.open_txs
        and at_rest == sql.live.keys()
        and not redis.outbox
        and not sql.returns_pending
        and not ledger.restock_pending
        and not ledger.unknown_txs
    )
    waiting = sum(units[order_id] for order_id in ledger.on_dead_letters)
    expected = sql.available - redis.corrections - waiting
    if ledger.quiet and redis.state != "created" and redis.stock != expected:
        ledger.violations.append(
            f"I5: quiet, but redis stock is {redis.stock},"
            f" available - corrections - on dead letters {expected}"
        )


def _named(ids: Iterable[str]) -> str:
    ids = list(ids)
    more = f" and {len(ids) - NAMED_MAX} more" if len(ids) > NAMED_MAX else ""
    return f"{len(ids)} ({', '.join(ids[:NAMED_MAX])}{more})" if ids else "0"
