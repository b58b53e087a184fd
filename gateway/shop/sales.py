"""`/shop/v1/sales`: sales as the shop's programs read and run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import msgspec
from aiohttp import web

from gateway.app_keys import DB, LIMITS, REDIS, STOCK
from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import Problem
from gateway.http.requests import SALE_ID, json_body, parse_json, read_body, read_json, sale_id_of
from gateway.http.responses import Moment, json_response
from gateway.http.shop_auth import shop_token
from gateway.sales.changes import NewLimit, NewLimits, UnitsChange, set_limits_of
from gateway.shop.calls import CALLER
from gateway.shop.idempotency import (
    IDEMPOTENCY_KEY,
    answer_of,
    answered_before,
    keyed_call,
)
from gateway.shop.parameters import LIMIT, SALE_CURSOR, limit_of, refuse_unknown, text_of
from seckill.sales import listing, rate_limits, restock, sales
from seckill.sales.listing import NUMBER_MAX, SoldUnits
from seckill.sales.rate_limits import in_force
from seckill.sales.sales import Sale
from seckill.sales.token_buckets import TokenBuckets
from seckill.shop import kept_answers
from seckill.shop.kept_answers import KeptAnswer
from seckill.shop.tokens import Scope

#: Sales of a page for who does not say, and the most.
PAGE, PAGE_MAX = 50, 100
_SALES = [shop_token(Scope.SALES)]
_STATE = [Problem.CONFLICT, Problem.RATE_LIMITED]


class ShopSale(msgspec.Struct):
    """A sale, and what became of its units: of paid orders, of unpaid ones, the others.

    Buyers do not see a `hidden` sale until `announce_at`; without that, until it is announced.
    """

    sale_id: str
    state: str
    name: str | None
    sku: str | None
    picture_url: str | None
    metadata: Mapping[str, Any]
    hidden: bool
    announce_at: Moment | None
    currency: str
    price_cents: int
    per_order_max: int
    opens_at: Moment | None
    closes_at: Moment | None
    payment_window_s: int
    proof_bits: int
    was_opened: bool
    archived: bool
    total: int
    sold: int
    held: int
    left: int


class ShopSaleList(msgspec.Struct):
    """A page of sales, newest first, archived ones too. `next` is the next page's cursor."""

    sales: Sequence[ShopSale]
    next: str | None


class LimitsInForce(msgspec.Struct):
    """By operation (`try`, `confirm`, `cancel`): rate, burst, mode, and whether it is its own."""

    limits: Mapping[str, Any]


_SALE = ShopSale(
    sale_id=SALE_ID.example,
    state="open",
    name="Sneakers 2026",
    sku="SNK-26",
    picture_url=None,
    metadata={"campaign": "autumn"},
    hidden=False,
    announce_at=None,
    currency="USD",
    price_cents=1999,
    per_order_max=1,
    opens_at=None,
    closes_at=None,
    payment_window_s=900,
    proof_bits=0,
    was_opened=True,
    archived=False,
    total=100,
    sold=60,
    held=5,
    left=35,
)
_IN_FORCE = LimitsInForce({"try": {"rate": 500, "burst": 1001, "own": True, "mode": "enforce"}})
_units_change = msgspec.json.Decoder(UnitsChange)
_new_limits = msgspec.json.Decoder(NewLimits)


@operation(
    "List sales, newest first",
    ResponseSpec(200, "A page.", ShopSaleList([_SALE], None)),
    tag="sales",
    parameters=[LIMIT, SALE_CURSOR],
    identities=_SALES,
    problems=[Problem.RATE_LIMITED],
)
async def list_shop_sales(request: web.Request) -> web.Response:
    """Answer with a page of sales, also of those that were never opened."""
    refuse_unknown(request, LIMIT, SALE_CURSOR)
    limit, db = limit_of(request, default=PAGE, most=PAGE_MAX), request.app[DB]
    before = int(text_of(request, SALE_CURSOR) or NUMBER_MAX)
    found = await listing.newest(db, limit=limit + 1, archived=True, before=before)
    shown = found[:limit]
    units = await listing.units_of(db, [sale.sale_id for sale in shown])
    more = str(shown[-1].number) if found[limit:] else None
    page = [_view(sale, units[sale.sale_id]) for sale in shown if sale.sale_id in units]
    return json_response(ShopSaleList(page, more))


