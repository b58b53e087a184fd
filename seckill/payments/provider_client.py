"""The card provider behind HTTP. A charge is known by our idempotency key, the payment's tx_id.

Every call may be made again, in any order: the provider does it once. No answer means unknown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from urllib.parse import quote

import msgspec

from seckill.adapters.http import HttpClient, Reply
from seckill.errors import Unavailable


class ChargeStatus(StrEnum):
    """What the provider says of a charge."""

    #: The money is held for us.
    AUTHORISED = "authorised"
    #: The money is ours.
    CAPTURED = "captured"
    DECLINED = "declined"
    #: The bank has not said yet.
    PENDING = "pending"
    #: Released or refunded; this key is never charged any more.
    VOIDED = "voided"
    #: The provider has never heard of the key.
    UNKNOWN = "unknown"


class _Charge(msgspec.Struct):
    status: ChargeStatus


_decode = msgspec.json.Decoder(_Charge).decode


class Provider:
    """Calls the provider; raises Unavailable when the outcome is not known."""

    def __init__(self, client: HttpClient, url: str) -> None:
        self._client = client
        self._url = url.rstrip("/")

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, *, timeout_s: float, calls_max: int) -> AsyncIterator[Provider]:
        """Open a pool of connections to the provider; see HttpClient.open."""
        async with HttpClient.open(timeout_s=timeout_s, connections_max=calls_max) as client:
            yield cls(client, url)

    async def authorise(self, key: str, cents: int) -> ChargeStatus:
        """Have the money held; a key that was asked for before is not charged again."""
        body = msgspec.json.encode({"amount_cents": cents})
        return await self._call("POST", key, "/authorise", body)

    async def find(self, key: str) -> ChargeStatus:
        """Ask what became of a key."""
        return await self._call("GET", key)

    async def capture(self, key: str) -> ChargeStatus:
        """Take the money that is held."""
        return await self._call("POST", key, "/capture")

    async def void(self, key: str) -> ChargeStatus:
        """Release what is held, refund what was taken, and let nothing come of the key any more.

        Also for a key that the provider does not know: a call on its way may bring it.
        """
        return await self._call("POST", key, "/void")

    async def _call(
        self, method: str, key: str, action: str = "", body: bytes = b"{}"
    ) -> ChargeStatus:
        url = f"{self._url}/charges/{quote(key, safe='')}{action}"
        if method == "GET":
            reply = await self._client.get(url)
        else:
            reply = await self._client.post(url, body, {"Idempotency-Key": f"{key}{action}"})
        return _status(url, reply)


def _status(url: str, reply: Reply) -> ChargeStatus:
    if reply.status == 404:
        return ChargeStatus.UNKNOWN
    if reply.status != 200:
        raise Unavailable(f"{url} answered {reply.status}")
    try:
        return _decode(reply.body).status
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unavailable(f"{url} answered something else than a charge: {error}") from error
