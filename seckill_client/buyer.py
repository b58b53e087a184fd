"""`BuyerClient`: what one buyer who is logged in can do: get a ticket, grab, watch, pay, cancel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from itertools import count

from seckill_client.answers import ServerAnswer
from seckill_client.clock import ServerClock
from seckill_client.errors import (
    ComeBackLater,
    OutcomeUnknown,
    RequestRefused,
    SeckillClientError,
)
from seckill_client.order_watch import OrderWatch
from seckill_client.proof_of_work import CHUNK, solve_from
from seckill_client.retries import wait_s
from seckill_client.transport import ApiCall, ApiTransport, part
from seckill_client.views import (
    GrabbedOrder,
    HeldTicket,
    OrderInfo,
    ProofChallenge,
    read_view,
)

#: A ticket that expires so soon is not worth a grab.
FRESH_S = 5.0
#: The longest wait for tickets that are not handed out yet: the shop may move the opening.
LOOK_S = 300.0
#: Proofs of work in a row whose answers were lost; then something else is wrong.
PROOFS_MAX = 3

#: Of a card payment that failed after its answer: the order is still there to be paid.
DECLINED = ServerAnswer(402, {"code": "declined", "detail": "the payment was not accepted"})


class BuyerClient:
    """A buyer's calls; `SeckillClient.buyer` makes one. `login` may be replaced by a newer token.

    Each call may raise SeckillClientError: `errors.py` says what to do next.
    """

    def __init__(
        self,
        transport: ApiTransport,
        login: str,
        clock: ServerClock,
    ) -> None:
        self.login = login
        self._transport = transport
        self._clock = clock
        self._tickets: dict[str, HeldTicket] = {}

    async def get_ticket(self, sale_id: str) -> HeldTicket:
        """Return the buyer's ticket for a sale; wait until tickets are handed out.

        They are from some minutes before the opening. A ticket that is held and still good is
        returned again. Where the sale asks for a proof of work, it is done in a thread.
        """
        held = self._tickets.get(sale_id)
        if held is None or held.expires_at.timestamp() - FRESH_S < self._clock.now_s():
            held = self._tickets[sale_id] = await self._new_ticket(sale_id)
        return held

    async def grab(self, sale_id: str, quantity: int = 1) -> GrabbedOrder:
        """Grab, and repeat it while the outcome is unknown: a ticket wins one order at most.

        Raise RequestRefused with the code `sold_out`, `too_few_left` or `closed` if nothing is to
        be had now. Units of unpaid orders come back, so `sold_out` may pass.
        """
        for is_last in (False, True):
            ticket = (await self.get_ticket(sale_id)).ticket
            headers, body = {"Seckill-Ticket": ticket}, {"quantity": quantity}
            call = ApiCall("POST", f"/v1/sales/{part(sale_id)}/grabs", headers, body)
            try:
                timed = await self._transport.insist(call)
                return read_view(GrabbedOrder, str(call), timed.answer)
            except RequestRefused as error:
                # The shop has new keys: a ticket that was good is not, and another one is.
                self._tickets.pop(sale_id, None)
                if is_last or error.code != "bad_ticket":
                    raise
        raise AssertionError("bug: the last try returns or raises")

    async def order(self, order_id: str) -> OrderInfo:
        """Return one of the buyer's orders."""
        return await self._order_of("GET", f"/v1/orders/{part(order_id)}")

    async def latest_order(self, sale_id: str) -> OrderInfo:
        """Return the buyer's latest order in a sale; `not_found` is refused."""
        return await self._order_of("GET", f"/v1/sales/{part(sale_id)}/orders/mine")

    def watch(self, order_id: str) -> AsyncGenerator[OrderInfo, None]:
        """Yield an order as it is, and then after each change, until it is final.

        It reads the order's stream, comes back when that breaks, and polls where there is none.
        """
        stream = ApiCall("GET", f"/v1/orders/{part(order_id)}/events", self._headers())
        return OrderWatch(self._transport, stream, partial(self.order, order_id)).changes()

    async def wait_until(self, order_id: str, *statuses: str) -> OrderInfo:
        """Watch an order until it has one of these statuses, or is final; return it then."""
        async with aclosing(self.watch(order_id)) as changes:
            async for order in changes:
                if order.status in statuses or order.is_final:
                    return order
        raise AssertionError("bug: a watch ends with a final order")

    async def pay(
        self,
        order_id: str,
        method: str = "wallet",
        *,
        coupon: str | None = None,
        payment_method: str | None = None,
        return_url: str | None = None,
    ) -> OrderInfo:
        """Pay an order by `wallet` or `card`; return it once the payment is decided.

        It is returned as `paying` where the bank asks for an action of the buyer: send them to
        `action_url`, from where they come back to `return_url`, and watch the order. It is `paying`
        also if nothing is decided within the client's patience. Paying a paid order takes nothing.

        Raise RequestRefused if nothing was taken: `declined`, `insufficient_funds`, `expired`, …
        `payment_method` is the provider's name for the buyer's card.
        """
        how = {"coupon": coupon, "payment_method": payment_method, "return_url": return_url}
        body = {"method": method} | {name: value for name, value in how.items() if value}
        call = ApiCall("POST", f"/v1/orders/{part(order_id)}/payments", self._headers(), body)
        deadline = time.monotonic() + self._transport.patience_s
        for tried in count(1):
            try:
                answer = (await self._transport.insist(call)).answer
                order = read_view(OrderInfo, str(call), answer)
            except RequestRefused as error:
                if error.code != "payment_in_progress":
                    raise
                order = await self.order(order_id)
            order = await self._decided(order, deadline)
            # Not paid after all, which its answer did not know yet.
            failed = order.status in ("pending", "cancelled", "rejected")
            if not failed or time.monotonic() >= deadline:
                return order
            if method == "card" and order.status == "pending":
                # The same call would say why, and might charge the card: the buyer decides that.
                raise RequestRefused(str(call), DECLINED)
            await asyncio.sleep(wait_s(tried, None))
        raise AssertionError("bug: numbers have ended")

    async def cancel(self, order_id: str) -> OrderInfo:
        """Cancel an order that is not paid; a second time changes nothing."""
        return await self._order_of("DELETE", f"/v1/orders/{part(order_id)}")

    async def _decided(self, order: OrderInfo, deadline: float) -> OrderInfo:
        """Poll an order until its payment is decided, or the buyer's turn, or time is up."""
        while order.status in ("queued", "paying") and not order.action_url:
            pause_s = (order.next_poll_ms or 1000) / 1000
            if time.monotonic() + pause_s > deadline:
                break
            await asyncio.sleep(pause_s)
            order = await self.order(order.order_id)
        return order

    async def _new_ticket(self, sale_id: str) -> HeldTicket:
        """Ask for a ticket until tickets are handed out, with a proof of work where one is due."""
        proof: dict[str, str] | None = None
        proofs = 0
        while True:
            path = f"/v1/sales/{part(sale_id)}/tickets"
            call = ApiCall("POST", path, self._headers(), proof)
            try:
                # A proof is good for one try. If its answer is lost, a new one is due.
                ask = self._transport.ask if proof else self._transport.insist
                timed = await ask(call)
                held = read_view(HeldTicket, str(call), timed.answer)
                self._clock.note(timed.sent_s, timed.received_s, held.server_time.timestamp())
                return held
            except SeckillClientError as error:
                if error.code == "too_early":
                    await asyncio.sleep(min(LOOK_S, wait_s(1, error.retry_after_s)))
                elif not _needs_proof(error, proof) or proofs == PROOFS_MAX:
                    raise
                else:
                    proofs += 1
                    proof = await self._prove(sale_id)

    async def _prove(self, sale_id: str) -> dict[str, str]:
        """Do the proof of work that the sale asks for; return what a ticket's request carries."""
        call = ApiCall("POST", f"/v1/sales/{part(sale_id)}/challenges", self._headers())
        answer = (await self._transport.insist(call)).answer
        asked = read_view(ProofChallenge, str(call), answer)
        for first in count(0, CHUNK):
            found = await asyncio.to_thread(solve_from, asked.challenge, asked.bits, first)
            if found is not None:
                return {"challenge": asked.challenge, "solution": found}
        raise AssertionError("bug: numbers have ended")

    async def _order_of(self, method: str, path: str) -> OrderInfo:
        call = ApiCall(method, path, self._headers())
        return read_view(OrderInfo, str(call), (await self._transport.insist(call)).answer)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.login}"}


def _needs_proof(error: SeckillClientError, proof: dict[str, str] | None) -> bool:
    """Return whether another proof of work may help: none was sent, or this one may be used."""
    if proof is None:
        return error.code == "proof_needed"
    return error.code in ("proof_used", "bad_proof") or isinstance(
        error, OutcomeUnknown | ComeBackLater
    )
