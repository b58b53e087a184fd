"""Which answers a buyer may get, and when an answer is untrue."""

from __future__ import annotations

import pytest

from gateway.http.problems import Problem
from loadtest.locust_crowd.expectations import (
    EXPECTED,
    NOES,
    Call,
    PromisedOrder,
    Received,
    untrue_payment,
)

NOON = "2026-11-27T12:00:00Z"
NOON_S = 1_795_780_800.0


def problem(call: Call, kind: Problem, retry_after_s: float | None = None) -> Received:
    seconds = kind.value.retry_after_s if retry_after_s is None else retry_after_s
    body = {"code": kind.code, "status": kind.value.status}
    return Received(call, kind.value.status, body, seconds)


def won(order_id: str, status: int = 202) -> Received:
    return Received(Call.GRAB, status, {"order_id": order_id, "status": "queued"})


def refused(kind: Problem) -> Received:
    return problem(Call.GRAB, kind)


def order(status: str) -> Received:
    return Received(Call.ORDER, 200, {"order_id": "o1", "status": status})


REFUSALS = [Problem.SOLD_OUT, Problem.NOT_OPEN, Problem.CLOSED]
COME_BACK = [Problem.RATE_LIMITED, Problem.PAUSED, Problem.OVERLOADED, Problem.UNAVAILABLE]


@pytest.mark.parametrize("kind", REFUSALS + COME_BACK)
def test_a_grab_may_be_refused_and_some_refusals_make_the_buyer_come_back(kind: Problem) -> None:
    answer = refused(kind)
    assert not answer.failed
    assert answer.again is (kind in COME_BACK)
    assert (answer.name in NOES) is (kind in REFUSALS)


def test_every_expected_problem_is_one_of_the_contract() -> None:
    contract = {f"{kind.value.status} {kind.code}" for kind in Problem}
    named = {name for names in EXPECTED.values() for name in names if " " in name}
    assert named <= contract


@pytest.mark.parametrize("call", Call)
@pytest.mark.parametrize(("status", "code"), [(500, "internal"), (502, ""), (204, ""), (400, "x")])
def test_what_no_buyer_should_get_is_a_failure(call: Call, status: int, code: str) -> None:
    answer = Received(call, status, {"code": code})
    assert (answer.failed, answer.again) == (True, False)


@pytest.mark.parametrize("call", Call)
def test_no_answer_is_a_failure_that_makes_buyers_come_back(call: Call) -> None:
    answer = Received(call, 0)
    assert (answer.failed, answer.again) == (True, True)


def test_an_order_that_was_promised_and_is_not_there_is_a_failure() -> None:
    assert problem(Call.ORDER, Problem.NOT_FOUND).failed
    assert problem(Call.PAY, Problem.NOT_FOUND).failed
    assert not problem(Call.MINE, Problem.NOT_FOUND).failed


def test_a_bad_ticket_that_is_taken_is_a_failure_and_a_good_one_that_is_not() -> None:
    assert not problem(Call.FORGED, Problem.BAD_TICKET).failed
    assert Received(Call.FORGED, 202, {"order_id": "o1"}).failed
    assert refused(Problem.BAD_TICKET).failed


def test_an_answer_that_makes_buyers_come_back_says_when() -> None:
    assert problem(Call.GRAB, Problem.RATE_LIMITED, 7).come_back_s == 7
    assert Received(Call.GRAB, 429, {"code": "rate_limited"}).failed


@pytest.mark.parametrize("text", [None, "", "[]", "null", "<html>", '{"code": "sold_out"'])
def test_a_body_that_is_no_json_object_is_an_empty_one(text: str | None) -> None:
    answer = Received.read(Call.GRAB, 409, text, None)
    assert (answer.body, answer.name) == ({}, "409")
    assert answer.failed


def test_an_answer_is_read_as_it_came() -> None:
    text = '{"order_id": "o1", "status": "queued", "next_poll_ms": 1500}'
    answer = Received.read(Call.GRAB, 202, text, "3")
    assert (answer.order_id, answer.order_status) == ("o1", "queued")
    assert (answer.next_poll_s, answer.come_back_s) == (1.5, 3.0)
    date = "Fri, 27 Nov 2026 12:00:00 GMT"
    assert Received.read(Call.GRAB, 503, "{}", date).retry_after_s is None


@pytest.mark.parametrize("kind", REFUSALS)
def test_a_holder_of_an_order_may_not_be_refused(kind: Problem) -> None:
    promise, refusal = PromisedOrder(), refused(kind)
    assert promise.doubt(refusal) == ""
    promise.note(won("o1"))
    assert promise.doubt(refusal) == f"{refusal.name} while holding an order"
    promise.forget()
    assert promise.doubt(refusal) == ""


@pytest.mark.parametrize("status", [200, 202])
def test_a_buyer_has_one_order_at_a_time(status: int) -> None:
    promise = PromisedOrder()
    promise.note(won("o1", status))
    assert promise.doubt(won("o1", 200)) == ""
    assert promise.doubt(won("o2", status)) == "another order while holding one"


@pytest.mark.parametrize("kind", [Problem.RATE_LIMITED, Problem.OVERLOADED, Problem.PAUSED])
def test_a_request_to_come_back_is_no_statement_about_an_order(kind: Problem) -> None:
    promise = PromisedOrder()
    promise.note(won("o1"))
    assert promise.doubt(refused(kind)) == ""
    promise.note(refused(kind))
    assert promise.order_id == "o1"


@pytest.mark.parametrize("answer", [Received(Call.GRAB, 0), refused(Problem.UNAVAILABLE)])
def test_a_grab_without_an_outcome_makes_a_later_refusal_doubtful(answer: Received) -> None:
    promise = PromisedOrder()
    promise.note(answer)
    assert promise.doubt(refused(Problem.SOLD_OUT)) != ""
    promise.note(won("o1", 200))
    assert not promise.unsure


def test_a_payment_is_refused_for_lateness_only_when_it_is_late() -> None:
    too_late = problem(Call.PAY, Problem.EXPIRED)
    early = {"pay_by": NOON, "now_s": NOON_S - 1}
    late = {"pay_by": NOON, "now_s": NOON_S + 1}
    assert untrue_payment(too_late, order("pending"), **early) != ""
    assert untrue_payment(too_late, order("pending"), **late) == ""
    assert untrue_payment(too_late, order("cancelled"), **early) == ""
    assert untrue_payment(too_late, order("paid"), **late) != ""


def test_a_paid_order_is_shown_as_paid_or_given_back() -> None:
    paid, late = Received(Call.PAY, 200), {"pay_by": NOON, "now_s": NOON_S + 1}
    for status in ("paid", "refunding", "refunded"):
        assert untrue_payment(paid, order(status), **late) == ""
    assert untrue_payment(paid, order("pending"), **late) == "200 although the order is pending"
    assert untrue_payment(paid, problem(Call.ORDER, Problem.UNAVAILABLE), **late) == ""
