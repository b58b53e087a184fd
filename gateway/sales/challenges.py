"""`POST /v1/sales/{sale_id}/challenges`: work to do before a ticket, and its redemption.

A solution is used once, for one ticket, whichever process it is sent to: the nonce of its challenge
is burnt in Redis, and the second use is answered 409 `proof_used`, even to the same buyer. A repeat
would gain that buyer little, since both tickets are theirs. But each further use of a ticket
(limits, bans) would then have to be safe against tickets without work. So a buyer who lost the
answer asks for a new challenge: tickets are issued from minutes before the opening.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from importlib.resources import files
from typing import Annotated, NamedTuple

import msgspec
from aiohttp import web
from redis.asyncio import Redis

from gateway.app_keys import REDIS, SETTINGS
from gateway.http.auth import LOGIN, TICKET_KEYS, buyer_of_login
from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import Problem, Refused, retry_after
from gateway.http.requests import SALE_ID, find_sale, json_body, read_json
from gateway.http.responses import COMMON, Moment, json_response
from gateway.overload.aiohttp_protocol import in_flight
from seckill.adapters import redis_keys
from seckill.adapters.redis import redis_errors_as_unavailable
from seckill.auth import proof_of_work
from seckill.micro_batcher import MicroBatcher, answering_each
from seckill.sales.sales import Sale

#: Burnt nonces in one round trip: less than a millisecond of Redis.
BURNS_MAX = 512
#: A burnt nonce is kept so much longer than its challenge is good: to a process whose clock is
#: behind, the challenge would else outlive it.
CLOCK_SKEW_MS = 60_000
#: The worker's messages do not change under its name; a crowd fetches it once, before the opening.
WORKER_CACHE = "public, max-age=3600"


class ChallengeView(msgspec.Struct):
    """A challenge, good before `expires_at`.

    A solution is 1 to 20 digits for which SHA-256 of the text `challenge:solution` begins with at
    least `bits` zero bits.
    """

    challenge: str
    bits: int
    expires_at: Moment


class ProofRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The body of a ticket's request, where the sale asks for a proof of work."""

    challenge: str
    solution: Annotated[str, msgspec.Meta(pattern="^[0-9]{1,20}$")]


class NonceUse(NamedTuple):
    """A key to set, once, and how long it stays."""

    key: str
    ttl_ms: int


BURNS = web.AppKey("burns", MicroBatcher[NonceUse, bool])

_decoder = msgspec.json.Decoder(ProofRequest)

_CHALLENGE = ChallengeView(
    "k1~1795807980~20~5f0c1f7e9d3b4a68~8c5d0e6f7a8b9c0d1e2f3a4b5c6d7e8f",
    20,
    datetime(2026, 11, 27, 19, 33, tzinfo=UTC),
)
#: How `redeem_proof` gets a proof, and refuses it.
PROOF = json_body(ProofRequest(_CHALLENGE.challenge, "1048577"), required=False)
PROOF_PROBLEMS = (
    Problem.PROOF_NEEDED,
    Problem.BAD_PROOF,
    Problem.PROOF_USED,
    Problem.UNAVAILABLE,
)


@operation(
    "Get work to do before a ticket",
    ResponseSpec(201, "A challenge; of 0 bits where the sale asks for no work.", _CHALLENGE),
    tag="challenges",
    parameters=[SALE_ID],
    identities=[LOGIN],
    problems=[Problem.TOO_EARLY],
)
async def issue_challenge(request: web.Request) -> web.Response:
    """Answer with a challenge for the login's buyer, under the same window as tickets.

    A sale that asks for no work gives one of 0 bits, which any digit solves: clients need one way.
    """
    settings = request.app[SETTINGS]
    buyer_id = await buyer_of_login(request)
    sale = await find_sale(request)
    now_s = time.time()
    opening_of(sale, lead_s=settings.ticket_lead_s, now_s=now_s)
    expires_at_s = int(now_s + settings.challenge_ttl_s)
    with in_flight(request):
        challenge = proof_of_work.issue(
            request.app[TICKET_KEYS],
            sale_id=sale.sale_id,
            buyer_id=buyer_id,
            bits=sale.proof_bits,
            expires_at_s=expires_at_s,
        )
    expires_at = datetime.fromtimestamp(expires_at_s, UTC)
    return json_response(ChallengeView(challenge, sale.proof_bits, expires_at), status=201)