@operation(
    "Show a sale",
    ResponseSpec(200, "The sale.", _SALE),
    tag="sales",
    parameters=[SALE_ID],
    identities=_SALES,
    problems=[Problem.RATE_LIMITED],
)
async def show_shop_sale(request: web.Request) -> web.Response:
    """Answer with one sale."""
    return json_response(await _shown(request, await _find(request)))


@operation(
    "Pause a sale: no new orders until it is resumed",
    ResponseSpec(200, "The sale, paused; a second time changes nothing.", _SALE),
    tag="sales",
    parameters=[SALE_ID],
    identities=_SALES,
    problems=_STATE,
)
async def pause_shop_sale(request: web.Request) -> web.Response:
    """Refuse new grabs for a while."""
    app, by = request.app, request[CALLER].actor
    sale = await sales.pause(app[DB], app[STOCK], sale_id_of(request), by=by)
    return json_response(await _shown(request, sale))


@operation(
    "Resume a paused sale",
    ResponseSpec(200, "The sale, open; a second time changes nothing.", _SALE),
    tag="sales",
    parameters=[SALE_ID],
    identities=_SALES,
    problems=_STATE,
)
async def resume_shop_sale(request: web.Request) -> web.Response:
    """Take grabs again."""
    app, by = request.app, request[CALLER].actor
    sale = await sales.resume(app[DB], app[STOCK], sale_id_of(request), by=by)
    return json_response(await _shown(request, sale))


@operation(
    "Change a sale's units",
    ResponseSpec(200, "The sale with its new total.", _SALE),
    tag="sales",
    parameters=[SALE_ID, IDEMPOTENCY_KEY],
    identities=_SALES,
    body=json_body(UnitsChange(20, 100, "a box was found")),
    problems=_STATE,
)
async def restock_shop_sale(request: web.Request) -> web.Response:
    """Add units, or take unsold ones out.

    That changes Redis, too, so it is no single transaction. `from_total` lets it happen once, also
    if a process dies before the answer is kept.
    """
    sale_id, app, body = sale_id_of(request), request.app, await read_body(request)
    wanted, call = parse_json(body, _units_change), keyed_call(request, body)
    if answer := await answered_before(request, call):
        return answer
    sale = await restock.restock(
        app[DB],
        app[STOCK],
        sale_id,
        wanted.units,
        actor=request[CALLER].actor,
        reason=wanted.reason,
        from_total=wanted.from_total,
    )
    made = msgspec.json.encode(await _shown(request, sale))
    await kept_answers.keep(app[DB], call, made)
    return answer_of(KeptAnswer(made, replayed=False))


@operation(
    "Show a sale's rate limits",
    ResponseSpec(200, "What this gateway has in force.", _IN_FORCE),
    tag="sales",
    parameters=[SALE_ID],
    identities=_SALES,
    problems=[Problem.RATE_LIMITED],
)
async def show_sale_limits(request: web.Request) -> web.Response:
    """Answer with the limit in force for each operation."""
    own = await rate_limits.limits_of(request.app[DB], sale_id_of(request))
    return json_response(LimitsInForce(in_force(request.app[LIMITS], own)))


@operation(
    "Set a sale's rate limits",
    ResponseSpec(200, "What this gateway has in force then.", _IN_FORCE),
    tag="sales",
    parameters=[SALE_ID],
    identities=_SALES,
    body=json_body(NewLimits(try_=NewLimit(500))),
    problems=_STATE,
)
async def set_sale_limits(request: web.Request) -> web.Response:
    """Set limits, which all gateways apply from their next request on."""
    sale_id, app = sale_id_of(request), request.app
    new, by = await read_json(request, _new_limits), request[CALLER].actor
    await set_limits_of(app[DB], TokenBuckets(app[REDIS]), sale_id, new, by=by)
    own = await rate_limits.limits_of(app[DB], sale_id)
    return json_response(LimitsInForce(in_force(app[LIMITS], own)))


async def _find(request: web.Request) -> Sale:
    return await sales.find(request.app[DB], sale_id_of(request))


async def _shown(request: web.Request, sale: Sale) -> ShopSale:
    units = await listing.units_of(request.app[DB], [sale.sale_id])
    return _view(sale, units[sale.sale_id])


def _view(sale: Sale, units: SoldUnits) -> ShopSale:
    return msgspec.convert(asdict(sale) | units._asdict(), ShopSale)
