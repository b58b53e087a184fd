"""What an answer means to a buyer, and when it is untrue."""

from __future__ import annotations

import pytest

from gateway.http.problems import Problem
from loadtest.locust_crowd.expectations import (
    AGAIN,
    FAILURES,
    NOES,
    AnswerClass,
    Call,
    PromisedOrder,
    Received,
    SaleInfo,
    outcome_of,
    tickets_from_s,
    untrue_payment,
)

NOON = "2026-11-27T12:00:00Z"
NOON_S = 1_795_780_800.0


def problem(kind: Problem, retry_after_s: float | None = None) -> Received:
    seconds = kind.value.retry_after_s if retry_after_s is None else retry_after_s
    return Received(kind.value.status, {"code": kind.code, "status": kind.value.status}, seconds)


def order(status: str) -> Received:
    return Received(200, {"order_id": "o1", "status": status})


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Received(202, {"order_id": "o1", "status": "queued"}), AnswerClass.WON),
        (Received(200, {"order_id": "o1", "status": "yours"}), AnswerClass.REPEAT),
        (problem(Problem.SOLD_OUT), AnswerClass.SOLD_OUT),
        (problem(Problem.NOT_OPEN), AnswerClass.NOT_OPEN),
        (problem(Problem.CLOSED), AnswerClass.CLOSED),
        (problem(Problem.RATE_LIMITED), AnswerClass.LIMITED),
        (problem(Problem.PAUSED), AnswerClass.PAUSED),
        (problem(Problem.OVERLOADED), AnswerClass.OVERLOADED),
        (problem(Problem.UNAVAILABLE), AnswerClass.UNAVAILABLE),
    ],
)
def test_what_the_contract_lets_a_grab_be_told_is_an_outcome(
    answer: Received, outcome: AnswerClass
) -> None:
    assert outcome_of(Call.GRAB, answer) is outcome
    assert outcome not in FAILURES


@pytest.mark.parametrize("call", Call)
@pytest.mark.parametrize(
    "answer", [problem(Problem.INTERNAL), Received(502), Received(204), problem(Problem.MALFORMED)]
)
def test_what_nobody_should_be_told_is_a_failure(call: Call, answer: Received) -> None:
    assert outcome_of(call, answer) in FAILURES


@pytest.mark.parametrize("call", Call)
def test_no_answer_is_a_failure_that_makes_people_come_back(call: Call) -> None:
    outcome = outcome_of(call, Received(0))
    assert outcome in FAILURES & AGAIN


def test_an_order_that_was_promised_and_is_not_there_is_a_failure() -> None:
    assert outcome_of(Call.ORDER, problem(Problem.NOT_FOUND)) in FAILURES
    assert outcome_of(Call.PAY, problem(Problem.NOT_FOUND)) in FAILURES
    assert outcome_of(Call.MINE, problem(Problem.NOT_FOUND)) is AnswerClass.NONE


def test_a_bad_ticket_that_is_taken_is_a_failure_and_a_good_one_that_is_not() -> None:
    assert outcome_of(Call.FORGED, problem(Problem.BAD_TICKET)) is AnswerClass.REFUSED
    assert outcome_of(Call.FORGED, Received(202, {"order_id": "o1"})) in FAILURES
    assert outcome_of(Call.GRAB, problem(Problem.BAD_TICKET)) in FAILURES


def test_who_is_sent_away_is_told_when_to_come_back() -> None:
    assert problem(Problem.RATE_LIMITED, 7).come_back_s == 7
    without = Received(429, {"code": "rate_limited"})
    assert outcome_of(Call.GRAB, without) is AnswerClass.UNEXPECTED


@pytest.mark.parametrize("text", [None, "", "[]", "null", "<html>", '{"code": "sold_out"'])
def test_a_body_that_is_no_json_object_is_an_empty_one(text: str | None) -> None:
    answer = Received.read(409, text)
    assert (answer.body, answer.code) == ({}, "")
    assert outcome_of(Call.GRAB, answer) is AnswerClass.UNEXPECTED


