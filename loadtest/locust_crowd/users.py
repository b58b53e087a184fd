"""The people of a flash sale, for locust: honest buyers, and bots."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Generator

from loadtest.locust_crowd.expectations import (
    AGAIN,
    PAID_STATES,
    AnswerClass,
    Call,
    Received,
    SaleInfo,
    tickets_from_s,
    untrue_payment,
)
from loadtest.locust_crowd.user import LOGIN_S, Person, Steps

#: Shares of buyers: who press once more although they have an order, and who wait for units to come
#: back when all are taken.
IMPATIENT_SHARE, HOPEFUL_SHARE = 0.3, 0.5
#: How often those look, and how long a buyer takes to find his wallet.
LOOK_S, PAY_S = (1.0, 3.0), (0.2, 2.0)
#: Clocks differ, and who pressed too early presses again so soon.
NOT_YET_S = 0.1
#: Twice as often as the gateway lets one buyer press; and a bound on what bots cost the machine
#: that they share with what they attack.
BOT_PAUSE_S = 0.05
#: One bot in so many makes up its tickets, or once in a while does without.
FORGER_EVERY, NO_TICKET_SHARE = 3, 0.1

#: Not the generator that locust's workers, which are forks, would start with in the same state.
_dice = random.SystemRandom()


class Buyer(Person):
    """Wants one unit, does as told, and pays for it (or not)."""

    weight = 20

    def story(self) -> Steps:
        """Get a ticket, be there when it opens, get a unit or not, and pay for it or not."""
        sale = yield from self.see_sale()
        if not (sale and (yield from self.get_ticket(sale))):
            return
        if not (yield from self.win(sale)):
            return
        if _dice.random() < IMPATIENT_SHARE:
            self.press()
        status = yield from self.watch("queued")
        if status != "pending" or _dice.random() >= self.options.pay_share:
            return
        yield _dice.uniform(*PAY_S)
        yield from self.pay()
        if _dice.random() < IMPATIENT_SHARE:
            self.press()

    def insist(
        self, ask: Callable[[], tuple[AnswerClass, Received]]
    ) -> Generator[float, None, tuple[AnswerClass, Received]]:
        """Ask, and come back when told, until there is another answer than that."""
        while True:
            outcome, answer = ask()
            if outcome not in AGAIN:
                return outcome, answer
            yield answer.come_back_s

    def see_sale(self) -> Generator[float, None, SaleInfo | None]:
        """Return what the sale's page says; None when there is no such page."""
        outcome, answer = yield from self.insist(self.look)
        return SaleInfo.of(answer) if outcome is AnswerClass.OK else None

    def get_ticket(self, sale: SaleInfo) -> Generator[float, None, bool]:
        """Get a ticket, when they are handed out; tell whether there is one."""
        while True:
            outcome, answer = yield from self.insist(self.ask_for_ticket)
            if outcome is not AnswerClass.TOO_EARLY:
                return outcome is AnswerClass.OK
            from_s = tickets_from_s(sale, answer) - self.server_now_s()
            yield max(from_s, 0.0) + _dice.uniform(0.1, 1.0)

    def win(self, sale: SaleInfo) -> Generator[float, None, bool]:
        """Press when the sale opens, and until it is clear; tell whether there is an order."""
        hopeful = _dice.random() < HOPEFUL_SHARE
        if not (yield from self.wait_for_opening(sale)):
            return False
        while True:
            outcome, answer = yield from self.insist(self.press)
            if outcome in (AnswerClass.WON, AnswerClass.REPEAT):
                yield answer.next_poll_s
                return True
            if outcome is AnswerClass.NOT_OPEN:
                yield NOT_YET_S
                here = yield from self.wait_for_opening((yield from self.see_sale()))
            else:
                here = outcome is AnswerClass.SOLD_OUT and hopeful
                here = here and (yield from self.wait_for_units())
            if not here:
                return False

    def wait_for_opening(self, sale: SaleInfo | None) -> Generator[float, None, bool]:
        """Wait until the sale is open; tell whether it will ever be."""
        while sale and sale.state != "closed":
            opens_in_s = sale.opens_at_s - self.server_now_s()
            if opens_in_s > 0:
                yield opens_in_s
            if sale.state != "created":
                return True
            yield _dice.uniform(*LOOK_S)  # nobody knows when: the shop opens it by hand
            sale = yield from self.see_sale()
        return False

    def wait_for_units(self) -> Generator[float, None, bool]:
        """Wait until somebody's units are for sale again; tell whether they ever can be."""
        while True:
            yield _dice.uniform(*LOOK_S)
            sale = yield from self.see_sale()
            if sale is None or sale.state == "closed":
                return False
            if not sale.sold_out:
                return True

    def watch(self, *while_: str) -> Generator[float, None, str]:
        """Look at the order until it has none of these states; return its state."""
        while True:
            outcome, answer = yield from self.insist(self.see_order)
            if answer.order_status not in while_:
                self._pay_by = str(answer.body.get("pay_by", ""))
                return answer.order_status if outcome is AnswerClass.OK else ""
            yield answer.next_poll_s

    def pay(self) -> Steps:
        """Pay from the wallet, until it is clear whether it is paid."""
        while True:
            outcome, answer = yield from self.insist(self._pay_once)
            if outcome is AnswerClass.PAID:
                self.see_order(_untrue_after_payment)
            if outcome is not AnswerClass.PAYING:
                return
            yield answer.next_poll_s
            if (yield from self.watch("queued", "paying")) != "pending":
                return

    def _pay_once(self) -> tuple[AnswerClass, Received]:
        return self.ask(
            Call.PAY,
            "POST",
            f"/v1/orders/{self.promise.order_id}/payments",
            headers=self.login,
            body={"method": "wallet"},
            untrue=self._untrue_payment,
        )

    def _untrue_payment(self, outcome: AnswerClass, _: Received) -> str:
        if outcome not in (AnswerClass.TOO_LATE, AnswerClass.ENDED):
            return ""
        now_s = self.server_now_s()
        _, order = self.see_order()
        return untrue_payment(outcome, order, pay_by=self._pay_by, now_s=now_s)


class Bot(Person):
    """Presses as fast as it can, whatever it is told; some make up their tickets."""

    weight = 1

    def story(self) -> Steps:
        """Press."""
        if self.number % FORGER_EVERY == 0:
            while True:
                self.ask(
                    Call.FORGED,
                    "POST",
                    f"{self.path}/grabs",
                    headers=self._forged(),
                    body={"quantity": 1},
                )
                yield BOT_PAUSE_S
        while not self.ticket:
            self.ask_for_ticket()
            yield BOT_PAUSE_S
        while True:
            self.press()
            yield BOT_PAUSE_S

    def _forged(self) -> dict[str, str]:
        """Make a ticket that looks right, or do without one."""
        mac = f"{_dice.getrandbits(128):032x}"
        ticket = f"k1~{int(time.time()) + LOGIN_S}~{self.buyer_id}~{mac}"
        return {"Seckill-Ticket": ticket} if _dice.random() >= NO_TICKET_SHARE else {}


def _untrue_after_payment(outcome: AnswerClass, order: Received) -> str:
    if outcome is not AnswerClass.OK or order.order_status in PAID_STATES:
        return ""
    return f"paid, and then shown as {order.order_status}"
