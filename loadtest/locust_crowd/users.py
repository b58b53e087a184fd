"""The users of locust: honest buyers, and bots. Each answer is compared with those before it.

They use the gateway's public HTTP contract alone; the shop's key signs their logins. What a user
does is a generator that yields the seconds until the next step. So locust, which ends users while
they wait, never cuts off a request whose outcome would stay unknown.
"""

from __future__ import annotations

import itertools
import logging
import random
import time
from collections.abc import Callable, Generator
from functools import cache
from typing import Any

from locust import FastHttpUser, task
from locust.env import Environment

from loadtest.locust_crowd.expectations import (
    STANDING,
    Call,
    PromisedOrder,
    Received,
    untrue_payment,
)
from seckill.auth import login_tokens
from seckill.auth.key_ring import KeyRing
from seckill_client.answers import unix_s
from seckill_client.clock import SALE_STALE_S, ServerClock

#: The gateway answers within two seconds; after so long there is no answer.
ANSWER_S = 10.0
#: A login outlives any run, and a user who has left waits until locust ends it.
LOGIN_S = GONE_S = 3600
#: Shares of buyers: who grab again although they have an order; who come back when all is taken.
IMPATIENT_SHARE, HOPEFUL_SHARE = 0.3, 0.5
#: How often those come back, and how long a buyer takes to begin to pay.
LOOK_S, PAY_S = (1.0, 3.0), (0.2, 2.0)
#: Clocks differ, and a buyer who grabbed too early grabs again so soon.
NOT_YET_S = 0.1
#: Twice as often as the gateway lets one buyer grab; it bounds what bots cost the shared machine.
BOT_PAUSE_S = 0.05
#: One bot in so many makes up its tickets, or once in a while sends none.
FORGER_EVERY, NO_TICKET_SHARE = 3, 0.1

Steps = Generator[float, None, None]

log = logging.getLogger("crowd")
_numbers = itertools.count()
#: Not the generator that locust's workers, which are forks, would start with in the same state.
_chance = random.SystemRandom()


@cache
def key_ring(text: str) -> KeyRing:
    """Read the keys of the shop's logins; raise UserMistake if they are wrong."""
    return KeyRing.parse(text, setting="SECKILL_JWT_KEYS")


class GaveUp(Exception):
    """The buyer leaves without a unit."""


class ShopUser(FastHttpUser):
    """A user who is logged in."""

    abstract = True
    #: Yields the seconds until each next step.
    story: Callable[[], Steps]
    network_timeout = connection_timeout = ANSWER_S

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.options = environment.parsed_options
        self.number = next(_numbers)
        self.buyer_id = f"{self.options.buyers}-{environment.runner.worker_index}-{self.number}"
        ring, until = key_ring(self.options.jwt_keys), int(time.time()) + LOGIN_S
        token = login_tokens.issue(ring, buyer_id=self.buyer_id, expires_at_s=until)
        self.login = {"Authorization": f"Bearer {token}"}
        self.ticket: dict[str, str] = {}
        self.path = f"/v1/sales/{self.options.sale}"
        self.promise = PromisedOrder()
        self.asked_s = 0.0
        self.clock = ServerClock()
        self._steps = self.story()
        self._rest_s: float = 0

    @task
    def go_on(self) -> None:
        """Take the next step."""
        try:
            self._rest_s = next(self._steps, GONE_S)
        except GaveUp:
            self._rest_s = GONE_S

    def wait_time(self) -> float:
        """Return the seconds until the next step."""
        return self._rest_s

    def ask(
        self, call: Call, path: str, headers: dict[str, str] | None = None, **body: object
    ) -> Received:
        """Ask once; an answer that no buyer should get fails the run."""
        options = {"name": call, "headers": headers, "json": body or None, "catch_response": True}
        self.asked_s = time.monotonic()
        with self.client.request(call.method, path, **options) as response:
            retry_after = (response.headers or {}).get("Retry-After")
            answer = Received.read(call, response.status_code, response.text, retry_after)
            response.request_meta["name"] = f"{call}: {answer.name}"
            response.success()
        if answer.failed:
            self.fail(call, answer.name if answer.status else f"no answer ({response.error!r})")
        return answer

    def fail(self, call: Call, what: str) -> None:
        """Fail the run by an unexpected or untrue answer, if there is one."""
        if what:
            log.error("%s, order %s, %s: %s", self.buyer_id, self.promise.order_id, call, what)
            self.environment.stats.log_error("", call, what)

    def ask_for_ticket(self) -> Received:
        """Ask for a ticket."""
        answer = self.ask(Call.TICKET, f"{self.path}/tickets", self.login)
        if answer.status == 201:
            self.ticket = {"Seckill-Ticket": answer.body["ticket"]}
            server_s = unix_s(answer.body["server_time"])
            self.clock.note(self.asked_s, time.monotonic(), server_s)
        return answer

    def see_order(self) -> Received:
        """Look at the order; it was promised, so that its absence is a failure."""
        return self.ask(Call.ORDER, f"/v1/orders/{self.promise.order_id}", self.ticket)

    def grab(self, call: Call = Call.GRAB) -> Received:
        """Grab a unit, and compare the answer with what was promised before."""
        answer = self.ask(call, f"{self.path}/grabs", self.ticket, quantity=1)
        if doubt := self.promise.doubt(answer):
            if self.promise.order_id:
                order = self.see_order()
            else:  # a grab without an answer may have won
                order = self.ask(Call.MINE, f"{self.path}/orders/mine", self.ticket)
            if order.order_status in STANDING:
                self.fail(call, f"{doubt} ({order.order_status})")
            elif order.status in (200, 404):
                self.promise.forget()
        self.promise.note(answer)
        return answer


