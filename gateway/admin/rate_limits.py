"""`GET`, `PUT /admin/sales/{sale_id}/limits`: the rate limits of one sale, set while it runs."""

from __future__ import annotations

import msgspec
from aiohttp import web

from gateway.admin.auth import actor_of, on_record
from gateway.admin.health import EDGE
from gateway.app_keys import DB, LIMITS, REDIS
from gateway.http.requests import read_json, sale_id_of
from gateway.http.responses import json_response
from gateway.sales.changes import NewLimits, set_limits_of
from seckill.sales import rate_limits
from seckill.sales.rate_limits import in_force
from seckill.sales.token_buckets import TokenBuckets

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
    named = ", ".join(f"{op} {limit or 'as configured'}" for op, limit in new.named().items())
    with on_record(f"limits {named}", f"sale {sale_id!r}"):
        await set_limits_of(edge[DB], TokenBuckets(edge[REDIS]), sale_id, new, by=actor_of(request))
    return await show_limits(request)
