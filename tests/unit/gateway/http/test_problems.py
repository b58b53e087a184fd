"""Problems: one stable code for each refusal, in the form of RFC 9457."""

from __future__ import annotations

import json
import re

import pytest

from gateway.http.problems import (
    CONTENT_TYPE,
    Problem,
    problem_body,
    problem_headers,
    problem_response,
)

#: Clients compare these. Adding one is fine; changing or dropping one breaks a client.
PUBLISHED = {
    "bad_request": 422,
    "malformed": 400,
    "bad_ticket": 401,
    "unauthorized": 401,
    "bad_admin_token": 401,
    "idempotency_key_needed": 400,
    "idempotency_key_reused": 422,
    "bad_shop_token": 401,
    "shop_token_expired": 401,
    "missing_scope": 403,
    "admin_off": 403,
    "read_only": 403,
    "not_signed_in": 401,
    "bad_csrf_token": 403,
    "no_pool": 503,
    "insufficient_funds": 402,
    "coupon_refused": 402,
    "not_open": 403,
    "too_early": 403,
    "proof_needed": 403,
    "bad_proof": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "sold_out": 409,
    "too_few_left": 409,
    "proof_used": 409,
    "conflict": 409,
    "payment_in_progress": 409,
    "declined": 402,
    "no_cards": 409,
    "wrong_currency": 409,
    "bad_signature": 401,
    "queued": 409,
    "not_payable": 409,
    "not_cancellable": 409,
    "refund_due": 409,
    "sent_back": 409,
    "reference_used": 409,
    "not_due": 409,
    "cancelled_too_often": 409,
    "closed": 410,
    "expired": 410,
    "too_large": 413,
    "too_slow": 408,
    "unsupported_media_type": 415,
    "rate_limited": 429,
    "internal": 500,
    "not_ready": 503,
    "overloaded": 503,
    "paused": 503,
    "unavailable": 503,
    "http_version": 505,
}

each_problem = pytest.mark.parametrize("problem", Problem, ids=lambda p: p.code)


def test_codes_and_statuses_are_the_published_ones() -> None:
    assert {problem.code: problem.value.status for problem in Problem} == PUBLISHED


def test_no_two_problems_became_one() -> None:
    """Equal values would make one name an alias of the other, and its code would be lost."""
    assert len(Problem.__members__) == len(Problem)


@each_problem
def test_every_body_is_a_valid_problem(problem: Problem) -> None:
    body = json.loads(problem_body(problem, "why", "quantity"))
    assert body == {
        "type": f"/problems/{problem.code}",
        "title": problem.value.title,
        "status": problem.value.status,
        "code": problem.code,
        "detail": "why",
        "field": "quantity",
    }
    assert body["title"]
    assert re.fullmatch(r"[a-z][a-z0-9_]*", problem.code)


@each_problem
def test_a_body_has_no_empty_members(problem: Problem) -> None:
    assert json.loads(problem_body(problem)).keys() == {"type", "title", "status", "code"}


@each_problem
def test_the_answer_agrees_with_its_body(problem: Problem) -> None:
    response = problem_response(problem)
    assert response.status == json.loads(response.body)["status"]
    assert response.content_type == CONTENT_TYPE == "application/problem+json"


@each_problem
def test_a_problem_that_waiting_helps_says_how_long(problem: Problem) -> None:
    headers = problem_headers(problem)
    waiting_helps = problem.value.status in (429, 503) or problem is Problem.QUEUED
    assert ("Retry-After" in headers) == waiting_helps
    assert int(headers.get("Retry-After", 1)) >= 1