class Buyer(ShopUser):
    """Wants one unit, comes back after Retry-After, and pays for the unit (or not)."""

    weight = 20
    _pay_by = ""

    def story(self) -> Steps:
        """Get a ticket, grab when the sale opens, and pay for the order or not."""
        yield from self.get_ticket()
        yield from self.win()
        if _chance.random() < IMPATIENT_SHARE:
            self.grab()
        status = yield from self.watch("queued")
        if status != "pending" or _chance.random() >= self.options.pay_share:
            return
        yield _chance.uniform(*PAY_S)
        yield from self.pay()
        if _chance.random() < IMPATIENT_SHARE:
            self.grab()

    def insist(self, ask: Callable[[], Received]) -> Generator[float, None, Received]:
        """Ask, and come back as long as the answer asks for it."""
        while (answer := ask()).again:
            yield answer.come_back_s
        return answer

    def see_sale(self) -> Generator[float, None, dict[str, Any]]:
        """Return the sale's page, and the seconds until the opening."""
        answer = yield from self.insist(lambda: self.ask(Call.SALE, self.path))
        if answer.failed or answer.body["state"] == "closed":
            raise GaveUp
        server_s = unix_s(answer.body["server_time"])
        self.clock.note(self.asked_s, time.monotonic(), server_s, stale_s=SALE_STALE_S)
        opens_in_s = max(0.0, unix_s(answer.body["opens_at"]) - self.clock.now_s())
        return {"opens_in_s": opens_in_s, **answer.body}

    def get_ticket(self) -> Steps:
        """Get a ticket, when they are handed out: some time before the opening."""
        while not self.ticket:
            answer = yield from self.insist(self.ask_for_ticket)
            if answer.failed:
                raise GaveUp
            if answer.name == "403 too_early":
                sale = yield from self.see_sale()
                yield sale["opens_in_s"] / 2 + _chance.uniform(0.1, 1.0)

    def win(self) -> Steps:
        """Grab when the sale opens, and until there is an order."""
        hopeful = _chance.random() < HOPEFUL_SHARE
        while True:
            sale = yield from self.see_sale()
            yield sale["opens_in_s"]
            if sale["state"] == "created":  # the shop opens it by hand
                yield _chance.uniform(*LOOK_S)
                continue
            answer = yield from self.insist(self.grab)
            if answer.status in (200, 202):
                yield answer.next_poll_s
                return
            if answer.name == "403 not_open":
                yield NOT_YET_S
            elif answer.name == "409 sold_out" and hopeful:
                yield _chance.uniform(*LOOK_S)
            else:
                raise GaveUp

    def watch(self, *states: str) -> Generator[float, None, str]:
        """Look at the order until it has none of these states; return its state."""
        while (answer := (yield from self.insist(self.see_order))).order_status in states:
            yield answer.next_poll_s
        self._pay_by = str(answer.body.get("pay_by", ""))
        return answer.order_status

    def pay(self) -> Steps:
        """Pay from the wallet, until it is clear whether the order is paid."""
        while True:
            answer = yield from self.insist(self._pay_once)
            if answer.name not in ("202", "409 payment_in_progress"):
                return
            yield answer.next_poll_s
            if (yield from self.watch("queued", "paying")) != "pending":
                return

    def _pay_once(self) -> Received:
        path = f"/v1/orders/{self.promise.order_id}/payments"
        answer = self.ask(Call.PAY, path, self.login, method="wallet")
        now_s = self.clock.now_s()
        if answer.name in ("200", "410 expired", "409 not_payable"):
            order = self.see_order()
            self.fail(Call.PAY, untrue_payment(answer, order, pay_by=self._pay_by, now_s=now_s))
        return answer


class Bot(ShopUser):
    """Grabs as fast as it can, whatever the answers; some make up their tickets."""

    weight = 1

    def story(self) -> Steps:
        """Grab."""
        forger = self.number % FORGER_EVERY == 0
        while True:
            if forger:
                until, mac = int(time.time()) + LOGIN_S, f"{_chance.getrandbits(128):032x}"
                ticket = {"Seckill-Ticket": f"k1~{until}~{self.buyer_id}~{mac}"}
                self.ticket = ticket if _chance.random() >= NO_TICKET_SHARE else {}
                self.grab(Call.FORGED)
            elif self.ticket:
                self.grab()
            else:
                self.ask_for_ticket()
            yield BOT_PAUSE_S
