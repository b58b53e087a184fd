"""Card payments in PostgreSQL: the functions of sql/0006_card_payments.sql, batch by batch."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

import asyncpg

from seckill import audit
from seckill.adapters.postgres import database_errors_as_unavailable, transaction
from seckill.payments.payment import CARD, Payment, tx_id_of
from seckill.payments.provider import Charge, ChargeRequest
from seckill.spans import TraceContext
from seckill.tracing import order_traces
from seckill.transactions.states import BranchCall

#: Attempts looked up at once: a buyer whose card is declined gives up before.
ATTEMPTS_READ = 16

#: Called in the transaction in which payments become paid.
OnPaid = Callable[[asyncpg.Connection, Sequence[BranchCall]], Awaitable[object]]


class StartedCardPayment(NamedTuple):
    """A payment that may be charged, or the word for why not."""

    why: str | None
    cents: int
    #: When the poller takes over, unless the payment is put off or settled before.
    asks_at: datetime | None


class DueCardPayment(NamedTuple):
    """A payment to ask the provider about."""

    tx_id: str
    cents: int
    #: Nothing may be charged for it any more: it must be voided.
    ending: bool
    #: Seconds until its time is over; then it is given up, unless the money is there already.
    left_s: float
    asks: int
    asks_at: datetime
    sale_id: str
    order_id: str
    currency: str
    token: str = ""
    return_url: str = ""
    ref: str = ""

    @property
    def charge(self) -> ChargeRequest:
        """Return the charge that the provider is asked for."""
        return ChargeRequest(
            self.tx_id,
            self.cents,
            self.currency,
            self.sale_id,
            self.order_id,
            self.token,
            self.return_url,
            self.ref,
        )


class PostponedCardPayment(NamedTuple):
    """A payment without an outcome: what the provider said, if anything, and when to ask again."""

    tx_id: str
    asks_at: datetime
    said: Charge | None
    wait_s: float


class OpenCardPayment(NamedTuple):
    """A payment without an outcome, for an operator."""

    tx_id: str
    order_id: str
    state: str
    cents: int
    age_s: float
    asks: int
    said: str | None
    currency: str


class UnknownCardPayments(NamedTuple):
    """The number of payments without an outcome, and the age of the oldest in seconds."""

    payments: int
    oldest_s: float


class CardPaymentStore:
    """Card payments in PostgreSQL, for every process that asks the provider."""

    def __init__(self, db: asyncpg.Pool, *, on_paid: OnPaid | None = None) -> None:
        self._db = db
        self._on_paid = on_paid

    async def next_tx_id(self, order_id: str) -> str:
        """Return the tx_id of an order's next attempt: the first number without a payment.

        A PostgreSQL that was restored from a backup gives a number again that it had given before.
        The provider knows a charge of that key, and makes no second one.
        """
        start = 0
        while True:
            names = [tx_id_of(order_id, number) for number in range(start, start + ATTEMPTS_READ)]
            with database_errors_as_unavailable():
                rows = await self._db.fetch(
                    "SELECT tx_id FROM payments WHERE tx_id = ANY ($1)", names
                )
            taken = {row[0] for row in rows}
            if free := next((name for name in names if name not in taken), None):
                return free
            start += ATTEMPTS_READ

    async def traces_of(self, due: Iterable[DueCardPayment]) -> dict[str, TraceContext]:
        """Return the contexts of payments whose orders are traced, by order_id."""
        return await order_traces.find(self._db, [payment.order_id for payment in due])

    async def begin(
        self, payments: Sequence[tuple[str, Payment]], *, lease_s: float
    ) -> list[StartedCardPayment]:
        """Begin payments (tx_id, payment); return the result of each, in their order."""
        async with transaction(self._db) as connection:
            rows = await connection.fetch(
                "SELECT why, cents, asks_at FROM begin_card_payments($1, $2, $3, $4, $5)",
                [tx_id for tx_id, _ in payments],
                [payment.order_id for _, payment in payments],
                [payment.buyer_id for _, payment in payments],
                [payment.coupon_id for _, payment in payments],
                lease_s,
            )
            begun = [StartedCardPayment(*row) for row in rows]
            named = [
                (tx_id, payment.token or None, payment.return_url or None)
                for (tx_id, payment), started in zip(payments, begun, strict=True)
                if not started.why and (payment.token or payment.return_url)
            ]
            if named:
                await connection.execute(
                    "UPDATE payments p SET card_token = n.token, return_url = n.return_url"
                    "  FROM unnest($1::text[], $2::text[], $3::text[])"
                    "         AS n (tx_id, token, return_url)"
                    " WHERE p.tx_id = n.tx_id AND p.state = 'trying'",
                    *(list(column) for column in zip(*named, strict=True)),
                )
        return begun

    async def settle(self, charges: Mapping[str, Charge]) -> dict[str, str]:
        """Settle payments as the provider decided; return the state of each afterwards."""
        paid = [tx for tx, charge in charges.items() if charge.has_money]
        gone = [tx for tx, charge in charges.items() if charge.is_over]
        noted = [
            (tx, c.ref, c.decline_code) for tx, c in charges.items() if c.ref or c.decline_code
        ]
        with database_errors_as_unavailable():
            if noted:
                await self._db.execute(
                    "UPDATE payments p"
                    "   SET provider_ref = coalesce(nullif(n.ref, ''), provider_ref),"
                    "       decline_code = nullif(n.code, ''), redirect_url = NULL"
                    "  FROM unnest($1::text[], $2::text[], $3::text[]) AS n (tx_id, ref, code)"
                    " WHERE p.tx_id = n.tx_id",
                    *(list(column) for column in zip(*noted, strict=True)),
                )
            if paid:
                await self._confirm(paid)
            if gone:  # two transactions, so that each takes its locks in order
                await self._db.execute("SELECT cancel_card_payments($1)", gone)
                await self._db.execute("SELECT refund_card_payments($1)", gone)
            rows = await self._db.fetch(
                "SELECT tx_id, state FROM payments WHERE tx_id = ANY ($1)", list(charges)
            )
        return dict(rows)

    async def take_due(self, limit: int, *, lease_s: float, grace_s: float) -> list[DueCardPayment]:
        """Take payments that are due, for the length of a lease."""
        with database_errors_as_unavailable():
            rows = await self._db.fetch(
                "WITH due AS ("
                " SELECT tx_id FROM payments WHERE next_ask_at <= now()"
                "  ORDER BY next_ask_at LIMIT $1 FOR UPDATE SKIP LOCKED)"
                " UPDATE payments p SET asks = asks + 1, asked_at = now(),"
                "        next_ask_at = now() + make_interval(secs => $2)"
                "   FROM due, orders o, sales s"
                "  WHERE p.tx_id = due.tx_id AND o.order_id = p.order_id AND s.sale_id = p.sale_id"
                " RETURNING p.tx_id, p.amount_cents, p.voiding OR p.state <> 'trying',"
                "           extract(epoch FROM o.pay_by - now())::float8 + $3,"
                "           p.asks, p.next_ask_at, p.sale_id, p.order_id::text, s.currency,"
                "           coalesce(p.card_token, ''), coalesce(p.return_url, ''),"
                "           coalesce(p.provider_ref, '')",
                limit,
                lease_s,
                grace_s,
            )
        return [DueCardPayment(*row) for row in rows]

    async def put_off(self, unsettled: Sequence[PostponedCardPayment]) -> None:
        """Make payments due after a wait, unless another process has changed that meanwhile."""
        with database_errors_as_unavailable():
            await self._db.execute(
                "UPDATE payments p SET next_ask_at = now() + make_interval(secs => w.wait_s),"
                "       said = w.said, redirect_url = w.redirect_url,"
                "       provider_ref = coalesce(w.ref, provider_ref)"
                "  FROM unnest($1::text[], $2::timestamptz[], $3::float8[], $4::text[], $5::text[],"
                "              $6::text[]) AS w (tx_id, asks_at, wait_s, said, redirect_url, ref)"
                " WHERE p.tx_id = w.tx_id AND p.next_ask_at = w.asks_at",
                *map(list, zip(*map(_postponed, unsettled), strict=True)),
            )

    async def give_up(self, tx_ids: Collection[str]) -> None:
        """Decide that payments are not paid any more; they are due at once, to be voided."""
        with database_errors_as_unavailable():
            await self._db.execute("SELECT give_up_card_payments($1)", list(tx_ids))

    async def ask_now(self, tx_id: str) -> bool:
        """Make a payment due, if its outcome may change; return whether there is such a payment.

        Money may also have come for a payment that was cancelled.
        """
        with database_errors_as_unavailable():
            known = await self._db.fetchval(
                "WITH hinted AS ("
                " UPDATE payments SET next_ask_at = now()"
                "  WHERE tx_id = $1 AND method = $2 AND state IN ('trying', 'cancelled'))"
                " SELECT EXISTS (SELECT FROM payments WHERE tx_id = $1 AND method = $2)",
                tx_id,
                CARD,
            )
        return bool(known)

    async def ask_all_now(self, *, actor: str) -> None:
        """Make all open payments due; the audit trail has who asked for it."""
        async with transaction(self._db) as connection:
            done = await connection.execute(
                "UPDATE payments SET next_ask_at = now() WHERE next_ask_at > now()"
            )
            payments = int(done.split()[-1])
            await audit.record(
                connection,
                "cards.ask",
                actor=actor,
                reason="by hand",
                details={"payments": payments},
            )

    async def open_payments(self, limit: int) -> list[OpenCardPayment]:
        """Return the open payments, oldest first."""
        with database_errors_as_unavailable():
            rows = await self._db.fetch(
                "SELECT p.tx_id, p.order_id::text, p.state, p.amount_cents,"
                "       extract(epoch FROM now() - p.created_at)::float8, p.asks, p.said,"
                "       s.currency"
                "  FROM payments p JOIN sales s USING (sale_id)"
                " WHERE p.next_ask_at IS NOT NULL ORDER BY p.created_at LIMIT $1",
                limit,
            )
        return [OpenCardPayment(*row) for row in rows]

    async def unknown(self) -> UnknownCardPayments:
        """Count the payments without an outcome."""
        with database_errors_as_unavailable():
            row = await self._db.fetchrow(
                "SELECT count(*), coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8"
                "  FROM payments WHERE next_ask_at IS NOT NULL"
            )
        return UnknownCardPayments(*row)

    async def _confirm(self, tx_ids: Sequence[str]) -> None:
        async with transaction(self._db) as connection:
            rows = await connection.fetch(
                "SELECT tx_id, sale_id, order_id::text, buyer_id, method, coupon_id"
                "  FROM confirm_card_payments($1)",
                tx_ids,
            )
            if rows and self._on_paid:
                calls = [BranchCall(tx_id, Payment(*rest).args()) for tx_id, *rest in rows]
                await self._on_paid(connection, calls)

    async def charges(self, tx_ids: Sequence[str]) -> dict[str, ChargeRequest]:
        """Return the charges of card payments, as the provider is asked for them."""
        with database_errors_as_unavailable():
            rows = await self._db.fetch(
                "SELECT p.tx_id, p.amount_cents, s.currency, p.sale_id, p.order_id::text,"
                "       coalesce(p.card_token, ''), coalesce(p.return_url, ''),"
                "       coalesce(p.provider_ref, '')"
                "  FROM payments p JOIN sales s USING (sale_id)"
                " WHERE p.tx_id = ANY ($1) AND p.method = $2",
                tx_ids,
                CARD,
            )
        return {row[0]: ChargeRequest(*row) for row in rows}


def _postponed(
    payment: PostponedCardPayment,
) -> tuple[str, datetime, float, str | None, str | None, str | None]:
    said = payment.said
    return (
        payment.tx_id,
        payment.asks_at,
        payment.wait_s,
        said.status if said else None,
        (said and said.redirect_url) or None,
        (said and said.ref) or None,
    )
