"""What an answer means to a buyer, and when it is untrue."""

from __future__ import annotations

import pytest

from gateway.http.problems import Problem
from loadtest.locust_crowd.expectations import (
    AGAIN,
    FAILURES,
    NOES,
    Answer,
    Call,
    Outcome,
    Promise,
    SaleView,
    outcome_of,
    tickets_from_s,
    untrue_payment,
)

NOON = "2026-11-27T12:00:00Z"
NOON_S = 1_795_780_800.0


def problem(kind: Problem, retry_after_s: float | None = None) -> Answer:
    seconds = kind.value.retry_after_s if retry_after_s is None else retry_after_s
    return Answer(kind.value.status, {"code": kind.code, "status": kind.value.status}, seconds)


def order(status: str) -> Answer:
    return Answer(200, {"order_id": "o1", "status": status})


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (Answer(202, {"order_id": "o1", "status": "queued"}), Outcome.WON),
        (Answer(200, {"order_id": "o1", "status": "yours"}), Outcome.REPEAT),
        (problem(Problem.SOLD_OUT), Outcome.SOLD_OUT),
        (problem(Problem.NOT_OPEN), Outcome.NOT_OPEN),
        (problem(Problem.CLOSED), Outcome.CLOSED),
        (problem(Problem.RATE_LIMITED), Outcome.LIMITED),
        (problem(Problem.PAUSED), Outcome.PAUSED),
        (problem(Problem.OVERLOADED), Outcome.OVERLOADED),
        (problem(Problem.UNAVAILABLE), Outcome.UNAVAILABLE),
    ],
)
def test_what_the_contract_lets_a_grab_be_told_is_an_outcome(
    answer: Answer, outcome: Outcome
) -> None:
    assert outcome_of(Call.GRAB, answer) is outcome
    assert outcome not in FAILURES


@pytest.mark.parametrize("call", Call)
@pytest.mark.parametrize(
    "answer", [problem(Problem.INTERNAL), Answer(502), Answer(204), problem(Problem.MALFORMED)]
)
def test_what_nobody_should_be_told_is_a_failure(call: Call, answer: Answer) -> None:
    assert outcome_of(call, answer) in FAILURES


@pytest.mark.parametrize("call", Call)
def test_no_answer_is_a_failure_that_makes_people_come_back(call: Call) -> None:
    outcome = outcome_of(call, Answer(0))
    assert outcome in FAILURES & AGAIN


def test_an_order_that_was_promised_and_is_not_there_is_a_failure() -> None:
    assert outcome_of(Call.ORDER, problem(Problem.NOT_FOUND)) in FAILURES
    assert outcome_of(Call.PAY, problem(Problem.NOT_FOUND)) in FAILURES
    assert outcome_of(Call.MINE, problem(Problem.NOT_FOUND)) is Outcome.NONE


def test_a_bad_ticket_that_is_taken_is_a_failure_and_a_good_one_that_is_not() -> None:
    assert outcome_of(Call.FORGED, problem(Problem.BAD_TICKET)) is Outcome.REFUSED
    assert outcome_of(Call.FORGED, Answer(202, {"order_id": "o1"})) in FAILURES
    assert outcome_of(Call.GRAB, problem(Problem.BAD_TICKET)) in FAILURES


def test_who_is_sent_away_is_told_when_to_come_back() -> None:
    assert problem(Problem.RATE_LIMITED, 7).come_back_s == 7
    without = Answer(429, {"code": "rate_limited"})
    assert outcome_of(Call.GRAB, without) is Outcome.UNEXPECTED


@pytest.mark.parametrize("text", [None, "", "[]", "null", "<html>", '{"code": "sold_out"'])
def test_a_body_that_is_no_json_object_is_an_empty_one(text: str | None) -> None:
    answer = Answer.read(409, text)
    assert (answer.body, answer.code) == ({}, "")
    assert outcome_of(Call.GRAB, answer) is Outcome.UNEXPECTED


def test_an_answer_is_read_as_it_came() -> None:
    text = '{"order_id": "o1", "status": "queued", "next_poll_ms": 1500}'
    answer = Answer.read(202, text, "3")
    assert (answer.order_id, answer.order_status) == ("o1", "queued")
    assert (answer.next_poll_s, answer.come_back_s) == (1.5, 3.0)
    assert Answer.read(503, "{}", "Fri, 27 Nov 2026 12:00:00 GMT").retry_after_s is None


@pytest.mark.parametrize("outcome", sorted(NOES))
def test_no_holder_of_an_order_may_be_told_no(outcome: Outcome) -> None:
    promise = Promise()
    assert promise.doubt(outcome, "") == ""
    promise.hear(Outcome.WON, "o1")
    assert promise.doubt(outcome, "") == f"told {outcome} while holding an order"
    promise.forget()
    assert promise.doubt(outcome, "") == ""


@pytest.mark.parametrize("outcome", [Outcome.WON, Outcome.REPEAT])
def test_a_buyer_has_one_order_at_a_time(outcome: Outcome) -> None:
    promise = Promise()
    promise.hear(Outcome.WON, "o1")
    assert promise.doubt(Outcome.REPEAT, "o1") == ""
    assert promise.doubt(outcome, "o2") == "told of another order while holding one"


@pytest.mark.parametrize("outcome", [Outcome.LIMITED, Outcome.OVERLOADED, Outcome.PAUSED])
def test_being_sent_away_says_nothing_of_an_order(outcome: Outcome) -> None:
    promise = Promise()
    promise.hear(Outcome.WON, "o1")
    assert promise.doubt(outcome, "") == ""
    promise.hear(outcome, "")
    assert promise.order_id == "o1"


@pytest.mark.parametrize("outcome", [Outcome.NO_ANSWER, Outcome.UNAVAILABLE])
def test_a_grab_without_an_outcome_makes_a_later_no_doubtful(outcome: Outcome) -> None:
    promise = Promise()
    promise.hear(outcome, "")
    assert promise.doubt(Outcome.SOLD_OUT, "") != ""
    promise.hear(Outcome.REPEAT, "o1")
    assert not promise.unsure


def test_a_payment_is_refused_for_lateness_only_when_it_is_late() -> None:
    early = {"pay_by": NOON, "now_s": NOON_S - 1}
    late = {"pay_by": NOON, "now_s": NOON_S + 1}
    assert untrue_payment(Outcome.TOO_LATE, order("pending"), **early) != ""
    assert untrue_payment(Outcome.TOO_LATE, order("pending"), **late) == ""
    assert untrue_payment(Outcome.TOO_LATE, order("cancelled"), **early) == ""
    assert untrue_payment(Outcome.ENDED, order("paid"), **late) != ""
    assert untrue_payment(Outcome.NO_MONEY, order("pending"), **early) == ""


def test_a_sale_is_read_with_its_times() -> None:
    body = {"state": "open", "server_time": NOON, "sold_out": True, "proof_bits": 0}
    sale = SaleView.of(Answer(200, body | {"opens_at": "2026-11-27T12:00:10.5Z"}))
    assert (sale.opens_at_s, sale.sold_out) == (NOON_S + 10.5, True)
    assert SaleView.of(Answer(200, body | {"opens_at": None})).opens_at_s == 0


def test_who_comes_too_early_for_a_ticket_waits_as_told() -> None:
    sale = SaleView("open", NOON_S, NOON_S + 1000)
    told = Answer(403, {"code": "too_early", "detail": "tickets are handed out 600 s before"})
    assert tickets_from_s(sale, told) == NOON_S + 400
    assert tickets_from_s(sale, Answer(403, {"code": "too_early"})) == NOON_S + 500
