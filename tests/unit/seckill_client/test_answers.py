"""What follows from an answer, and the error that a call then raises."""

from __future__ import annotations

import pytest

from gateway.http.problems import Problem
from seckill_client.answers import LATER_CODES, ServerAnswer, retry_after_s, unix_s
from seckill_client.errors import ComeBackLater, OutcomeUnknown, RequestRefused, error_of


def problem(kind: Problem, **body: str) -> ServerAnswer:
    return ServerAnswer(kind.value.status, {"code": kind.code, **body}, kind.value.retry_after_s)


def test_every_code_to_come_back_for_is_one_of_the_contract() -> None:
    assert {kind.code for kind in Problem} >= LATER_CODES


@pytest.mark.parametrize("kind", Problem)
def test_a_problem_that_names_a_time_is_repeated_and_one_that_is_final_is_not(
    kind: Problem,
) -> None:
    answer = problem(kind)
    error = error_of("grab", answer)
    assert (error.code, error.status) == (kind.code, kind.value.status)
    if kind.value.retry_after_s is not None:
        assert not isinstance(error, RequestRefused)
    if kind in (Problem.UNAVAILABLE, Problem.INTERNAL):
        assert isinstance(error, OutcomeUnknown)
    if kind in (Problem.SOLD_OUT, Problem.CLOSED, Problem.DECLINED, Problem.UNAUTHORIZED):
        assert isinstance(error, RequestRefused)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(0, OutcomeUnknown), (502, OutcomeUnknown), (429, ComeBackLater), (302, RequestRefused)],
)
def test_an_answer_that_no_gateway_gives_has_an_error_too(status: int, kind: type) -> None:
    error = error_of("GET /", ServerAnswer.read(status, "<html>", {}))
    assert type(error) is kind
    assert error.code == "no_answer"


def test_an_error_says_what_was_wrong_where_and_when_to_come_back() -> None:
    text = '{"code": "bad_request", "title": "T", "detail": "at most 1", "field": "quantity"}'
    headers = {"Retry-After": "7", "Request-Id": "r1"}
    error = error_of("POST /grabs", ServerAnswer.read(422, text, headers))
    assert str(error) == "POST /grabs: 422 bad_request (quantity: at most 1)"
    assert (error.field, error.detail, error.retry_after_s) == ("quantity", "at most 1", 7)
    assert error.request_id == "r1"


def test_a_retry_after_that_is_a_date_names_no_seconds() -> None:
    assert retry_after_s("Fri, 27 Nov 2026 12:00:00 GMT") is None
    assert retry_after_s(None) is None


def test_moments_are_unix_seconds() -> None:
    assert unix_s("2026-11-27T12:00:10.5Z") == 1_795_780_810.5
    assert unix_s(None) == 0