def opening_of(sale: Sale, *, lead_s: float, now_s: float) -> float:
    """Return when a sale opens, in Unix seconds; refuse while it issues no tickets yet."""
    opens_at_s = sale.opens_at.timestamp() if sale.opens_at else now_s
    if now_s < opens_at_s - lead_s:
        detail = f"tickets are handed out {lead_s:g} s before"
        raise Refused(Problem.TOO_EARLY, detail, headers=retry_after(opens_at_s - lead_s))
    return opens_at_s


async def read_proof(request: web.Request, sale: Sale) -> ProofRequest:
    """Return what the request sends as its proof of work, or refuse."""
    if not request.body_exists:
        raise Refused(
            Problem.PROOF_NEEDED,
            f"POST /v1/sales/{sale.sale_id}/challenges gives one; send it with its solution",
        )
    return await read_json(request, _decoder)


async def redeem_proof(request: web.Request, sale: Sale, buyer_id: str, sent: ProofRequest) -> None:
    """Check a proof of work and use it up, or refuse."""
    now_s = time.time()
    proof = proof_of_work.check(
        request.app[TICKET_KEYS],
        sent.challenge,
        sent.solution,
        sale_id=sale.sale_id,
        buyer_id=buyer_id,
        bits=sale.proof_bits,
        now_s=now_s,
    )
    if isinstance(proof, proof_of_work.Flaw):
        field, detail = proof.value
        raise Refused(Problem.BAD_PROOF, detail, field=field)
    # Last of all, so that a refusal for another reason uses up no work. It is one SET NX: of any
    # number of processes exactly one learns that it was the first.
    ttl_ms = int((proof.expires_at_s - now_s) * 1000) + CLOCK_SKEW_MS
    key = redis_keys.burnt_proof(sale.sale_id, proof.nonce)
    if not await request.app[BURNS].submit(NonceUse(key, ttl_ms)):
        raise Refused(Problem.PROOF_USED, "ask for a new challenge")


@operation(
    "Load the script that does the work in a browser",
    ResponseSpec(200, "The script.", "", content_type="text/javascript", headers=["Cache-Control"]),
    tag="challenges",
)
async def show_worker(_: web.Request) -> web.Response:
    """Answer with the script that solves challenges in a browser, beside the page.

    A page of another origin cannot name it as its worker: the page fetches it, which CORS allows,
    and starts a worker of what it got. The last header lets in pages that isolate themselves.
    """
    headers = {
        **COMMON,
        "Cache-Control": WORKER_CACHE,
        "Cross-Origin-Resource-Policy": "cross-origin",
    }
    return web.Response(
        body=_worker_source(), content_type="text/javascript", charset="utf-8", headers=headers
    )


async def burns_ctx(app: web.Application) -> AsyncIterator[None]:
    """Batch the burning of nonces: a crowd before the opening takes one connection, not all."""
    burn = answering_each(partial(burn_all, app[REDIS]))
    app[BURNS] = MicroBatcher(burn, max_batch=BURNS_MAX, max_calls=1)
    yield


async def burn_all(redis: Redis, burns: Sequence[NonceUse]) -> list[bool]:
    """Set each key that is not set yet; return which were set, or raise Unavailable."""
    with redis_errors_as_unavailable():
        async with redis.pipeline(transaction=False) as pipe:
            for key, ttl_ms in burns:
                pipe.set(key, b"", nx=True, px=ttl_ms)
            return [reply is not None for reply in await pipe.execute()]


@cache
def _worker_source() -> bytes:
    return (files("gateway") / "static" / "proof-worker.js").read_bytes()
