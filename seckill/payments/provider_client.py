"""The client of the card provider. The key of a charge is the payment's tx_id.

Every call may be repeated, in any order: the provider does it once. Without an answer the outcome
is unknown.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from urllib.parse import quote

import msgspec

from seckill.adapters.http import HttpClient, Reply
from seckill.errors import Unavailable
from seckill.outages import OUTAGES, PROVIDER


class ChargeStatus(StrEnum):
    """The provider's status of a charge."""

    #: The money is held for us.
    AUTHORISED = "authorised"
    #: The money is ours.
    CAPTURED = "captured"
    DECLINED = "declined"
    #: The bank has not decided yet.
    PENDING = "pending"
    #: Released or refunded; this key is never charged again.
    VOIDED = "voided"
    #: The provider does not know the key.
    UNKNOWN = "unknown"


class _Charge(msgspec.Struct):
    status: ChargeStatus


_decode = msgspec.json.Decoder(_Charge).decode


class Provider:
    """Calls the provider; raises Unavailable if the outcome is unknown."""

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
        """Hold the money; a key that was sent before is not charged again."""
        body = msgspec.json.encode({"amount_cents": cents})
        return await self._call("POST", key, "/authorise", body)

    async def find(self, key: str) -> ChargeStatus:
        """Return the status of a key."""
        return await self._call("GET", key)

    async def capture(self, key: str) -> ChargeStatus:
        """Take the held money."""
        return await self._call("POST", key, "/capture")

    async def void(self, key: str) -> ChargeStatus:
        """Release what is held, refund what was taken, and never charge the key again.

        This works for an unknown key, too: a call under way may still bring it.
        """
        return await self._call("POST", key, "/void")

    async def _call(
        self, method: str, key: str, action: str = "", body: bytes = b"{}"
    ) -> ChargeStatus:
        url = f"{self._url}/charges/{quote(key, safe='')}{action}"
        try:
            if method == "GET":
                reply = await self._client.get(url)
            else:
                reply = await self._client.post(url, body, {"Idempotency-Key": f"{key}{action}"})
            status = _status(url, reply)
        except Unavailable as error:
            error.store = PROVIDER
            OUTAGES.failed(error)
            raise
        OUTAGES.worked(PROVIDER)
        return status


def _status(url: str, reply: Reply) -> ChargeStatus:
    if reply.status == 404:
        return ChargeStatus.UNKNOWN
    if reply.status != 200:
        raise Unavailable(f"{url} answered {reply.status}")
    try:
        return _decode(reply.body).status
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unavailable(f"{url} answered something else than a charge: {error}") from error
