"""What people are told over HTTP: what it means to them, and whether it is true.

Imported by the locust process, so it needs nothing but the standard library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

#: How long a person waits who was told to come back, but not when.
COME_BACK_S = 1.0
_LEAD = re.compile(r"handed out ([0-9.]+) s before")


class Call(StrEnum):
    """What people do."""

    SALE = "see the sale"
    TICKET = "get a ticket"
    GRAB = "grab"
    FORGED = "grab by a bad ticket"
    ORDER = "see the order"
    MINE = "see if there is an order"
    PAY = "pay"


class AnswerClass(StrEnum):
    """What an answer means. With the call it names a line of locust's table."""

    OK = "ok"
    WON = "won"
    REPEAT = "repeat"
    SOLD_OUT = "sold out"
    NOT_OPEN = "not open"
    CLOSED = "closed"
    TOO_EARLY = "too early"
    REFUSED = "refused"
    NONE = "none"
    PAID = "paid"
    PAYING = "paying"
    NO_MONEY = "no money"
    TOO_LATE = "too late"
    ENDED = "ended"
    QUEUED = "queued"
    LIMITED = "limited"
    PAUSED = "paused"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    NO_ANSWER = "no answer"
    UNEXPECTED = "unexpected"


#: What makes a run fail: nobody should ever be told this while nothing is broken.
FAILURES = frozenset({AnswerClass.NO_ANSWER, AnswerClass.UNEXPECTED})
#: Whoever is told this comes back.
AGAIN = frozenset(
    {
        AnswerClass.QUEUED,
        AnswerClass.LIMITED,
        AnswerClass.PAUSED,
        AnswerClass.OVERLOADED,
        AnswerClass.UNAVAILABLE,
        AnswerClass.NO_ANSWER,
    }
)
#: After this the grab may have won all the same.
UNSURE = frozenset({AnswerClass.UNAVAILABLE, AnswerClass.NO_ANSWER})
#: What nobody may be told who holds an order that stands.
NOES = frozenset({AnswerClass.SOLD_OUT, AnswerClass.NOT_OPEN, AnswerClass.CLOSED})
#: States of an order that holds its units. None of them comes after one that does not: who sees one
#: of them knows that the order has held them since he was told of it.
STANDING = frozenset({"queued", "pending", "paying", "paid"})
#: States that a paid order may have.
PAID_STATES = frozenset({"paid", "refunding", "refunded"})

#: Call -> (status, code) -> outcome. What is missing here is unexpected.
_MEANING: dict[Call, dict[tuple[int, str], AnswerClass]] = {
    Call.SALE: {(200, ""): AnswerClass.OK},
    Call.TICKET: {(201, ""): AnswerClass.OK, (403, "too_early"): AnswerClass.TOO_EARLY},
    Call.GRAB: {
        (202, ""): AnswerClass.WON,
        (200, ""): AnswerClass.REPEAT,
        (409, "sold_out"): AnswerClass.SOLD_OUT,
        (403, "not_open"): AnswerClass.NOT_OPEN,
        (410, "closed"): AnswerClass.CLOSED,
        (429, "rate_limited"): AnswerClass.LIMITED,
        (503, "paused"): AnswerClass.PAUSED,
    },
    Call.FORGED: {(401, "bad_ticket"): AnswerClass.REFUSED},
    Call.ORDER: {(200, ""): AnswerClass.OK},
    Call.MINE: {(200, ""): AnswerClass.OK, (404, "not_found"): AnswerClass.NONE},
    Call.PAY: {
        (200, ""): AnswerClass.PAID,
        (202, ""): AnswerClass.PAYING,
        (402, "insufficient_funds"): AnswerClass.NO_MONEY,
        (409, "queued"): AnswerClass.QUEUED,
        (409, "payment_in_progress"): AnswerClass.PAYING,
        (409, "not_payable"): AnswerClass.ENDED,
        (410, "expired"): AnswerClass.TOO_LATE,
        (429, "rate_limited"): AnswerClass.LIMITED,
    },
}
_ANYWHERE = {
    (503, "overloaded"): AnswerClass.OVERLOADED,
    (503, "unavailable"): AnswerClass.UNAVAILABLE,
}


