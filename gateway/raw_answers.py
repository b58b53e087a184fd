"""Answers as bytes, with the very headers that aiohttp would have sent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import formatdate
from http import HTTPStatus

from gateway.grabs import HEADS, REFUSAL_BODIES
from gateway.headers import SERVER
from gateway.problems import CONTENT_TYPE, Problem, Refused, problem_body, problem_headers
from seckill.stock import Verdict


class Answers:
    """The answers to grabs for pages of one origin; `extra` are the headers that this adds."""

    def __init__(self, extra: Mapping[str, str]) -> None:
        self._extra = extra
        self._heads = {verdict: self._head(*head) for verdict, head in HEADS.items()}
        self._bad_ticket = self._parts(Refused(Problem.BAD_TICKET))
        #: Answers that say the same to everybody, as they are in this second.
        self._alike: dict[Verdict, bytes] = {}
        self._second = b""

    def given(self, verdict: Verdict, body: bytes) -> bytes:
        """Return the answer to one buyer, which names his order."""
        return _join(self._heads[verdict], _date(), body)

    def not_given(self, verdict: Verdict) -> bytes:
        """Return the answer that everybody gets who is told so; a wrong quantity is `refused`."""
        second = _date()
        if second is not self._second:
            self._alike.clear()
            self._second = second
        answer = self._alike.get(verdict)
        if answer is None:
            answer = _join(self._heads[verdict], second, REFUSAL_BODIES[verdict])
            self._alike[verdict] = answer
        return answer

    def bad_ticket(self) -> bytes:
        """Return the answer to whose ticket is not good."""
        head, body = self._bad_ticket
        return _join(head, _date(), body)

    def refused(self, refused: Refused) -> bytes:
        """Return the answer that a refusal is."""
        head, body = self._parts(refused)
        return _join(head, _date(), body)

    def _parts(self, refused: Refused) -> tuple[bytes, bytes]:
        problem = refused.problem
        headers = {"Content-Type": CONTENT_TYPE, **problem_headers(problem), **refused.headers}
        head = self._head(problem.value.status, headers)
        return head, problem_body(problem, refused.detail, refused.field)

    def _head(self, status: int, headers: Mapping[str, str]) -> bytes:
        """Return all of a head but the values of its last headers, Date and Content-Length."""
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
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


def _join(head: bytes, date: bytes, body: bytes) -> bytes:
    return b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (head, date, len(body), body)
