"""`GET`, `PUT /admin/sales/{sale_id}/limits`: the rate limits of one sale, set while it runs."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import web

from config.limits import RATE_MAX, Op
from gateway.admission import read_json, sale_id_of
from gateway.answers import json_response
from gateway.health import EDGE
from gateway.operators import on_record
from gateway.resources import DB, LIMITS, REDIS
from seckill import limits
from seckill.buckets import Buckets
from seckill.limits import SaleLimit, in_force

Rate = Annotated[int, msgspec.Meta(ge=1, le=RATE_MAX)]


class NewLimit(msgspec.Struct, forbid_unknown_fields=True):
    """A limit to be set; the burst is twice the rate and one if not given."""

    rate: Rate
    burst: Rate | None = None


class NewLimits(msgspec.Struct, forbid_unknown_fields=True, rename={"try_": "try"}):
    """The limits to be set; what is not named stays as it is."""

    try_: NewLimit | None = None
    confirm: NewLimit | None = None
    cancel: NewLimit | None = None


_new_limits = msgspec.json.Decoder(NewLimits)


async def show_limits(request: web.Request) -> web.Response:
    """Answer with the limit in force for each operation."""
    edge = request.app[EDGE]
    own = await limits.limits_of(edge[DB], sale_id_of(request))
    return json_response(in_force(edge[LIMITS], own))


async def set_limits(request: web.Request) -> web.Response:
    """Set limits; all gateways obey from their next request on."""
    sale_id, edge = sale_id_of(request), request.app[EDGE]
    new = await read_json(request, _new_limits)
    named: dict[Op, NewLimit | None] = {
        "try": new.try_,
        "confirm": new.confirm,
        "cancel": new.cancel,
    }
    buckets = Buckets(edge[REDIS])
    for op, wish in named.items():
        if wish is not None:
            limit = SaleLimit.of(wish.rate, wish.burst)
            with on_record(f"limit {op} to {limit.rate}/s, burst {limit.burst}", sale_id):
                await limits.set_limit(edge[DB], buckets, sale_id, op, limit)
    return await show_limits(request)
