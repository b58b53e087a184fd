"""The units left of each sale, read from Redis at most once a second however many ask."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from seckill.inventory.reservations import Stock
from seckill.sales.directory import SaleDirectory
from seckill.sales.sales import Sale
from seckill.single_flight import SingleFlight

#: The contract lets `remaining` lag this much.
LAG_S = 1.0


class RemainingUnits:
    """A view of all sales that lags at most LAG_S."""

    def __init__(self, sales: SaleDirectory, stock: Stock) -> None:
        self._sales = sales
        self._stock = stock
        self._reading = SingleFlight(self._read, interval_s=LAG_S)

    async def read(self) -> Mapping[str, tuple[Sale, int | None]]:
        """Return sale and units left by sale_id; None where Redis does not know the sale."""
        return await self._reading.recent()

    async def _read(self) -> Mapping[str, tuple[Sale, int | None]]:
        sales = await self._sales.recent()
        left = await self._stock.left_of([sale.sale_id for sale in sales])
        return {
            sale.sale_id: (sale, units if sale.was_opened else sale.total)
            for sale, units in zip(sales, left, strict=True)
        }


REMAINING_UNITS = web.AppKey("remaining_units", RemainingUnits)