@dataclass(frozen=True, slots=True)
class Received:
    """An answer as it came. Status 0: none came, and what became of the request is unknown."""

    status: int
    body: Mapping[str, Any] = field(default_factory=dict)
    retry_after_s: float | None = None

    @classmethod
    def read(cls, status: int, text: str | None, retry_after: str | None = None) -> Received:
        """Read what a client has received; a body that is no JSON object is an empty one."""
        try:
            body = json.loads(text or "")
        except ValueError:
            body = None
        seconds = float(retry_after) if retry_after and retry_after.isdecimal() else None
        return cls(status, body if isinstance(body, dict) else {}, seconds)

    @property
    def code(self) -> str:
        """The code of a problem; "" when it is none."""
        return str(self.body.get("code", ""))

    @property
    def order_id(self) -> str:
        """The order that it tells of, or ""."""
        return str(self.body.get("order_id", ""))

    @property
    def order_status(self) -> str:
        """The status of the order that it shows, or ""."""
        return str(self.body.get("status", "")) if self.status in (200, 202) else ""

    @property
    def come_back_s(self) -> float:
        """When to come back: as told, or after a moment."""
        return COME_BACK_S if self.retry_after_s is None else self.retry_after_s

    @property
    def next_poll_s(self) -> float:
        """When to look at the order again: as told, or after a moment."""
        told_ms = self.body.get("next_poll_ms")
        return COME_BACK_S if told_ms is None else float(told_ms) / 1000

    def describe(self) -> str:
        """Name it for a message."""
        return f"{self.status} {self.code}".rstrip() if self.status else "no answer"


def outcome_of(call: Call, answer: Received) -> AnswerClass:
    """Tell what an answer means to the person who called."""
    if not answer.status:
        return AnswerClass.NO_ANSWER
    told = (answer.status, answer.code)
    outcome = _MEANING[call].get(told) or _ANYWHERE.get(told) or AnswerClass.UNEXPECTED
    # The contract has a Retry-After wherever somebody is sent away to come back.
    if outcome in AGAIN and answer.retry_after_s is None:
        return AnswerClass.UNEXPECTED
    return outcome


class PromisedOrder:
    """The order that a buyer was last told of: his until it is seen to have ended."""

    def __init__(self) -> None:
        self.order_id = ""
        #: A grab of his got no answer, or none that says what became of it.
        self.unsure = False

    def doubt(self, outcome: AnswerClass, order_id: str) -> str:
        """Name what is untrue in the answer to a grab if his order still stands; "" if nothing is.

        Whether it does is to be seen after that answer: an order that has ended never stands again.
        """
        if outcome in NOES and (self.order_id or self.unsure):
            return f"told {outcome} while holding an order"
        if self.order_id and order_id not in ("", self.order_id):
            return "told of another order while holding one"
        return ""

    def hear(self, outcome: AnswerClass, order_id: str) -> None:
        """Take note of the answer to a grab."""
        if outcome in (AnswerClass.WON, AnswerClass.REPEAT):
            self.order_id, self.unsure = order_id, False
        elif outcome in UNSURE:
            self.unsure = True

    def forget(self) -> None:
        """Take note that there is no order that stands."""
        self.order_id, self.unsure = "", False


def untrue_payment(outcome: AnswerClass, order: Received, *, pay_by: str, now_s: float) -> str:
    """Name what is untrue in the refusal of a payment, by the order as seen after it."""
    if outcome not in (AnswerClass.TOO_LATE, AnswerClass.ENDED):
        return ""
    in_time = bool(pay_by) and now_s < _unix_s(pay_by)
    if order.order_status == "paid" or (order.order_status in STANDING and in_time):
        return f"told {outcome} although the order is {order.order_status}"
    return ""


@dataclass(frozen=True, slots=True)
class SaleInfo:
    """What everybody may know of a sale. Times are Unix seconds."""

    state: str
    server_time_s: float
    opens_at_s: float = 0.0
    sold_out: bool = False
    proof_bits: int = 0

    @classmethod
    def of(cls, answer: Received) -> SaleInfo:
        """Read the answer of `GET /v1/sales/{sale_id}`."""
        body = answer.body
        return cls(
            state=str(body["state"]),
            server_time_s=_unix_s(body["server_time"]),
            opens_at_s=_unix_s(body["opens_at"]) if body["opens_at"] else 0.0,
            sold_out=bool(body["sold_out"]),
            proof_bits=int(body["proof_bits"]),
        )


def tickets_from_s(sale: SaleInfo, refusal: Received) -> float:
    """Return when a sale's tickets are handed out, as the refusal `too_early` says it.

    Where it says nothing, that is halfway from now to the opening.
    """
    said = _LEAD.search(str(refusal.body.get("detail", "")))
    if said is None:
        return (sale.server_time_s + sale.opens_at_s) / 2
    return sale.opens_at_s - float(said[1])


def _unix_s(moment: str) -> float:
    return datetime.fromisoformat(moment).astimezone(UTC).timestamp()
