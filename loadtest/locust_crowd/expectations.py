"""Which answers of the gateway a buyer may get, and when an answer is untrue.

Imported by the locust process, so it needs nothing but the standard library, and of
`seckill_client` the parts without I/O: that client's connections are aiohttp's, whose loop cannot
run beside gevent's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from seckill_client.answers import json_object, retry_after_s, unix_s

#: How long a buyer waits where the answer gives no time.
COME_BACK_S = 1.0
#: States of an order that holds its units. None of them comes after one that does not: an order
#: seen in one of them has held its units since it was placed.
STANDING = frozenset({"queued", "pending", "paying", "paid"})
#: States that a paid order may have.
PAID_STATES = frozenset({"paid", "refunding", "refunded"})

NO_ANSWER = "no answer"
#: After this the grab may have won all the same.
UNSURE = frozenset({"503 unavailable", NO_ANSWER})
#: After this a buyer comes back.
AGAIN = UNSURE | {"409 queued", "429 rate_limited", "503 paused", "503 overloaded"}
#: What no buyer may get who holds an order that stands.
NOES = frozenset({"409 sold_out", "403 not_open", "410 closed"})


class Call(StrEnum):
    """What buyers ask."""

    SALE = "see the sale"
    TICKET = "get a ticket"
    GRAB = "grab"
    FORGED = "grab by a bad ticket"
    ORDER = "see the order"
    MINE = "see if there is an order"
    PAY = "pay"

    @property
    def method(self) -> str:
        """The method of HTTP."""
        return "GET" if self in (Call.SALE, Call.ORDER, Call.MINE) else "POST"


#: Call -> status and code of the answers that a buyer may get while nothing is broken.
EXPECTED = {
    Call.SALE: {"200"},
    Call.TICKET: {"201", "403 too_early"},
    Call.GRAB: {"202", "200", "429 rate_limited", "503 paused"} | NOES,
    Call.FORGED: {"401 bad_ticket"},
    Call.ORDER: {"200"},
    Call.MINE: {"200", "404 not_found"},
    Call.PAY: {
        *("200", "202", "402 insufficient_funds", "409 queued", "409 payment_in_progress"),
        *("409 not_payable", "410 expired", "429 rate_limited"),
    },
}
ANYWHERE = {"503 overloaded", "503 unavailable"}


@dataclass(frozen=True, slots=True)
class Received:
    """The answer to a call. Status 0: none came, and what became of the request is unknown."""

    call: Call
    status: int
    body: Mapping[str, Any] = field(default_factory=dict)
    retry_after_s: float | None = None

    @classmethod
    def read(cls, call: Call, status: int, text: str | None, retry_after: str | None) -> Received:
        """Read what a client has received; a body that is no JSON object is an empty one."""
        return cls(call, status, json_object(text), retry_after_s(retry_after))

    @property
    def name(self) -> str:
        """Status and code: `202`, `409 sold_out`, or `no answer`."""
        return f"{self.status} {self.body.get('code', '')}".rstrip() if self.status else NO_ANSWER

    @property
    def failed(self) -> bool:
        """Whether no buyer should get this answer."""
        # The contract has a Retry-After wherever a buyer is to come back.
        incomplete = self.name in AGAIN and self.retry_after_s is None
        return incomplete or self.name not in EXPECTED[self.call] | ANYWHERE

    @property
    def again(self) -> bool:
        """Whether the buyer comes back."""
        return self.name == NO_ANSWER or (self.name in AGAIN and not self.failed)

    @property
    def order_id(self) -> str:
        """The order that it names, or ""."""
        return str(self.body.get("order_id", ""))

    @property
    def order_status(self) -> str:
        """The status of the order that it shows, or ""."""
        return str(self.body.get("status", "")) if self.status in (200, 202) else ""

    @property
    def come_back_s(self) -> float:
        """When to come back: after Retry-After, or after a moment."""
        return COME_BACK_S if self.retry_after_s is None else self.retry_after_s

    @property
    def next_poll_s(self) -> float:
        """When to look at the order again: after next_poll_ms, or after a moment."""
        return float(self.body.get("next_poll_ms", 1000 * COME_BACK_S)) / 1000


class PromisedOrder:
    """The last order that a grab returned: the buyer's until it is seen to have ended."""

    def __init__(self) -> None:
        self.order_id = ""
        #: A grab got no answer, or one without its outcome.
        self.unsure = False

    def doubt(self, answer: Received) -> str:
        """Name what is untrue in the answer to a grab if the order still stands; "" if nothing is.

        Look whether it stands after that answer: an order that has ended never stands again.
        """
        if answer.name in NOES and (self.order_id or self.unsure):
            return f"{answer.name} while holding an order"
        if self.order_id and answer.order_id not in ("", self.order_id):
            return "another order while holding one"
        return ""

    def note(self, answer: Received) -> None:
        """Note the answer to a grab."""
        if answer.status in (200, 202):
            self.order_id, self.unsure = answer.order_id, False
        elif answer.name in UNSURE:
            self.unsure = True

    def forget(self) -> None:
        """Note that no order stands."""
        self.order_id, self.unsure = "", False


def untrue_payment(answer: Received, order: Received, *, pay_by: str, now_s: float) -> str:
    """Name what is untrue in the last answer to a payment, by the order as seen after it."""
    status = order.order_status
    if answer.status == 200:
        untrue = order.status == 200 and status not in PAID_STATES
    else:  # too late, or the order has ended
        in_time = bool(pay_by) and now_s < unix_s(pay_by)
        untrue = status == "paid" or (status in STANDING and in_time)
    return f"{answer.name} although the order is {status}" if untrue else ""
