"""Answers as bytes, with the very headers that aiohttp would have sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from email.utils import formatdate
from http import HTTPStatus

from gateway.grabs import HEADS
from gateway.headers import SERVER
from gateway.problems import CONTENT_TYPE, Problem, Refused, problem_body, problem_headers
from seckill.stock import Verdict


class Answers:
    """The answers to grabs for pages of one origin; `extra` are the headers that this adds."""

    def __init__(self, extra: Mapping[str, str]) -> None:
        self._extra = extra
        self._heads = {verdict: self._head(*head) for verdict, head in HEADS.items()}
        self._bad_ticket = self._refused(Refused(Problem.BAD_TICKET))

    def told(self, verdict: Verdict, body: bytes) -> bytes:
        """Return the answer that tells a verdict; a wrong quantity is `refused`."""
        return _join(self._heads[verdict], body)

    def bad_ticket(self) -> bytes:
        """Return the answer to whose ticket is not good."""
        return _join(*self._bad_ticket)

    def refused(self, refused: Refused) -> bytes:
        """Return the answer that a refusal is."""
        return _join(*self._refused(refused))

    def _refused(self, refused: Refused) -> tuple[bytes, bytes]:
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


_date: Callable[[], bytes] = _Date()


def _join(head: bytes, body: bytes) -> bytes:
    return b"%b%b\r\nContent-Length: %d\r\n\r\n%b" % (head, _date(), len(body), body)
