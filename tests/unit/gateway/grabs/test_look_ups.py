"""Look-ups of buyers in a sale that is sold out: they share calls."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.grabs.reservations import RedisClock, SaleReservations
from seckill.inventory.reservations import HoldersReply, Verdict
from seckill.micro_batcher import WORTH_A_CALL


class SoldOut:
    """A stock without units; `calls` keeps who was looked up together."""

    def __init__(self) -> None:
        self.calls: list[Sequence[str]] = []

    async def find_holders(self, _sale_id: str, buyer_ids: Sequence[str]) -> HoldersReply:
        self.calls.append(buyer_ids)
        return HoldersReply(Verdict.SOLD_OUT, holdings=[None] * len(buyer_ids))


@pytest.fixture
def stock() -> SoldOut:
    return SoldOut()


@pytest.fixture
async def reservations(stock: SoldOut) -> SaleReservations:
    return SaleReservations(
        cast(Any, SimpleNamespace(sale_id="spring", number=1, total=1)),
        cast(Any, stock),
        RedisClock(),
        cast(Any, lambda *_: None),
        cast(Any, None),
        batch_max=512,
        calls_max=4,
        spacing_s=3600.0,  # more than any test takes
        call_timeout_s=1.0,
        outbox_max=1,
    )


async def test_a_lone_buyer_is_looked_up_at_once_and_who_follows_closely_waits_for_others(
    reservations: SaleReservations, stock: SoldOut
) -> None:
    assert await reservations.find_holding("ann") == (Verdict.SOLD_OUT, None)
    others = [reservations.find_holding(f"b{n}") for n in range(WORTH_A_CALL - 1)]
    for _ in range(10):
        await asyncio.sleep(0)
    assert [len(call) for call in stock.calls] == [1]
    others.append(reservations.find_holding("bob"))
    await asyncio.gather(*others)
    assert [len(call) for call in stock.calls] == [1, WORTH_A_CALL]
