"""Buyers for demonstrations and acceptance tests: real HTTP, every answer kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector

#: A buyer without an answer for this long presses again; the gateway answers within two seconds.
PATIENCE = ClientTimeout(total=10)


@dataclass(frozen=True, slots=True)
class BuyerReply:
    """The answer to a buyer. Status 0: the connection broke, the outcome is unknown."""

    buyer_id: str
    status: int
    order_id: str | None = None
    code: str | None = None


async def grab(
    session: ClientSession,
    sale_id: str,
    buyer_id: str,
    ticket: str,
    *,
    quantity: int = 1,
) -> BuyerReply:
    """Press the button once; the session's base URL is the gateway's."""
    try:
        async with session.post(
            f"/v1/sales/{sale_id}/grabs",
            headers={"Seckill-Ticket": ticket},
            json={"quantity": quantity},
        ) as response:
            body = await response.json(content_type=None)
            return BuyerReply(buyer_id, response.status, body.get("order_id"), body.get("code"))
    except (ClientError, TimeoutError):
        return BuyerReply(buyer_id, 0)


async def flash_crowd(
    gateway_url: str,
    sale_id: str,
    tickets: Mapping[str, str],
    *,
    connections: int = 200,
    presses: int = 2,
    on_answer: Callable[[BuyerReply], None] = lambda _: None,
) -> list[BuyerReply]:
    """Let every buyer (buyer_id -> ticket) press `presses` times, over `connections` at once."""
    answers: list[BuyerReply] = []
    # Each buyer's presses are far apart in the queue, so that they meet other buyers in between.
    queue = [item for _ in range(presses) for item in tickets.items()]
    queue.reverse()
    connector = TCPConnector(limit=connections)
    async with ClientSession(gateway_url, connector=connector, timeout=PATIENCE) as session:

        async def connection() -> None:
            while queue:
                buyer_id, ticket = queue.pop()
                answers.append(await grab(session, sale_id, buyer_id, ticket))
                on_answer(answers[-1])

        await asyncio.gather(*(connection() for _ in range(connections)))
    return answers
