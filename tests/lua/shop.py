"""State in, call, state out: one sale in a real Redis, driven through
`seckill.inventory.reservations`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from redis.asyncio import Redis

import lua
from seckill.adapters import redis_keys
from seckill.inventory import outbox
from seckill.inventory.outbox import OutboxEntry
from seckill.inventory.reservations import Grab, GrabReply, Holding, SaleTerms, Stock, UnitReturn
from seckill.order_ids import new_order_id

NUMBER, EPOCH = 7, 3
HOUR_MS = 3_600_000


@dataclass
class Shop:
    """One sale, with everything that a test looks at."""

    redis: Redis
    sale_id: str = "spring"

    def __post_init__(self) -> None:
        self.scripts = Stock(self.redis)

    # State in.

    async def open(self, units: int, *, per_order_max: int = 1, **terms: int) -> None:
        """Open the sale with so many units, now and without end unless `terms` say otherwise."""
        sale = SaleTerms(NUMBER, units, per_order_max, **({"epoch": EPOCH} | terms))
        assert await self.scripts.open_sale(self.sale_id, sale)

    async def set(self, **fields: str | int) -> None:
        """Set fields of the sale, as an operator or a rebuild would."""
        if fields:
            await self.redis.hset(redis_keys.sale(self.sale_id), mapping=fields)

    # Calls.

    async def grab(
        self,
        *wishes: str | tuple[str, int] | Grab,
        settled: Sequence[str] = (),
        outbox_max: int = 1000,
        wait_ms: int = HOUR_MS,
    ) -> GrabReply:
        """Grab one unit for each name, or as a (name, quantity) or whole Grab says."""
        grabs = []
        for wish in wishes:
            if not isinstance(wish, Grab):
                buyer_id, quantity = (wish, 1) if isinstance(wish, str) else wish
                wish = Grab(new_order_id(NUMBER), buyer_id, quantity)
            grabs.append(wish)
        deadline_ms = await self.scripts.now_ms() + wait_ms
        return await self.scripts.grab(
            self.sale_id, grabs, deadline_ms=deadline_ms, settled=settled, outbox_max=outbox_max
        )

    async def outcomes(self, *wishes: str | tuple[str, int] | Grab, **terms: int) -> str:
        """Grab, and return the outcomes as grab.lua writes them: a letter each."""
        return "".join((await self.grab(*wishes, **terms)).verdicts)

    async def give_back(self, *returns: UnitReturn, epoch: int = EPOCH) -> list[Any]:
        """Give back, and return the script's own reply: it says more than done or later."""
        script = lua.register(self.redis, "return_units")
        names = [
            key(self.sale_id) for key in (redis_keys.stock, redis_keys.sale, redis_keys.holders)
        ]
        reply: list[Any] = await script(keys=names, args=[epoch, msgspec.msgpack.encode(returns)])
        return reply

    # State out.

    async def stock(self) -> int | None:
        value = await self.redis.get(redis_keys.stock(self.sale_id))
        return None if value is None else int(value)

    async def field(self, name: str) -> str | None:
        value = await self.redis.hget(redis_keys.sale(self.sale_id), name)
        return None if value is None else value.decode()

    async def holders(self) -> dict[str, Holding]:
        raw = await self.redis.hgetall(redis_keys.holders(self.sale_id))
        return {buyer.decode(): Holding.parse(text.decode()) for buyer, text in raw.items()}

    async def return_of(self, buyer_id: str, *, units: int | None = None) -> UnitReturn:
        """Return what would give this buyer's holder back."""
        holding = (await self.holders())[buyer_id]
        return UnitReturn(buyer_id, str(holding), holding.quantity if units is None else units)

    async def outbox(self) -> list[OutboxEntry]:
        far = await self.scripts.now_ms() + HOUR_MS
        entries, unreadable = await outbox.read_older_than(
            self.redis, self.sale_id, far, limit=10_000
        )
        assert unreadable == []
        return entries

    async def dump(self) -> dict[bytes, bytes]:
        """Return every key of the database with all that it holds."""
        return {key: await self.redis.dump(key) async for key in self.redis.scan_iter()}

    async def assert_conserved(self, total: int) -> None:
        """I1 within Redis: stock + units of all holders + corrections = total, stock >= 0."""
        stock = await self.stock()
        held = sum(holding.quantity for holding in (await self.holders()).values())
        corrections = int(await self.field("corrections") or 0)
        assert stock is not None
        assert stock >= 0
        assert stock + held + corrections == total


def buyers(entries: Iterable[OutboxEntry]) -> list[list[str]]:
    """Return the buyers of each outbox entry."""
    return [[grab.buyer_id for grab in entry.grabs] for entry in entries]
