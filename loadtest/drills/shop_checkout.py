"""A shop with a checkout of its own, for drills: it takes money, reports it, and keeps its record.

Some of its calls are lost on the way, of some only the answer is lost, and some are sent twice at
once. It repeats each call until its answer is final.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from aiohttp import ClientError, ClientSession

from loadtest.stack import PATIENCE_S
from seckill.auth import webhook_signatures
from seckill.auth.key_ring import KeyRing
from seckill.errors import SeckillError

#: Shares of calls: lost before they arrive, without an answer, and sent twice at once.
LOST, UNANSWERED, DOUBLED = 0.05, 0.05, 0.10
#: The shop repeats a call after so long.
AGAIN_S = 0.2

chance = random.Random()  # noqa: S311 - no secret


class ShopReply(NamedTuple):
    """The answer to a call; status 0 without one."""

    status: int
    body: dict[str, Any]

    @property
    def is_final(self) -> bool:
        """Whether the shop knows what to do; another refusal of a value is a bug."""
        if self.status in (400, 401, 403, 404, 405, 422):
            raise SeckillError(f"the shop is refused: {self.status} {self.body}")
        again = ("queued", "payment_in_progress")
        return self.status in (200, 410) or (
            self.status == 409 and self.body.get("code") not in again
        )


@dataclass(slots=True)
class ShopPayment:
    """A payment in the shop's own record."""

    reference: str
    order_id: str
    cents: int
    #: What the last answer said: `paid`, `refund_due` or `refunded`.
    status: str = ""
    reason: str | None = None


@dataclass(slots=True)
class ShopCheckout:
    """The shop's server; the session's base URL is the gateway's."""

    http: ClientSession
    keys: KeyRing
    #: What the references of this shop begin with.
    prefix: str
    payments: dict[str, ShopPayment] = field(default_factory=dict)
    #: Calls whose copies, sent at once, had different answers.
    contradictions: int = 0

    async def take(self, order_id: str, cents: int) -> ShopPayment:
        """Take money for an order, and report it until it is known what to do."""
        reference = f"{self.prefix}-{len(self.payments) + 1}"
        payment = self.payments[reference] = ShopPayment(reference, order_id, cents)
        body = {
            "reference": reference,
            "amount_cents": cents,
            "currency": "EUR",
            "paid_at": datetime.now(UTC).isoformat(),
        }
        reply = await self._call(
            f"/v1/orders/{order_id}/payments/external", json.dumps(body).encode()
        )
        payment.status = "paid" if reply.status == 200 else _status_of(reply)
        payment.reason = reply.body.get("reason")
        return payment

    async def begin(self, order_id: str) -> None:
        """Have an order kept while its buyer is at the bank."""
        await self._call(f"/v1/orders/{order_id}/payments/external/begin")

    async def send_back(self, payment: ShopPayment) -> None:
        """Send the money of a payment back, and report that."""
        path = f"/v1/orders/{payment.order_id}/payments/external/{payment.reference}/refunded"
        reply = await self._call(path)
        payment.status = str(reply.body["status"])

    async def read_due(self) -> dict[str, int]:
        """Return reference -> cents of what must go back, as the gateway lists it."""
        due: dict[str, int] = {}
        cursor: str | None = "0"
        while cursor:
            path = f"/v1/payments/external?due=true&cursor={cursor}"
            async with self.http.get(path, headers=self._headers("GET", path)) as response:
                page = await response.json()
            due |= {each["reference"]: each["amount_cents"] for each in page["payments"]}
            cursor = page["next"]
        return {ref: cents for ref, cents in due.items() if ref in self.payments}

    async def _call(self, path: str, body: bytes = b"") -> ShopReply:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            reply = await self._call_once(path, body)
            if reply is not None and reply.is_final:
                return reply
            await asyncio.sleep(chance.uniform(0.5, 1) * AGAIN_S)
        raise SeckillError(f"no final answer to {path}")

    async def _call_once(self, path: str, body: bytes) -> ShopReply | None:
        """Call; return None where the shop got no answer."""
        luck = chance.random()
        if luck < LOST:
            return None
        copies = 2 if chance.random() < DOUBLED else 1
        replies = await asyncio.gather(*(self._send(path, body) for _ in range(copies)))
        if luck < LOST + UNANSWERED:
            return None
        final = [reply for reply in replies if reply.is_final]
        self.contradictions += len({(r.status, r.body.get("refund")) for r in final}) > 1
        return final[0] if final else None

    async def _send(self, path: str, body: bytes) -> ShopReply:
        try:
            headers = self._headers("POST", path, body)
            async with self.http.post(path, data=body or None, headers=headers) as response:
                return ShopReply(response.status, await response.json(content_type=None))
        except (ClientError, TimeoutError):
            return ShopReply(0, {})

    def _headers(self, method: str, path: str, body: bytes = b"") -> dict[str, str]:
        signed = body or f"{method} {path}".encode()
        signature = webhook_signatures.sign(self.keys, signed, now_s=int(time.time()))
        kind = {"Content-Type": "application/json"} if body else {}
        return {webhook_signatures.SIGNATURE: signature, **kind}


def _status_of(reply: ShopReply) -> str:
    if reply.body.get("code") not in ("refund_due", "sent_back"):
        raise SeckillError(f"a report was answered {reply.status} {reply.body}")
    return "refund_due" if reply.body["refund"] else "refunded"
