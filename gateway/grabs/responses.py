"""The answers to grabs, as aiohttp's responses and as bytes with the very same headers.

The bytes of a sale's view are made here, too: connections answer both without aiohttp.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from email.utils import formatdate
from http import HTTPStatus

from aiohttp import web

from gateway.grabs.reservations import GrabResult
from gateway.grabs.sale_views import EncodedView
from gateway.http.problems import (
    CONTENT_TYPE,
    Problem,
    Refused,
    problem_body,
    problem_headers,
    retry_after,
)
from gateway.http.request_ids import HEADER, PREFIX, next_number
from gateway.http.responses import COMMON, SERVER
from gateway.overload.poll_schedule import PollSchedule
from seckill import metrics
from seckill.inventory.reservations import Verdict
from seckill.sales.sales import Sale

#: The problem of each refusal of the script, but for a quantity: see `too_many`, `too_few_left`.
REFUSALS: dict[Verdict, Problem] = {
    Verdict.NOT_OPEN: Problem.NOT_OPEN,
    Verdict.CLOSED: Problem.CLOSED,
    Verdict.PAUSED: Problem.PAUSED,
    Verdict.SOLD_OUT: Problem.SOLD_OUT,
    Verdict.OUTBOX_FULL: Problem.OVERLOADED,
    Verdict.UNAVAILABLE: Problem.UNAVAILABLE,
}
WAITS = {verdict: metrics.GRAB_SECONDS.labels(verdict.name.lower()) for verdict in Verdict}

#: The line of an answer's id, without its number.
_ID = f"{HEADER}: {PREFIX}".encode()
_JSON = {**COMMON, "Content-Type": "application/json"}
#: Status and headers of each verdict's answer, built once, like the bodies.
_HEADS: Mapping[Verdict, tuple[int, Mapping[str, str]]] = {
    Verdict.ACCEPTED: (202, _JSON),
    Verdict.DUPLICATE: (200, _JSON),
} | {
    verdict: (problem.value.status, {"Content-Type": CONTENT_TYPE, **problem_headers(problem)})
    for verdict, problem in REFUSALS.items()
}
_REFUSAL_BODIES = {verdict: problem_body(problem) for verdict, problem in REFUSALS.items()}


def body_of(result: GrabResult, schedule: PollSchedule) -> bytes:
    """Return the body of the answer to a grab."""
    if result.verdict is Verdict.ACCEPTED:
        body = b'{"order_id":"%b","status":"queued","next_poll_ms":%d}'
        return body % (result.order_id.encode(), schedule.next_poll_ms())
    if result.verdict is Verdict.DUPLICATE:
        return b'{"order_id":"%b","status":"yours"}' % result.order_id.encode()
    return _REFUSAL_BODIES[result.verdict]


def too_many(sale: Sale) -> Refused:
    """Return the refusal of a quantity beyond the sale's limit."""
    return Refused(Problem.BAD_REQUEST, f"at most {sale.per_order_max} an order", field="quantity")


def too_few_left(left: int) -> Refused:
    """Return the refusal of a quantity beyond what is left, while something is."""
    return Refused(
        Problem.TOO_FEW_LEFT, f"{left} left", field="quantity", members={"remaining": left}
    )


def not_open_until(opens_at: datetime) -> Refused:
    """Return the refusal of a grab before the opening."""
    return Refused(Problem.NOT_OPEN, headers=retry_after(opens_at.timestamp()))


def status_of(verdict: Verdict) -> int:
    """Return the status of the answer of a verdict."""
    head = _HEADS.get(verdict)
    return head[0] if head else Problem.BAD_REQUEST.value.status


def web_response(verdict: Verdict, body: bytes) -> web.Response:
    """Return the answer of a verdict as aiohttp sends it."""
    status, headers = _HEADS[verdict]
    return web.Response(status=status, body=body, headers=headers)


class RawResponses:
    """The answers as bytes, in one version of HTTP; `extra` are headers that each of them bears."""

    def __init__(self, extra: Mapping[str, str], version: str = "1.1") -> None:
        self._extra, self._version = extra, version
        self._heads = {verdict: self._head(*head) for verdict, head in _HEADS.items()}
        #: Head and body of refusals that are alike, by their problem and detail.
        self._problems: dict[tuple[Problem, str], tuple[bytes, bytes]] = {}
        #: Answers that are the same for every buyer but for their ids, as they are in this second.
        self._alike: dict[Verdict, tuple[bytes, bytes]] = {}
        self._second = b""

    def of(self, verdict: Verdict, body: bytes) -> bytes:
        """Return the answer of a verdict; a wrong quantity is `refused`."""
        second = _date()
        if verdict is Verdict.ACCEPTED or verdict is Verdict.DUPLICATE:
            return _join(self._heads[verdict], second, body)
        if second is not self._second:
            self._alike.clear()
            self._second = second
        answer = self._alike.get(verdict)
        if answer is None:
            answer = self._alike[verdict] = _around_id(self._heads[verdict], second, body)
        return b"%b%x%b" % (answer[0], next_number(), answer[1])

    def refused(self, refused: Refused) -> bytes:
        """Return the answer of a refusal."""
        known = refused.problem, refused.detail
        # Few details are alike, but while a store does not work all those of UNAVAILABLE are.
        is_alike = not refused.detail or refused.problem is Problem.UNAVAILABLE
        if refused.field or refused.headers or not is_alike:
            parts = self._parts(refused)
        else:
            parts = self._problems.get(known) or self._parts(refused)
            self._problems[known] = parts
        return _join(parts[0], _date(), parts[1])

    def view(self, view: EncodedView, *, has_copy: bool) -> bytes:
        """Return a sale's bytes as an answer, or 304 to a client that has them."""
        key = id(self), has_copy
        answer = view.answers.get(key)
        if answer is None:
            if has_copy:
                head, end = self._head(304, view.headers), b"\r\n\r\n"
                answer = b"%b%b\r\n%b" % (head, _date(), _ID), end
            else:
                head = self._head(200, {**view.headers, "Content-Type": "application/json"})
                answer = _around_id(head, _date(), view.body)
            view.answers[key] = answer
        return b"%b%x%b" % (answer[0], next_number(), answer[1])

    def _parts(self, refused: Refused) -> tuple[bytes, bytes]:
        problem = refused.problem
        headers = {"Content-Type": CONTENT_TYPE, **problem_headers(problem), **refused.headers}
        head = self._head(problem.value.status, headers)
        return head, problem_body(problem, refused.detail, refused.field, refused.members)

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        """Return all of a head but the values of its last headers, from Date on."""
        lines = [f"HTTP/{self._version} {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in {**headers, **self._extra}.items()]
        return "\r\n".join([*lines, f"Server: {SERVER}", "Date: "]).encode()


class _Date:
    """The time of day, written anew each second."""

    def __init__(self) -> None:
        self._second, self._text = 0, b""

    def __call__(self) -> bytes:
        second = int(time.time())
        if second != self._second:
            self._second, self._text = second, formatdate(second, usegmt=True).encode()
        return self._text


_date = _Date()


def _around_id(head: bytes, date: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Return an answer in two parts, between which its number belongs."""
    length = b"\r\nContent-Length: %d\r\n" % len(body)
    return b"%b%b%b%b" % (head, date, length, _ID), b"\r\n\r\n%b" % body


def _join(head: bytes, date: bytes, body: bytes) -> bytes:
    return b"%b%b\r\nContent-Length: %d\r\n%b%x\r\n\r\n%b" % (
        head,
        date,
        len(body),
        _ID,
        next_number(),
        body,
    )
