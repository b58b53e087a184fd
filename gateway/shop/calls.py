"""What is around each call of the shop's programs: token, limits, time, problems and figures."""

from __future__ import annotations

import asyncio
from functools import wraps

from aiohttp import web

from config.limits import LocalLimit
from gateway.http.contract import Operation
from gateway.http.problems import Handler, Problem, Refused, answering_problems
from gateway.http.refusals import answer_refusals
from gateway.http.shop_auth import require_scope
from gateway.overload.rate_limiter import RateLimited, rate_limited
from seckill import metrics
from seckill.sales.token_buckets import LocalTokenBuckets
from seckill.shop.tokens import TOKENS_MAX, Scope, ShopToken

#: Calls that have no answer yet, per process: they wait for the few connections to PostgreSQL, so
#: more of them would only wait longer.
IN_FLIGHT_MAX = 32
#: For one call: longer than two statements at a store that answers late, shorter than the usual
#: time limit of a client, who must hear that the outcome is not known.
CALL_S = 10.0

#: Whose token a request carries.
CALLER = web.RequestKey("caller", ShopToken)
#: The time limit of a request; what streams its answer takes it off.
TIME_LIMIT = web.RequestKey("time_limit", asyncio.Timeout)


class CallLimits:
    """How much may be in flight, and how often each token may call."""

    def __init__(self, rate: int) -> None:
        self._limit = LocalLimit(rate, 2 * rate + 1)
        self._buckets = LocalTokenBuckets(self._limit, names_max=TOKENS_MAX)
        self.in_flight = 0

    def take(self, name: str) -> None:
        """Take a token of the caller's bucket; raise Refused if there is none."""
        if wait_s := self._buckets.take(name, asyncio.get_running_loop().time()):
            limit = self._limit
            raise rate_limited(RateLimited("token", wait_s, limit.rate, limit.burst))


LIMITS_OF_CALLS = web.AppKey("limits_of_calls", CallLimits)


def for_programs(declared: Operation) -> Handler:
    """Return the handler of an operation, for callers whose token has the scope it declares."""
    scopes = [Scope(scope) for each in declared.identities for scope in each.scopes]
    handler = answering_problems(_within_limits(declared.handler, scopes))

    @wraps(declared.handler)
    async def counted(request: web.Request) -> web.StreamResponse:
        now = asyncio.get_running_loop().time
        began_at, class_ = now(), "cut off"
        try:
            response = await handler(request)
            class_ = f"{response.status // 100}xx"
            return response
        finally:
            metrics.SHOP_CALLS.labels(declared.name, class_).inc()
            metrics.SHOP_CALL_SECONDS.labels(class_).observe(now() - began_at)

    return counted


def _within_limits(handler: Handler, scopes: list[Scope]) -> Handler:
    async def answer(request: web.Request) -> web.StreamResponse:
        limits = request.app[LIMITS_OF_CALLS]
        if limits.in_flight >= IN_FLIGHT_MAX:
            raise Refused(Problem.OVERLOADED)
        limits.in_flight += 1
        try:
            async with asyncio.timeout(CALL_S) as limit:
                request[TIME_LIMIT] = limit
                for scope in scopes:
                    caller = request[CALLER] = await require_scope(request, scope)
                    limits.take(caller.name)
                return await answer_refusals(handler, request)
        except TimeoutError as error:
            raise Refused(Problem.UNAVAILABLE, f"not done within {CALL_S:g} s") from error
        finally:
            limits.in_flight -= 1

    return answer
