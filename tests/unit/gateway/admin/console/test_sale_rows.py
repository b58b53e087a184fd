"""However many sales there are, a second reads a bounded number, and those that move first."""

from __future__ import annotations

import json
import time

from gateway.admin.console.sale_rows import POINTS, STEP, SaleRows
from seckill.sales import listing
from seckill.sales.sales import Sale

MANY = 1_000


class Units:
    """Redis: it counts who is asked about."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}
        self.asked: list[list[str]] = []

    async def left_of(self, sale_ids: list[str]) -> list[int | None]:
        self.asked.append(sale_ids)
        return [self.left.get(sale_id, 10) for sale_id in sale_ids]


def sale(number: int) -> Sale:
    return Sale(f"s{number}", number, 100, 1, None, None, 900, 0, "open", True, False, 10, 1, "EUR")


def shown(rows: SaleRows, sale_id: str) -> dict[str, object]:
    return json.loads(rows.rows[sale_id])


async def rows_of(count: int, monkeypatch) -> SaleRows:
    async def live_sales(_: object) -> list[Sale]:
        return [sale(number) for number in range(count)]

    async def newest(_: object, *, limit: int) -> list[Sale]:
        return []

    async def units_of(_: object, ids: list[str]) -> dict[str, listing.SoldUnits]:
        return {sale_id: listing.SoldUnits(1, 2, 7) for sale_id in ids}

    monkeypatch.setattr(listing, "live_sales", live_sales)
    monkeypatch.setattr(listing, "newest", newest)
    monkeypatch.setattr(listing, "units_of", units_of)
    rows = SaleRows()
    await rows.read_sales(None)
    return rows


async def test_each_of_a_thousand_sales_has_its_turn(monkeypatch) -> None:
    rows, units = await rows_of(MANY, monkeypatch), Units()
    for _ in range(2 * MANY // STEP):
        await rows.read_left(units)
        await rows.read_sold(None)
    assert {id_ for ids in units.asked for id_ in ids} == rows.rows.keys()
    assert max(len(ids) for ids in units.asked) <= STEP
    assert all(shown(rows, s)["left"] == 10 and shown(rows, s)["sold"] == 1 for s in rows.rows)


async def test_a_sale_that_moves_is_read_each_time_and_has_a_curve(monkeypatch) -> None:
    rows, units = await rows_of(MANY, monkeypatch), Units()
    for _ in range(2 * MANY // STEP):  # each was read once
        await rows.read_left(units)
        await rows.read_sold(None)
    units.left["s7"] = 9
    while "s7" not in rows.moving():
        await rows.read_left(units)
        await rows.read_sold(None)
    for left in range(8, 3, -1):
        units.left["s7"] = left
        await rows.read_left(units)
        await rows.read_sold(None)
        assert shown(rows, "s7")["left"] == left
    assert [left for _, left in rows.shown_curves()["s7"]] == [10, 9, 8, 7, 6, 5, 4]
    assert rows.moving() == ["s7"]


async def test_what_is_remembered_of_a_sale_is_bounded_and_goes_with_it(monkeypatch) -> None:
    rows, units = await rows_of(3, monkeypatch), Units()
    for left in range(POINTS + 10):
        units.left["s0"] = left
        await rows.read_left(units)
    assert len(rows.curves["s0"]) == POINTS

    async def none(*_: object, **__: object) -> list[Sale]:
        return []

    monkeypatch.setattr(listing, "live_sales", none)
    monkeypatch.setattr(time, "monotonic", lambda: float("inf"))  # its turn has come
    await rows.read_sales(None)
    assert (rows.rows, rows.curves, rows.moving()) == ({}, {}, [])
