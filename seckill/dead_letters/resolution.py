"""End a dead letter: replay it, so that its message is tried again, or discard it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

import asyncpg
from redis.asyncio import Redis

from seckill import audit
from seckill.adapters import topology
from seckill.adapters.postgres import transaction
from seckill.adapters.publisher import Publisher
from seckill.dead_letters import store
from seckill.dead_letters.parser import CUT_HEADER, NamedOrder, first_line
from seckill.dead_letters.store import DeadLetter, LetterFilter
from seckill.errors import Permanent
from seckill.inventory.holders import find_holdings
from seckill.inventory.reservations import Holding
from seckill.orders import orders

#: After so many replays the cause of death will not pass by itself.
REPLAYS_MAX = 5


class Resolution(StrEnum):
    """What became of a letter that an operator wanted to end."""

    REPLAYED = "replayed"
    DISCARDED = "discarded"
    #: Another operator ended it first, or there is no such letter: nothing was done.
    NOT_OPEN = "not open"
    #: Replayed REPLAYS_MAX times already: nothing was done.
    TOO_OFTEN = "replayed too often"
    #: Only its beginning was kept, so there is nothing to try again: nothing was done.
    TOO_LARGE = "too large"
    #: Its queue is no work queue: nothing was done.
    NO_QUEUE = "no such queue"


class DiscardEffect(StrEnum):
    """What discarding a letter did to an order that it names."""

    GIVEN_BACK = "given back"
    #: Cancelled, but Redis held no unit for it.
    NOTHING_HELD = "nothing held"
    #: It has a row, so its units are accounted for: left alone.
    HAS_ROW = "has a row"
    #: PostgreSQL has no such sale to which units could be returned.
    UNKNOWN_SALE = "unknown sale"
    #: The letter only names it; messages of this queue hold no units.
    NAMED_ONLY = "named only"


@dataclass(frozen=True, slots=True)
class DiscardReport:
    """What one call of `discard` did."""

    resolution: Resolution
    units: int = 0
    #: By order_id.
    effects: Mapping[str, DiscardEffect] | None = None


async def replay(
    db: asyncpg.Pool, publisher: Publisher, letter_id: int, *, actor: str, force: bool = False
) -> Resolution:
    """Publish an open letter's message to its own queue again, as if it were new.

    The letter stays locked from before the publish until the commit. A crash in between leaves it
    open, and a second replay makes its orders rows once. A message that dies again at once waits
    for the lock and opens the letter after it was closed. Without the lock, the close would come
    second and hide it.
    """
    async with transaction(db) as connection:
        letter = await store.lock_open(connection, letter_id)
        if letter is None:
            return Resolution.NOT_OPEN
        if letter.queue not in topology.WORK_QUEUES:
            return Resolution.NO_QUEUE
        if CUT_HEADER in letter.headers:
            return Resolution.TOO_LARGE
        if letter.replays >= REPLAYS_MAX and not force:
            return Resolution.TOO_OFTEN
        await publisher.publish(letter.queue, letter.body)
        await store.close(connection, letter_id, state="replayed", actor=actor, reason=None)
        await audit.record(
            connection,
            "dead.replay",
            actor=actor,
            reason=letter.reason,
            sale_id=letter.sale_id,
            details={"letter_id": letter_id, "queue": letter.queue, "forced": force},
        )
    return Resolution.REPLAYED


async def discard(
    db: asyncpg.Pool, redis: Redis, letter_id: int, *, actor: str, reason: str
) -> DiscardReport:
    """Discard an open letter: cancel its orders that have no row, and return their units.

    Letter, rows, returns and the audit row are one transaction, so that all of it happens once.
    Raise Permanent if PostgreSQL refuses such a row; then nothing is done.
    """
    # Read before any lock is taken, because it may take a while. No holder of these orders can
    # appear any more. A holder that disappears meanwhile has a row, which is found below.
    held = await _holdings(db, redis, letter_id)
    with _refusals_as_permanent():
        async with transaction(db) as connection:
            letter = await store.lock_open(connection, letter_id)
            if letter is None:
                return DiscardReport(Resolution.NOT_OPEN)
            effects = await _cancel(connection, letter, held)
            units = sum(
                held[i][1].quantity for i in effects if effects[i] is DiscardEffect.GIVEN_BACK
            )
            await store.close(connection, letter_id, state="discarded", actor=actor, reason=reason)
            await audit.record(
                connection,
                "dead.discard",
                actor=actor,
                reason=reason,
                sale_id=letter.sale_id,
                details={
                    "letter_id": letter_id,
                    "queue": letter.queue,
                    "died_of": letter.reason,
                    "units": units,
                    "orders": effects,
                },
            )
    return DiscardReport(Resolution.DISCARDED, units, effects)


@contextmanager
def _refusals_as_permanent() -> Iterator[None]:
    try:
        yield
    except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as error:
        what = first_line(str(error))
        raise Permanent(
            f"stays open: its units go back with a row, and PostgreSQL refuses that: {what}"
        ) from error


def _sale_of_units(letter: DeadLetter) -> str | None:
    """Return the sale whose units a letter may hold; the sweep returns the units of timers."""
    return letter.sale_id if letter.queue == topology.ORDERS_PLACE else None


async def _holdings(
    db: asyncpg.Pool, redis: Redis, letter_id: int
) -> dict[str, tuple[str, Holding]]:
    """Return order_id -> (buyer, holding) as Redis has them, whatever the letter says."""
    for letter in await store.page(db, LetterFilter(ids=[letter_id], state=None), limit=1):
        if sale_id := _sale_of_units(letter):
            wanted = {order.order_id: order.buyer_id for order in letter.orders}
            return await find_holdings(redis, sale_id, wanted)
    return {}


async def _cancel(
    connection: asyncpg.Connection, letter: DeadLetter, held: Mapping[str, tuple[str, Holding]]
) -> dict[str, DiscardEffect]:
    """Write the rows without which no holder may be released, and their returns.

    The state is `cancelled`, as when a buyer cancels before there is a row: a person has decided
    it. `rejected` is for the decisions of the consumers.
    """
    sale_id = _sale_of_units(letter)
    if sale_id is None:
        return {order.order_id: DiscardEffect.NAMED_ONLY for order in letter.orders}
    if not await connection.fetchval(
        "SELECT EXISTS (SELECT FROM sales WHERE sale_id = $1)", sale_id
    ):
        return {order.order_id: DiscardEffect.UNKNOWN_SALE for order in letter.orders}
    effects = {}
    for order in letter.orders:  # sorted by id, the order in which every transaction locks them
        effects[order.order_id] = await _cancel_one(connection, sale_id, order, held)
    return effects


async def _cancel_one(
    connection: asyncpg.Connection,
    sale_id: str,
    order: NamedOrder,
    held: Mapping[str, tuple[str, Holding]],
) -> DiscardEffect:
    order_id, buyer_id, quantity = order
    if order_id in held:
        buyer_id, holding = held[order_id]
    elif buyer_id is not None and quantity is not None:
        # Its row makes a late copy of the message a duplicate; the return finds nothing.
        holding = Holding(order_id, quantity)
    else:
        return DiscardEffect.NOTHING_HELD
    if not await orders.cancel_unplaced(
        connection, sale_id, buyer_id, holding, reason="dead_letter"
    ):
        return DiscardEffect.HAS_ROW
    return DiscardEffect.GIVEN_BACK if order_id in held else DiscardEffect.NOTHING_HELD
