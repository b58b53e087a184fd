"""Check what messages claim of their origin: the epoch of a sale, and entries of its outbox.

PostgreSQL keeps the newest outbox entry that it has placed. A Redis that has not reached that entry
went back in time, and its sale is fenced (`fencing.py`). So a message that claims an entry of the
future would fence a sale that is whole, and one that claims an epoch of the future would be placed
after any rebuild.

An entry is believed if Redis can have written it: if its time is not later than Redis's clock. It
need not be in Redis, because a Redis that went back in time no longer knows it. That is how the
messages under way show that it went back. What PostgreSQL has placed is never questioned here.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import asyncpg
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from seckill.adapters import redis_keys
from seckill.adapters.postgres import database_errors_as_unavailable
from seckill.adapters.redis import open_pipeline
from seckill.clock import now_ms
from seckill.errors import Transient, Unavailable
from seckill.inventory.outbox import id_of, mark_of, written_ms
from seckill.messages import DecodedPlace


class NotVerified(Transient):
    """A message claims what only Redis can confirm, and Redis is unavailable."""


class _SaleInRedis(NamedTuple):
    #: 0 if Redis does not have the sale.
    epoch: int
    #: The newest entry that its outbox ever had.
    last_mark: int


class ClaimCheck:
    """Checks messages. Nearly all of them are believed without a question to a store."""

    def __init__(self, redis: Redis, db: asyncpg.Pool) -> None:
        self._redis = redis
        self._db = db
        #: Sale -> its newest epoch that PostgreSQL is known to have. Epochs only rise.
        self._epochs: dict[str, int] = {}

    async def false_claims(self, placings: Sequence[DecodedPlace]) -> dict[int, str]:
        """Return the position of each message that claims what cannot be, and why it cannot.

        Raise NotVerified if only Redis knows, and it is unavailable: such a message is retried
        later. Raise Unavailable if PostgreSQL is.
        """
        known = await self._known_epochs(placings)
        # By our own clock first: it is behind Redis's by moments, if at all.
        doubted = {
            position: placing
            for position, placing in enumerate(placings)
            if placing.epoch > known.get(placing.sale_id, placing.epoch)
            or written_ms(placing.outbox_mark) > now_ms()
        }
        if not doubted:
            return {}
        redis_ms, in_redis = await self._ask_redis({p.sale_id for p in doubted.values()})
        reasons = {}
        for position, placing in doubted.items():
            epoch, last_mark = in_redis[placing.sale_id]
            # A PostgreSQL that was restored may not know an epoch that Redis has. The clock of
            # Redis may have been set back; its outbox then goes on from its newest entry.
            newest_epoch = max(epoch, known.get(placing.sale_id, placing.epoch))
            if placing.epoch > newest_epoch:
                reasons[position] = (
                    f"its epoch {placing.epoch} is later than the newest of its sale, "
                    f"{newest_epoch}"
                )
            elif placing.outbox_mark > last_mark and written_ms(placing.outbox_mark) > redis_ms:
                reasons[position] = (
                    f"its outbox entry {id_of(placing.outbox_mark)} is later than Redis's clock, "
                    f"{redis_ms}: Redis has not written it"
                )
        return reasons

    async def _known_epochs(self, placings: Sequence[DecodedPlace]) -> Mapping[str, int]:
        """Return the newest epochs in PostgreSQL; it is read if a message claims a later one."""
        later = {p.sale_id for p in placings if p.epoch > self._epochs.get(p.sale_id, 0)}
        if later:
            with database_errors_as_unavailable():
                rows = await self._db.fetch(
                    "SELECT sale_id, epoch FROM inventory WHERE sale_id = ANY ($1)", list(later)
                )
            self._epochs |= dict(rows)
        return self._epochs

    async def _ask_redis(self, sale_ids: Collection[str]) -> tuple[int, dict[str, _SaleInRedis]]:
        """Return Redis's clock, and what it has of the sales."""
        try:
            async with open_pipeline(self._redis) as pipe:
                pipe.time()
                for sale_id in sale_ids:
                    pipe.hget(redis_keys.sale(sale_id), "epoch")
                    pipe.xinfo_stream(redis_keys.outbox(sale_id))
                (seconds, microseconds), *replies = _without_failures(
                    await pipe.execute(raise_on_error=False)
                )
        except Unavailable as error:
            raise NotVerified(f"it claims what only Redis knows, and {error}") from error
        found = {
            sale_id: _SaleInRedis(int(epoch or 0), _last_mark(info))
            for sale_id, epoch, info in zip(sale_ids, replies[::2], replies[1::2], strict=True)
        }
        return seconds * 1000 + microseconds // 1000, found


def _without_failures(replies: list[Any]) -> list[Any]:
    """Return replies, in which a stream that does not exist is an error; raise any other error."""
    for reply in replies:
        if isinstance(reply, Exception) and "no such key" not in str(reply):
            raise reply
    return replies


def _last_mark(info: Mapping[str, bytes] | ResponseError) -> int:
    """Return the mark of the newest entry of a stream; 0 if there is no stream."""
    return 0 if isinstance(info, ResponseError) else mark_of([info["last-generated-id"].decode()])
