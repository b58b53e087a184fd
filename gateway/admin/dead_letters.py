"""`/admin/dead-letters`: look at the messages that could not succeed, and end them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

import msgspec
from aiohttp import web

from gateway.admin.auth import actor_of, on_record
from gateway.admin.health import EDGE
from gateway.app_keys import DB, PUBLISHER, REDIS
from gateway.http.problems import Problem, Refused
from gateway.http.requests import read_json
from gateway.http.responses import json_response
from seckill.dead_letters import causes, resolution, store
from seckill.dead_letters.parser import decode
from seckill.dead_letters.store import DeadLetter
from seckill.errors import Permanent

#: Letters of one call: each is a transaction, so that this many take a second or so.
LETTERS_MAX = causes.IDS_MAX
#: What is shown of a body and of a stack.
SHOWN_BYTES = 4_000

LetterIds = Annotated[
    list[Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]],
    msgspec.Meta(min_length=1, max_length=LETTERS_MAX),
]


class ReplayOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Letters to be sent to their queues again."""

    ids: LetterIds
    force: bool = False


class DiscardOrder(msgspec.Struct, forbid_unknown_fields=True):
    """Letters to be given up."""

    ids: LetterIds
    reason: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]


_replay = msgspec.json.Decoder(ReplayOrder)
_discard = msgspec.json.Decoder(DiscardOrder)


async def list_letters(request: web.Request) -> web.Response:
    """Answer with the open letters by cause, and how many there are on each queue."""
    db = request.app[EDGE][DB]
    return json_response({"open": await store.open_by_queue(db), "groups": await causes.groups(db)})


async def show_letter(request: web.Request) -> web.Response:
    """Answer with one letter, its body as far as it can be read."""
    text = request.match_info["letter_id"]
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise Refused(Problem.BAD_REQUEST, "give the number of a letter", field="letter_id")
    letter = await store.find(request.app[EDGE][DB], int(text))
    return json_response(_shown(letter))


async def replay_letters(request: web.Request) -> web.Response:
    """Send letters to their queues again; answer with the outcome of each."""
    order = await read_json(request, _replay)
    edge = request.app[EDGE]

    async def one(letter_id: int) -> str:
        return await resolution.replay(
            edge[DB], edge[PUBLISHER], letter_id, actor=actor_of(request), force=order.force
        )

    return await _each("replay", order.ids, one)


async def discard_letters(request: web.Request) -> web.Response:
    """Give letters up, and return the units that they name; answer with the outcome of each."""
    order = await read_json(request, _discard)
    edge = request.app[EDGE]

    async def one(letter_id: int) -> str:
        report = await resolution.discard(
            edge[DB], edge[REDIS], letter_id, actor=actor_of(request), reason=order.reason
        )
        return report.resolution

    return await _each("discard", order.ids, one)


async def _each(verb: str, ids: list[int], one: Callable[[int], Awaitable[str]]) -> web.Response:
    outcomes: list[dict[str, object]] = []
    with on_record(verb, f"{len(ids)} dead letters"):
        for letter_id in dict.fromkeys(ids):
            try:
                outcome = await one(letter_id)
            except Permanent as error:  # PostgreSQL refuses the row of this one
                outcome = str(error)
            outcomes.append({"letter_id": letter_id, "outcome": outcome})
    return json_response({"letters": outcomes})


def _shown(letter: DeadLetter) -> dict[str, object]:
    shown = {
        name: getattr(letter, name)
        for name in ("letter_id", "queue", "sale_id", "state", "reason", "attempts", "first_at")
    }
    shown |= {name: getattr(letter, name) for name in ("last_at", "deaths", "replays")}
    shown["stack"] = (letter.stack or "")[-SHOWN_BYTES:]
    content = decode(letter.body)
    text = repr(letter.body) if content is None else msgspec.json.encode(content).decode()
    shown["body"] = text[:SHOWN_BYTES]
    shown["orders"] = [order._asdict() for order in letter.orders[:LETTERS_MAX]]
    return shown
