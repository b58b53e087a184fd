"""Somebody at a flash sale, for locust: who asks, and holds each answer against those before it.

People know of the gateway what everybody knows: its HTTP contract. That they can log in, they owe
to the key of the shop.

A person's life is a generator that yields the seconds until his next step. So locust, which lets
people go while they wait, never cuts off a request of which nobody would hear the outcome.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Generator
from functools import cache

from locust import FastHttpUser, task
from locust.env import Environment

from loadtest.locust_crowd.expectations import (
    FAILURES,
    STANDING,
    AnswerClass,
    Call,
    PromisedOrder,
    Received,
    SaleInfo,
    outcome_of,
)
from seckill.auth import login_tokens
from seckill.auth.key_ring import KeyRing

log = logging.getLogger("crowd")

#: The gateway answers within two seconds; who hears nothing for so long is told nothing.
ANSWER_S = 10.0
#: A login outlives any run.
LOGIN_S = 3600
#: Who has left waits until locust lets him go.
GONE_S = 3600.0

Steps = Generator[float, None, None]
#: Names what is untrue in an answer, or "".
Check = Callable[[AnswerClass, Received], str]

_numbers = itertools.count()


@cache
def key_ring(text: str) -> KeyRing:
    """Read the keys of the shop's logins; UserMistake says what is wrong with them."""
    return KeyRing.parse(text, setting="SECKILL_JWT_KEYS")


class Person(FastHttpUser):
    """Somebody who is logged in, with a story to live."""

    abstract = True
    #: Lives, yielding the seconds until each next step; every kind of person has its own.
    story: Callable[[], Steps]
    network_timeout = connection_timeout = ANSWER_S

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self.options = environment.parsed_options
        self.number = next(_numbers)
        self.buyer_id = f"{self.options.buyers}-{environment.runner.worker_index}-{self.number}"
        expires_at_s = int(time.time()) + LOGIN_S
        token = login_tokens.issue(
            key_ring(self.options.jwt_keys), buyer_id=self.buyer_id, expires_at_s=expires_at_s
        )
        self.login = {"Authorization": f"Bearer {token}"}
        self.ticket: dict[str, str] = {}
        self.path = f"/v1/sales/{self.options.sale}"
        self.promise = PromisedOrder()
        self._server_ahead_s = 0.0
        self._pay_by = ""
        self._story = self.story()
        self._rest_s = 0.0

    @task
    def go_on(self) -> None:
        """Take the next step."""
        self._rest_s = next(self._story, GONE_S)

    def wait_time(self) -> float:
        """Return the seconds until the next step."""
        return self._rest_s

    def server_now_s(self) -> float:
        """Return the server's time, as the sale's page has told it."""
        return time.time() + self._server_ahead_s

    def ask(
        self,
        call: Call,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        body: dict[str, object] | None = None,
        untrue: Check = lambda _outcome, _answer: "",
    ) -> tuple[AnswerClass, Received]:
        """Ask once; what nobody should be told, and what is untrue, is a failure of the run."""
        with self.client.request(
            method, path, name=call, headers=headers, json=body, catch_response=True
        ) as response:
            told = response.headers or {}
            answer = Received.read(response.status_code, response.text, told.get("Retry-After"))
            outcome = outcome_of(call, answer)
            response.request_meta["name"] = f"{call}: {outcome}"
            wrong = answer.describe() if outcome in FAILURES else untrue(outcome, answer)
            if outcome is AnswerClass.NO_ANSWER:
                wrong += f" ({type(response.error).__name__})"
            if wrong:
                log.error("%s, order %s, %s: %s", self.buyer_id, self.promise.order_id, call, wrong)
                response.failure(wrong)
            else:
                response.success()
        return outcome, answer

    def look(self) -> tuple[AnswerClass, Received]:
        """Look at the sale's page."""
        sent_s = time.time()
        outcome, answer = self.ask(Call.SALE, "GET", self.path)
        if outcome is AnswerClass.OK:
            half_way_s = (sent_s + time.time()) / 2
            self._server_ahead_s = SaleInfo.of(answer).server_time_s - half_way_s
        return outcome, answer

    def ask_for_ticket(self) -> tuple[AnswerClass, Received]:
        """Ask for a ticket."""
        outcome, answer = self.ask(Call.TICKET, "POST", f"{self.path}/tickets", headers=self.login)
        if outcome is AnswerClass.OK:
            self.ticket = {"Seckill-Ticket": answer.body["ticket"]}
        return outcome, answer

    def press(self) -> tuple[AnswerClass, Received]:
        """Press the button, and hold the answer against what was promised before."""
        outcome, answer = self.ask(
            Call.GRAB,
            "POST",
            f"{self.path}/grabs",
            headers=self.ticket,
            body={"quantity": 1},
            untrue=self._untrue_grab,
        )
        self.promise.hear(outcome, answer.order_id)
        return outcome, answer

    def see_order(
        self, untrue: Check = lambda _outcome, _answer: ""
    ) -> tuple[AnswerClass, Received]:
        """Look at the order; that it is not there is a failure, for it was promised."""
        path = f"/v1/orders/{self.promise.order_id}"
        return self.ask(Call.ORDER, "GET", path, headers=self.ticket, untrue=untrue)

    def _untrue_grab(self, outcome: AnswerClass, answer: Received) -> str:
        doubt = self.promise.doubt(outcome, answer.order_id)
        if not doubt:
            return ""
        if self.promise.order_id:
            seen, order = self.see_order()
        else:  # a grab without an answer may have won
            seen, order = self.ask(
                Call.MINE, "GET", f"{self.path}/orders/mine", headers=self.ticket
            )
        if order.order_status in STANDING:
            return f"{doubt} ({order.order_status})"
        if seen in (AnswerClass.OK, AnswerClass.NONE):
            self.promise.forget()
        return ""
