"""`POST /admin/sales…`: what an operator does to a sale. Each call on one may be repeated."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Protocol

import asyncpg
import msgspec
from aiohttp import web

from gateway.admin.auth import actor_of, on_record
from gateway.admin.health import EDGE, preflight_of
from gateway.app_keys import DB, SETTINGS, STOCK
from gateway.http.requests import parse_json, read_body, read_json, sale_id_of
from gateway.http.responses import json_response
from gateway.sales.changes import UnitsChange
from seckill.consistency import preflight
from seckill.inventory.reservations import Stock
from seckill.sales import drafts, sales, terms
from seckill.sales.doubts import doubts_about
from seckill.sales.drafts import SaleEdit, changes_of
from seckill.sales.restock import restock
from seckill.sales.sales import Sale
from seckill.sales.terms import NewSale

log = logging.getLogger(__name__)


class SaleChange(Protocol):
    """Changes a sale, and writes into the audit trail who did."""

    async def __call__(self, db: asyncpg.Pool, stock: Stock, sale_id: str, *, by: str) -> Sale:
        """Return the sale as it is then."""


class NamedCurrency(msgspec.Struct):
    """Whether the terms of a new sale name a currency."""

    currency: str | None = None


#: All texts at their longest, with each character escaped, have some 16 kB.
TERMS_BYTES_MAX = 32 * 1024

_new_sale = msgspec.json.Decoder(NewSale)
_named_currency = msgspec.json.Decoder(NamedCurrency)
_edit = msgspec.json.Decoder(SaleEdit)
_units_change = msgspec.json.Decoder(UnitsChange)


async def create_sale(request: web.Request) -> web.Response:
    """Make a sale. No buyer can grab before it is opened."""
    edge, body = request.app[EDGE], await read_body(request, TERMS_BYTES_MAX)
    new = parse_json(body, _new_sale)
    if parse_json(body, _named_currency).currency is None:
        new = msgspec.structs.replace(new, currency=edge[SETTINGS].currency)
    terms.check_times(new.opens_at, new.closes_at, new.announce_at)
    with on_record("create", f"sale {new.sale_id!r}"):
        sale = await sales.create(edge[DB], edge[STOCK], new, by=actor_of(request))
    return json_response({**asdict(sale), "warnings": doubts_about(sale)}, status=201)


async def open_sale(request: web.Request) -> web.Response:
    """Take grabs, if the stores are set up for it; opening again never resets the stock."""
    settings = request.app[EDGE][SETTINGS]
    checks = preflight_of(request.app[EDGE], timeout_s=settings.connect_timeout_s)

    async def open_(db: asyncpg.Pool, stock: Stock, sale_id: str, *, by: str) -> Sale:
        sale = await sales.find(db, sale_id)
        only_warn = settings.preflight == "warn"
        for warning in await preflight.require(checks, sale, only_warn=only_warn):
            log.warning("opening sale %s: %s", sale_id, warning)
        return await sales.open_(db, stock, sale_id, by=by)

    return await _change(request, "open", open_)


async def edit_sale(request: web.Request) -> web.Response:
    """Change the terms of a sale that has not begun."""
    sale_id, edge = sale_id_of(request), request.app[EDGE]
    changes = changes_of(parse_json(await read_body(request, TERMS_BYTES_MAX), _edit))
    with on_record("edit", f"sale {sale_id!r}"):
        was = await sales.find(edge[DB], sale_id)
        sale = await drafts.edit(edge[DB], edge[STOCK], sale_id, changes, by=actor_of(request))
    return json_response({**asdict(sale), "warnings": doubts_about(sale, was)})


async def delete_sale(request: web.Request) -> web.Response:
    """Remove a sale that has not begun."""
    sale_id, edge = sale_id_of(request), request.app[EDGE]
    with on_record("delete", f"sale {sale_id!r}"):
        gone = await drafts.delete(edge[DB], edge[STOCK], sale_id, actor=actor_of(request))
    return json_response(gone)


async def announce_sale(request: web.Request) -> web.Response:
    """Let buyers see a hidden sale."""
    sale_id, edge = sale_id_of(request), request.app[EDGE]
    with on_record("announce", f"sale {sale_id!r}"):
        sale = await sales.announce(edge[DB], sale_id, by=actor_of(request))
    return json_response(sale)


async def close_sale(request: web.Request) -> web.Response:
    """Refuse new grabs."""
    return await _change(request, "close", sales.close)


async def pause_sale(request: web.Request) -> web.Response:
    """Refuse new grabs for a while."""
    return await _change(request, "pause", sales.pause)


async def resume_sale(request: web.Request) -> web.Response:
    """Take grabs in a paused sale again."""
    return await _change(request, "resume", sales.resume)


async def restock_sale(request: web.Request) -> web.Response:
    """Change a sale's units; a repeat with the same `from_total` changes nothing more."""
    sale_id, edge = sale_id_of(request), request.app[EDGE]
    change = await read_json(request, _units_change)
    with on_record(f"restock by {change.units} from {change.from_total}", f"sale {sale_id!r}"):
        sale = await restock(
            edge[DB],
            edge[STOCK],
            sale_id,
            change.units,
            actor=actor_of(request),
            reason=change.reason,
            from_total=change.from_total,
        )
    return json_response(sale)


async def _change(
    request: web.Request,
    name: str,
    change: SaleChange,
) -> web.Response:
    sale_id, edge = sale_id_of(request), request.app[EDGE]
    with on_record(name, f"sale {sale_id!r}"):
        sale = await change(edge[DB], edge[STOCK], sale_id, by=actor_of(request))
    return json_response(sale)
