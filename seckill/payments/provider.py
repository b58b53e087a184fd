"""The port to a card provider: what the shop asks of it, in words that no provider owns.

Two adapters exist: `sandbox_client.py` and `stripe_client.py`; docs/payments.md says how to write
another. Every call may be repeated, in any order, by any process: the adapter sees to it that the
provider does it once. Without an answer the outcome is unknown: the call raises Unavailable, and is
made again later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import msgspec

from seckill.currencies import DEFAULT_CURRENCY
from seckill.errors import Permanent


class ChargeStatus(StrEnum):
    """The provider's status of a charge."""

    #: The money is held for us.
    AUTHORISED = "authorised"
    #: The money is ours.
    CAPTURED = "captured"
    DECLINED = "declined"
    #: The bank has not decided yet.
    PENDING = "pending"
    #: The bank waits for the buyer, who has to go to `redirect_url` (3-D Secure).
    REQUIRES_ACTION = "requires_action"
    #: Released or refunded; this key is never charged again.
    VOIDED = "voided"
    #: The provider does not know the key, or holds no money for it and never will by itself.
    UNKNOWN = "unknown"


class Charge(msgspec.Struct):
    """A charge as the provider has it."""

    status: ChargeStatus
    key: str = ""
    #: None from a provider that does not say.
    amount_cents: int | None = None
    sale_id: str = ""
    order_id: str = ""
    #: The provider's own id of it.
    ref: str = ""
    redirect_url: str = ""
    #: Why the bank declined, in the provider's words.
    decline_code: str = ""
    #: What of a captured charge went back already.
    refunded_cents: int = 0

    @property
    def has_money(self) -> bool:
        """Return whether the buyer's money is held or taken."""
        return self.status in (ChargeStatus.AUTHORISED, ChargeStatus.CAPTURED)

    @property
    def is_over(self) -> bool:
        """Return whether no money of it is or ever will be ours."""
        return self.status in (ChargeStatus.DECLINED, ChargeStatus.VOIDED)


@dataclass(frozen=True, slots=True)
class ChargeRequest:
    """A charge as we want it. The same key always comes with the same values, but for `ref`."""

    #: Our idempotency key, the payment's tx_id: a key is charged once.
    key: str
    cents: int = 0
    currency: str = DEFAULT_CURRENCY
    sale_id: str = ""
    order_id: str = ""
    #: The provider's name for the buyer's card, from the provider's own script in the browser.
    token: str = ""
    #: Where the buyer comes back to from the bank.
    return_url: str = ""
    #: The provider's own id, once it is known.
    ref: str = ""


class RefundStatus(StrEnum):
    """What became of a part that was to go back."""

    DONE = "done"
    #: The charge is not captured yet; a hold has no parts.
    NOT_YET = "not_yet"
    #: The provider will not do it.
    REFUSED = "refused"


class Provider(Protocol):
    """Calls to a card provider; each raises Unavailable if its outcome is unknown."""

    async def authorise(self, wanted: ChargeRequest) -> Charge:
        """Hold the money; a key that was sent before is not charged again.

        A charge of another amount under this key is voided. It is of an attempt that a restored
        PostgreSQL has forgotten, with another coupon.
        """

    async def find(self, wanted: ChargeRequest) -> Charge:
        """Return a charge as it is now."""

    async def charges_of(self, sale_id: str) -> list[Charge] | None:
        """Return all charges of a sale; None if the provider has no such list."""

    async def capture(self, wanted: ChargeRequest) -> Charge:
        """Take the held money."""

    async def void(self, wanted: ChargeRequest) -> Charge:
        """Release what is held, refund what was taken, and never charge the key again.

        This works for an unknown key, too: a call under way may still bring it.
        """

    async def refund(self, wanted: ChargeRequest, refund_id: str, cents: int) -> RefundStatus:
        """Give a part of the captured money back, once for each `refund_id`."""


class BadSignature(Permanent):
    """The signature of a webhook is missing, wrong or too old."""


class BadWebhook(Permanent):
    """The body of a webhook is signed, and is none that we can read."""


class WebhookReader(Protocol):
    """Reads the webhooks of a provider."""

    def __call__(self, headers: Mapping[str, str], body: bytes, *, now_s: float) -> str | None:
        """Return the key of the charge that a webhook is about; None if it is about none of ours.

        Raise BadSignature or BadWebhook. `now_s` is our clock, for the age of the signature. The
        time of the event itself is not looked at: the provider is asked, and its answer counts.
        """
