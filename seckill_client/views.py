"""What the gateway says of sales, tickets and orders. Money is in the currency's smallest unit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, Self, TypeVar

from seckill_client.answers import NO_ANSWER, ServerAnswer
from seckill_client.errors import OutcomeUnknown

#: States that an order never leaves.
FINAL = frozenset({"cancelled", "rejected", "refunded"})


class ReadFromBody(Protocol):
    """Something that an answer's body says."""

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Read it; raise KeyError, TypeError or ValueError if the body is of another shape."""


V = TypeVar("V", bound=ReadFromBody)


@dataclass(frozen=True, slots=True)
class SaleInfo:
    """A sale. `remaining` may lag a second; None while it is not known."""

    sale_id: str
    state: str
    #: What the shop calls it; None where it has no name.
    name: str | None
    #: In the smallest unit of the currency, of which `currency_digits` are behind the point.
    price_cents: int
    #: By ISO 4217.
    currency: str
    currency_digits: int
    per_order_max: int
    opens_at: datetime | None
    closes_at: datetime | None
    #: From when tickets are handed out; None where the gateway does not say.
    tickets_from: datetime | None
    payment_window_s: int
    #: Above 0: a ticket needs a proof of work. `BuyerClient.get_ticket` does it.
    proof_bits: int
    server_time: datetime
    sold_out: bool
    remaining: int | None
    #: The whole answer, with what is newer than this client.
    body: Mapping[str, Any]

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Read a sale."""
        return cls(
            sale_id=body["sale_id"],
            state=body["state"],
            name=body["name"],
            price_cents=body["price_cents"],
            currency=body["currency"],
            currency_digits=body["currency_digits"],
            per_order_max=body["per_order_max"],
            opens_at=_moment(body.get("opens_at")),
            closes_at=_moment(body.get("closes_at")),
            tickets_from=_moment(body.get("tickets_from")),
            payment_window_s=body["payment_window_s"],
            proof_bits=body["proof_bits"],
            server_time=datetime.fromisoformat(body["server_time"]),
            sold_out=body["sold_out"],
            remaining=body.get("remaining"),
            body=body,
        )


@dataclass(frozen=True, slots=True)
class SalePage:
    """Some sales, and the cursor of the next page; "" on the last."""

    sales: list[SaleInfo]
    next: str

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Read a page."""
        return cls([SaleInfo.read(sale) for sale in body["sales"]], body.get("next") or "")


@dataclass(frozen=True, slots=True)
class HeldTicket:
    """A ticket for one buyer and one sale."""

    ticket: str
    expires_at: datetime
    #: When it was made: unlike a sale's, this time is exact.
    server_time: datetime

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Read a ticket."""
        times = (datetime.fromisoformat(body[name]) for name in ("expires_at", "server_time"))
        return cls(body["ticket"], *times)


@dataclass(frozen=True, slots=True)
class ProofChallenge:
    """A proof of work to do."""

    challenge: str
    bits: int

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Read a challenge."""
        return cls(body["challenge"], body["bits"])


@dataclass(frozen=True, slots=True)
class GrabbedOrder:
    """The order that a grab has won, now or before."""

    order_id: str
    #: "queued" if this grab won it; "yours" if the buyer had it already, by an earlier try of this
    #: very call, too.
    status: str

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Read the answer to a grab."""
        return cls(body["order_id"], body["status"])


@dataclass(frozen=True, slots=True)
class OrderInfo:
    """An order as its buyer sees it; docs/http-api.md has its states."""

    order_id: str
    sale_id: str
    status: str
    quantity: int
    #: The price without a coupon.
    amount_cents: int
    currency: str
    #: Why it ended.
    reason: str | None
    #: Until when it can be paid; None where it cannot be.
    pay_by: datetime | None
    #: When to look again; None while it changes by its buyer only.
    next_poll_ms: int | None
    #: The whole answer, with what is newer than this client.
    body: Mapping[str, Any]

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """Read an order."""
        return cls(
            order_id=body["order_id"],
            sale_id=body["sale_id"],
            status=body["status"],
            quantity=body["quantity"],
            amount_cents=body["amount_cents"],
            currency=body["currency"],
            reason=body.get("reason"),
            pay_by=_moment(body.get("pay_by")),
            next_poll_ms=body.get("next_poll_ms"),
            body=body,
        )

    @property
    def action_url(self) -> str | None:
        """Where the buyer has to go before the bank decides (3-D Secure); None where no one has."""
        action = self.body.get("action")
        return action.get("url") if isinstance(action, dict) else None

    @property
    def is_final(self) -> bool:
        """Whether it stays as it is for ever."""
        return self.status in FINAL


def read_view(kind: type[V], call: str, answer: ServerAnswer) -> V:
    """Return what an answer says; raise OutcomeUnknown if no gateway answers so."""
    try:
        return kind.read(answer.body)
    except (KeyError, TypeError, ValueError) as error:
        strange = ServerAnswer(answer.status, {"code": NO_ANSWER}, None, answer.request_id)
        raise OutcomeUnknown(call, strange, f"not an answer of a gateway: {error!r}") from error


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
