"""What a rule's refusal is to somebody who works for the shop: one table of problems.

Buyers get other answers: unlike them, operators and the shop's programs learn which rule it was.
"""

from __future__ import annotations

from aiohttp import web

from gateway.http.problems import Handler, Problem, Refused
from seckill.errors import (
    Conflict,
    Missing,
    NotReady,
    SeckillError,
    Unavailable,
    UserMistake,
    WrongState,
)

#: What each refusal is; the first that fits.
REFUSALS: dict[type[SeckillError], Problem] = {
    Missing: Problem.NOT_FOUND,
    WrongState: Problem.CONFLICT,
    UserMistake: Problem.BAD_REQUEST,
    NotReady: Problem.NOT_READY,
    Conflict: Problem.CONFLICT,
    Unavailable: Problem.UNAVAILABLE,
}


async def answer_refusals(handler: Handler, request: web.Request) -> web.StreamResponse:
    """Let a handler answer; turn what the rules refuse into the problem that an operator reads."""
    try:
        return await handler(request)
    except tuple(REFUSALS) as error:
        problem = next(p for kind, p in REFUSALS.items() if isinstance(error, kind))
        raise Refused(problem, str(error), field=getattr(error, "field", "")) from error
