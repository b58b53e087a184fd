"""`GET`, `PUT /admin/sales/{sale_id}/limits`: the rate limits of one sale, set while it runs."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from config.limits import RATE_MAX, Op
from gateway.admin.auth import on_record
from gateway.admin.health import EDGE
from gateway.app_keys import DB, LIMITS, REDIS
from gateway.http.requests import read_json, sale_id_of
from gateway.http.responses import json_response
from seckill.sales import rate_limits
from seckill.sales.rate_limits import SaleLimit, in_force
from seckill.sales.token_buckets import TokenBuckets

Rate = Annotated[int, msgspec.Meta(ge=1, le=RATE_MAX)]


class NewLimit(msgspec.Struct, forbid_unknown_fields=True):
    """A limit to be set; the burst is twice the rate and one if not given."""

    rate: Rate
    burst: Rate | None = None


class NewLimits(msgspec.Struct, forbid_unknown_fields=True, rename={"try_": "try"}):
    """The limits to be set; null takes one away, and what is not named stays as it is."""

    try_: NewLimit | msgspec.UnsetType | None = msgspec.UNSET
    confirm: NewLimit | msgspec.UnsetType | None = msgspec.UNSET
    cancel: NewLimit | msgspec.UnsetType | None = msgspec.UNSET


_new_limits = msgspec.json.Decoder(NewLimits)


async def show_limits(request: web.Request) -> web.Response:
    """Answer with the limit in force for each operation."""
    edge = request.app[EDGE]
    own = await rate_limits.limits_of(edge[DB], sale_id_of(request))
    return json_response(in_force(edge[LIMITS], own))


async def set_limits(request: web.Request) -> web.Response:
    """Set limits, which all gateways apply from their next request on."""
    sale_id, edge = sale_id_of(request), request.app[EDGE]
    new = await read_json(request, _new_limits)
    named: dict[Op, NewLimit | msgspec.UnsetType | None] = {
        "try": new.try_,
        "confirm": new.confirm,
        "cancel": new.cancel,
    }
    buckets = TokenBuckets(edge[REDIS])
    for op, wanted in named.items():
        if wanted is msgspec.UNSET:
            continue
        limit = SaleLimit.of(wanted.rate, wanted.burst) if wanted else None
        what = f"to {limit.rate}/s, burst {limit.burst}" if limit else "as configured"
        with on_record(f"limit {op} {what}", f"sale {sale_id!r}"):
            await rate_limits.set_limit(edge[DB], buckets, sale_id, op, limit)
    return await show_limits(request)
