"""The client of the card provider. The key of a charge is the payment's tx_id.

Every call may be repeated, in any order: the provider does it once. Without an answer the outcome
is unknown.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from enum import StrEnum
from typing import TypeVar
from urllib.parse import quote

import msgspec

from seckill import metrics
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


class Charge(msgspec.Struct):
    """A charge as the provider lists it."""

    status: ChargeStatus
    key: str = ""
    #: None from a provider that does not say.
    amount_cents: int | None = None
    sale_id: str = ""
    order_id: str = ""

    @property
    def has_money(self) -> bool:
        """Return whether the buyer's money is held or taken."""
        return self.status in (ChargeStatus.AUTHORISED, ChargeStatus.CAPTURED)

    @property
    def is_over(self) -> bool:
        """Return whether no money of it is or ever will be ours."""
        return self.status in (ChargeStatus.DECLINED, ChargeStatus.VOIDED)


class _Page(msgspec.Struct):
    charges: list[Charge]


_decode = msgspec.json.Decoder(Charge).decode
_decode_page = msgspec.json.Decoder(_Page).decode

log = logging.getLogger(__name__)

T = TypeVar("T")


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

    async def authorise(
        self, key: str, cents: int, *, sale_id: str = "", order_id: str = ""
    ) -> ChargeStatus:
        """Hold the money; a key that was sent before is not charged again.

        A charge of another amount under this key is voided. It is of an attempt that a restored
        PostgreSQL has forgotten, with another coupon.
        """
        wanted = {"amount_cents": cents, "sale_id": sale_id, "order_id": order_id}
        charge = await self._call("POST", key, "/authorise", msgspec.json.encode(wanted))
        if charge.has_money and charge.amount_cents not in (None, cents):
            log.warning("%s was charged %s cents, not %d: voided", key, charge.amount_cents, cents)
            return await self.void(key)
        return charge.status

    async def find(self, key: str) -> ChargeStatus:
        """Return the status of a key."""
        return (await self._call("GET", key)).status

    async def charges_of(self, sale_id: str) -> list[Charge] | None:
        """Return all charges of a sale; None if the provider has no such list."""
        found: list[Charge] = []
        while True:
            after = quote(found[-1].key, safe="") if found else ""
            url = f"{self._url}/charges?sale_id={quote(sale_id, safe='')}&after={after}"
            with _observed("list"):
                reply = await self._client.get(url)
                if reply.status in (404, 405, 501):
                    return None
                page = _decoded(url, reply, _decode_page).charges
            if not page:
                return found
            found += page

    async def capture(self, key: str) -> ChargeStatus:
        """Take the held money."""
        return (await self._call("POST", key, "/capture")).status

    async def void(self, key: str) -> ChargeStatus:
        """Release what is held, refund what was taken, and never charge the key again.

        This works for an unknown key, too: a call under way may still bring it.
        """
        return (await self._call("POST", key, "/void")).status

    async def _call(self, method: str, key: str, action: str = "", body: bytes = b"{}") -> Charge:
        url = f"{self._url}/charges/{quote(key, safe='')}{action}"
        with _observed(action.removeprefix("/") or "find"):
            if method == "GET":
                reply = await self._client.get(url)
            else:
                reply = await self._client.post(url, body, {"Idempotency-Key": f"{key}{action}"})
            if reply.status == 404:
                return Charge(ChargeStatus.UNKNOWN)
            return _decoded(url, reply, _decode)


@contextmanager
def _observed(call: str) -> Iterator[None]:
    """Count a call, and log once that the provider does not answer, and once that it does again."""
    began_at = time.monotonic()

    def observe(result: str) -> None:
        took_s = time.monotonic() - began_at
        metrics.PROVIDER_CALL_SECONDS.labels(call, result).observe(took_s)

    try:
        yield
    except Unavailable as error:
        observe("failed")
        error.store = PROVIDER
        OUTAGES.failed(error)
        raise
    observe("ok")
    OUTAGES.worked(PROVIDER)


def _decoded(url: str, reply: Reply, decode: Callable[[bytes], T]) -> T:
    if reply.status != 200:
        raise Unavailable(f"{url} answered {reply.status}")
    try:
        return decode(reply.body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unavailable(f"{url} answered something else than a charge: {error}") from error
