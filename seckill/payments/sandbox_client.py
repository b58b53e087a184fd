"""The adapter to the sandbox provider (`ops/sandbox_provider.py`), and to any of its interface."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Annotated
from urllib.parse import quote

import msgspec

from seckill.adapters.http import HttpClient, Reply
from seckill.auth.key_ring import KeyRing
from seckill.auth.tickets import ID
from seckill.auth.webhook_signatures import SIGNATURE, is_signed
from seckill.errors import Unavailable
from seckill.payments.provider import (
    BadSignature,
    BadWebhook,
    Charge,
    ChargeRequest,
    ChargeStatus,
    RefundStatus,
)
from seckill.payments.provider_calls import decoded, observed


class PaymentEvent(msgspec.Struct):
    """What happened to a charge; other members are ignored."""

    #: Our idempotency key.
    key: Annotated[str, msgspec.Meta(pattern=f"^{ID.pattern}")]
    status: str


class _Page(msgspec.Struct):
    charges: list[Charge]


class _Refund(msgspec.Struct):
    status: RefundStatus


_decode = msgspec.json.Decoder(Charge).decode
_decode_page = msgspec.json.Decoder(_Page).decode
_decode_refund = msgspec.json.Decoder(_Refund).decode
_decode_event = msgspec.json.Decoder(PaymentEvent).decode

log = logging.getLogger(__name__)


class SandboxClient:
    """Calls the sandbox."""

    def __init__(self, client: HttpClient, url: str) -> None:
        self._client = client
        self._url = url.rstrip("/")

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, *, timeout_s: float, calls_max: int
    ) -> AsyncIterator[SandboxClient]:
        """Open a pool of connections to the provider; see HttpClient.open."""
        async with HttpClient.open(timeout_s=timeout_s, connections_max=calls_max) as client:
            yield cls(client, url)

    async def authorise(self, wanted: ChargeRequest) -> Charge:
        """Hold the money; void a charge of another amount under this key."""
        body = {
            "amount_cents": wanted.cents,
            "currency": wanted.currency,
            "sale_id": wanted.sale_id,
            "order_id": wanted.order_id,
        }
        charge = await self._call("POST", wanted.key, "/authorise", msgspec.json.encode(body))
        if charge.has_money and charge.amount_cents not in (None, wanted.cents):
            log.warning(
                "%s was charged %s cents, not %d: voided",
                wanted.key,
                charge.amount_cents,
                wanted.cents,
            )
            return await self.void(wanted)
        return charge

    async def find(self, wanted: ChargeRequest) -> Charge:
        """Return a charge as it is now."""
        return await self._call("GET", wanted.key)

    async def charges_of(self, sale_id: str) -> list[Charge] | None:
        """Return all charges of a sale; None if the provider has no such list."""
        found: list[Charge] = []
        while True:
            after = quote(found[-1].key, safe="") if found else ""
            url = f"{self._url}/charges?sale_id={quote(sale_id, safe='')}&after={after}"
            with observed("list"):
                reply = await self._client.get(url)
                if reply.status in (404, 405, 501):
                    return None
                page = decoded(url, _answered(url, reply), _decode_page).charges
            if not page:
                return found
            found += page

    async def capture(self, wanted: ChargeRequest) -> Charge:
        """Take the held money."""
        return await self._call("POST", wanted.key, "/capture")

    async def void(self, wanted: ChargeRequest) -> Charge:
        """Release or refund all of it, and never charge the key again."""
        return await self._call("POST", wanted.key, "/void")

    async def refund(self, wanted: ChargeRequest, refund_id: str, cents: int) -> RefundStatus:
        """Give a part back, once for each `refund_id`."""
        url = (
            f"{self._url}/charges/{quote(wanted.key, safe='')}/refunds/{quote(refund_id, safe='')}"
        )
        with observed("refund"):
            body = msgspec.json.encode({"amount_cents": cents})
            reply = await self._client.post(url, body, {"Idempotency-Key": refund_id})
            if reply.status == 404:
                return RefundStatus.REFUSED
            return decoded(url, _answered(url, reply), _decode_refund).status

    async def _call(self, method: str, key: str, action: str = "", body: bytes = b"{}") -> Charge:
        url = f"{self._url}/charges/{quote(key, safe='')}{action}"
        with observed(action.removeprefix("/") or "find"):
            if method == "GET":
                reply = await self._client.get(url)
            else:
                reply = await self._client.post(url, body, {"Idempotency-Key": f"{key}{action}"})
            if reply.status == 404:
                return Charge(ChargeStatus.UNKNOWN)
            return decoded(url, _answered(url, reply), _decode)


class SandboxWebhooks:
    """Reads webhooks that are signed with one of our keys; without keys every one is refused."""

    def __init__(self, keys: KeyRing | None) -> None:
        self._keys = keys

    def __call__(self, headers: Mapping[str, str], body: bytes, *, now_s: float) -> str | None:
        """Return the key of the charge; raise BadSignature or BadWebhook."""
        signature = headers.get(SIGNATURE, "")
        if self._keys is None or not is_signed(self._keys, signature, body, now_s=now_s):
            raise BadSignature
        try:
            return _decode_event(body).key
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadWebhook(str(error)) from error


def _answered(url: str, reply: Reply) -> bytes:
    if reply.status != 200:
        raise Unavailable(f"{url} answered {reply.status}")
    return reply.body