def test_an_answer_is_read_as_it_came() -> None:
    text = '{"order_id": "o1", "status": "queued", "next_poll_ms": 1500}'
    answer = Received.read(202, text, "3")
    assert (answer.order_id, answer.order_status) == ("o1", "queued")
    assert (answer.next_poll_s, answer.come_back_s) == (1.5, 3.0)
    assert Received.read(503, "{}", "Fri, 27 Nov 2026 12:00:00 GMT").retry_after_s is None


@pytest.mark.parametrize("outcome", sorted(NOES))
def test_no_holder_of_an_order_may_be_told_no(outcome: AnswerClass) -> None:
    promise = PromisedOrder()
    assert promise.doubt(outcome, "") == ""
    promise.hear(AnswerClass.WON, "o1")
    assert promise.doubt(outcome, "") == f"told {outcome} while holding an order"
    promise.forget()
    assert promise.doubt(outcome, "") == ""


@pytest.mark.parametrize("outcome", [AnswerClass.WON, AnswerClass.REPEAT])
def test_a_buyer_has_one_order_at_a_time(outcome: AnswerClass) -> None:
    promise = PromisedOrder()
    promise.hear(AnswerClass.WON, "o1")
    assert promise.doubt(AnswerClass.REPEAT, "o1") == ""
    assert promise.doubt(outcome, "o2") == "told of another order while holding one"


@pytest.mark.parametrize(
    "outcome", [AnswerClass.LIMITED, AnswerClass.OVERLOADED, AnswerClass.PAUSED]
)
def test_being_sent_away_says_nothing_of_an_order(outcome: AnswerClass) -> None:
    promise = PromisedOrder()
    promise.hear(AnswerClass.WON, "o1")
    assert promise.doubt(outcome, "") == ""
    promise.hear(outcome, "")
    assert promise.order_id == "o1"


@pytest.mark.parametrize("outcome", [AnswerClass.NO_ANSWER, AnswerClass.UNAVAILABLE])
def test_a_grab_without_an_outcome_makes_a_later_no_doubtful(outcome: AnswerClass) -> None:
    promise = PromisedOrder()
    promise.hear(outcome, "")
    assert promise.doubt(AnswerClass.SOLD_OUT, "") != ""
    promise.hear(AnswerClass.REPEAT, "o1")
    assert not promise.unsure


def test_a_payment_is_refused_for_lateness_only_when_it_is_late() -> None:
    early = {"pay_by": NOON, "now_s": NOON_S - 1}
    late = {"pay_by": NOON, "now_s": NOON_S + 1}
    assert untrue_payment(AnswerClass.TOO_LATE, order("pending"), **early) != ""
    assert untrue_payment(AnswerClass.TOO_LATE, order("pending"), **late) == ""
    assert untrue_payment(AnswerClass.TOO_LATE, order("cancelled"), **early) == ""
    assert untrue_payment(AnswerClass.ENDED, order("paid"), **late) != ""
    assert untrue_payment(AnswerClass.NO_MONEY, order("pending"), **early) == ""


def test_a_sale_is_read_with_its_times() -> None:
    body = {"state": "open", "server_time": NOON, "sold_out": True, "proof_bits": 0}
    sale = SaleInfo.of(Received(200, body | {"opens_at": "2026-11-27T12:00:10.5Z"}))
    assert (sale.opens_at_s, sale.sold_out) == (NOON_S + 10.5, True)
    assert SaleInfo.of(Received(200, body | {"opens_at": None})).opens_at_s == 0


def test_who_comes_too_early_for_a_ticket_waits_as_told() -> None:
    sale = SaleInfo("open", NOON_S, NOON_S + 1000)
    told = Received(403, {"code": "too_early", "detail": "tickets are handed out 600 s before"})
    assert tickets_from_s(sale, told) == NOON_S + 400
    assert tickets_from_s(sale, Received(403, {"code": "too_early"})) == NOON_S + 500
