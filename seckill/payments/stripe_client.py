"""The adapter to Stripe: one PaymentIntent for each key, captured by hand.

Made in two calls. Creating the PaymentIntent moves no money, so it may be repeated under its
Idempotency-Key to learn its id again, even by a process that wants to void it. Confirming it,
capturing it and cancelling it are refused by Stripe in a state that does not fit, so a repeat does
no harm: then the PaymentIntent is read.
https://docs.stripe.com/api/payment_intents, https://docs.stripe.com/api/idempotent_requests
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote, urlencode

from seckill.adapters.http import HttpClient
from seckill.payments.provider import Charge, ChargeRequest, ChargeStatus, RefundStatus
from seckill.payments.provider_calls import observed
from seckill.payments.stripe_amounts import to_stripe
from seckill.payments.stripe_answers import (
    KEY,
    ORDER,
    REFUND,
    SALE,
    StripeIntent,
    StripeIntentPage,
    StripeRefund,
    StripeRefundPage,
)
from seckill.payments.stripe_http import StripeHttp, StripeRefusal

log = logging.getLogger(__name__)

#: PaymentIntents of one page: with their charges they must fit in the bytes of one answer.
PAGE = 10
_EXPANDED = {"expand[]": "latest_charge"}


class StripeClient:
    """Calls Stripe."""

    def __init__(self, http: StripeHttp) -> None:
        self._http = http

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str, key: str, *, timeout_s: float, calls_max: int
    ) -> AsyncIterator[StripeClient]:
        """Open a pool of connections; see HttpClient.open."""
        async with HttpClient.open(timeout_s=timeout_s, connections_max=calls_max) as client:
            yield cls(StripeHttp(client, url, key))

    async def authorise(self, wanted: ChargeRequest) -> Charge:
        """Hold the money; void a PaymentIntent of another amount under this key."""
        with observed("authorise"):
            try:
                intent = await self._intent(wanted)
                if intent.amount != to_stripe(wanted.cents, wanted.currency):
                    log.warning("%s has another amount at Stripe: voided", wanted.key)
                    return await self._end(intent, wanted)
                if intent.charge().status is ChargeStatus.UNKNOWN:
                    intent = await self._confirm(intent, wanted)
                if intent.status == "requires_action" and not intent.redirect_url:
                    # The buyer cannot be sent to the bank: there was no return_url.
                    await self._act(intent.id, "cancel")
                    return _declined("authentication_required", intent.id)
                return intent.charge()
            except StripeRefusal as refusal:
                return _refused(refusal, wanted)

    async def find(self, wanted: ChargeRequest) -> Charge:
        """Return a charge as it is now; without its id the creation is repeated, which is safe."""
        with observed("find"):
            try:
                return (await self._intent(wanted)).charge()
            except StripeRefusal as refusal:
                return _refused(refusal, wanted)

    async def charges_of(self, sale_id: str) -> list[Charge] | None:
        """Return the charges of a sale by Stripe's search, which may lack those of a minute."""
        return [intent.charge() for intent in await self._search(SALE, sale_id)]

    async def capture(self, wanted: ChargeRequest) -> Charge:
        """Take the held money."""
        with observed("capture"):
            try:
                intent = await self._intent(wanted)
                if intent.status == "requires_capture":
                    intent = await self._act(intent.id, "capture")
                return intent.charge()
            except StripeRefusal as refusal:
                return _refused(refusal, wanted)

    async def void(self, wanted: ChargeRequest) -> Charge:
        """Cancel the PaymentIntent, or refund what is left of it."""
        with observed("void"):
            try:
                return await self._end(await self._intent(wanted), wanted)
            except StripeRefusal as refusal:
                return _refused(refusal, wanted)

    async def refund(self, wanted: ChargeRequest, refund_id: str, cents: int) -> RefundStatus:
        """Give a part back. Its metadata shows it again when its Idempotency-Key is forgotten."""
        with observed("refund"):
            try:
                intent = await self._intent(wanted)
                if intent.status != "succeeded":
                    is_held = intent.status in ("requires_capture", "processing")
                    return RefundStatus.NOT_YET if is_held else RefundStatus.REFUSED
                found = await self._refund_of(intent.id, refund_id)
                if found is None:
                    amount = to_stripe(cents, wanted.currency)
                    if not amount:  # Stripe has no such amount of this currency
                        return RefundStatus.REFUSED
                    found = await self._give_back(intent.id, refund_id, amount)
                return RefundStatus.REFUSED if found.failed else RefundStatus.DONE
            except StripeRefusal as refusal:
                log.warning("refund %s of %s: %s", refund_id, wanted.key, refusal)
                return RefundStatus.REFUSED

    async def _intent(self, wanted: ChargeRequest) -> StripeIntent:
        if wanted.ref:
            return await self._read(wanted.ref)
        amount = to_stripe(wanted.cents, wanted.currency)
        if not amount:
            raise StripeRefusal(400, "amount_not_chargeable", "Stripe cannot charge this amount")
        fields = {
            "amount": str(amount),
            "currency": wanted.currency.lower(),
            "capture_method": "manual",
            "payment_method_types[]": "card",
            f"metadata[{KEY}]": wanted.key,
            f"metadata[{SALE}]": wanted.sale_id,
            f"metadata[{ORDER}]": wanted.order_id,
        }
        if wanted.token:
            fields["payment_method"] = wanted.token
        try:
            made = await self._http.post(
                "/v1/payment_intents", fields, StripeIntent, key=wanted.key
            )
        except StripeRefusal as refusal:
            if not refusal.is_other_request:
                raise
            # The key was sent with other values, by an attempt that a restored PostgreSQL has
            # forgotten. By now it is old enough for Stripe's search.
            found = await self._search(KEY, wanted.key)
            if not found:
                raise refusal.unavailable() from refusal
            return found[0]
        # A repeat is answered as the first call was, whatever has happened since.
        return await self._read(made.answer.id) if made.replayed else made.answer

    async def _read(self, ref: str) -> StripeIntent:
        path = f"/v1/payment_intents/{quote(ref, safe='')}?{urlencode(_EXPANDED)}"
        return await self._http.get(path, StripeIntent)

    async def _confirm(self, intent: StripeIntent, wanted: ChargeRequest) -> StripeIntent:
        """Confirm; a refusal is the buyer's, unless another process has confirmed in between."""
        fields = {"return_url": wanted.return_url} if wanted.return_url else {}
        return await self._act(intent.id, "confirm", fields)

    async def _act(
        self, ref: str, action: str, fields: Mapping[str, str] | None = None
    ) -> StripeIntent:
        path = f"/v1/payment_intents/{quote(ref, safe='')}/{action}"
        try:
            made = await self._http.post(path, _EXPANDED | dict(fields or {}), StripeIntent)
        except StripeRefusal as refusal:
            intent = await self._read(ref)
            if action == "confirm" and intent.charge().status is ChargeStatus.UNKNOWN:
                raise  # what was wrong with the request keeps being wrong
            log.info("%s %s: %s; it is %s", action, ref, refusal, intent.status)
            return intent
        return made.answer

    async def _end(self, intent: StripeIntent, wanted: ChargeRequest) -> Charge:
        if intent.status == "succeeded" and (left := intent.amount - intent.refunded) > 0:
            refund = await self._give_back(intent.id, f"{wanted.key}-void", left)
            if refund.failed:
                return intent.charge()
            return Charge(ChargeStatus.VOIDED, wanted.key, ref=intent.id)
        if intent.status not in ("succeeded", "canceled", "processing"):
            intent = await self._act(intent.id, "cancel")
            if intent.status == "succeeded":  # captured in between
                return await self._end(intent, wanted)
        return intent.charge()

    async def _refund_of(self, ref: str, refund_id: str) -> StripeRefund | None:
        path = f"/v1/refunds?{urlencode({'payment_intent': ref, 'limit': '100'})}"
        page = await self._http.get(path, StripeRefundPage)
        ours = (r for r in page.data if (r.metadata or {}).get(REFUND) == refund_id)
        return next(ours, None)

    async def _give_back(self, ref: str, refund_id: str, amount: int) -> StripeRefund:
        fields = {
            "payment_intent": ref,
            "amount": str(amount),
            f"metadata[{REFUND}]": refund_id,
        }
        made = await self._http.post("/v1/refunds", fields, StripeRefund, key=refund_id)
        return made.answer

    async def _search(self, name: str, value: str) -> list[StripeIntent]:
        found: list[StripeIntent] = []
        query = {"query": f"metadata['{name}']:'{value}'", "limit": str(PAGE)}
        query["expand[]"] = "data.latest_charge"
        while True:
            with observed("list"):
                path = f"/v1/payment_intents/search?{urlencode(query)}"
                page = await self._http.get(path, StripeIntentPage)
            found += page.data
            if not page.has_more or not page.next_page:
                return found
            query["page"] = page.next_page


def _refused(refusal: StripeRefusal, wanted: ChargeRequest) -> Charge:
    """Return the charge that Stripe will not make, or do this with: no money is held by it."""
    if not refusal.is_decline:
        log.warning("Stripe refuses %s: %s", wanted.key, refusal)
    return _declined(refusal.word, wanted.ref)


def _declined(word: str, ref: str) -> Charge:
    return Charge(ChargeStatus.DECLINED, ref=ref, decline_code=word)
