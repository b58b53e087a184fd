"""Which differences between the answers of two gateways are none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.fuzz.conversations import Conversation

_ANSWER = re.compile(rb"(?=HTTP/1\.\d \d{3} )")
_ORDER_ID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}")
#: When it was answered (a tag of a copy says it, too), how much was left then, and new tickets.
_MOMENT = re.compile(
    rb'\r\n(?:Date|ETag): [^\r]*|"(?:next_poll_ms|remaining|server_time|created_at|pay_by)":[^,}]*'
)


class Differs(AssertionError):
    """A conversation that the twins answer differently, or wrongly."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer without what is new in each."""

    status_line: bytes
    headers: tuple[bytes, ...]
    body: bytes

    @property
    def status(self) -> int:
        """The status code."""
        return int(self.status_line.split()[1])

    @property
    def closes(self) -> bool:
        """Tell whether it says that the connection ends behind it."""
        return b"connection: close" in {header.lower() for header in self.headers}


def answers_in(stream: bytes) -> list[Answer]:
    """Return the answers of a connection, with order ids numbered as they came."""
    numbers: dict[bytes, bytes] = {}

    def number(match: re.Match[bytes]) -> bytes:
        return numbers.setdefault(match[0], b"order %d" % len(numbers))

    beginning, *answers = _ANSWER.split(_MOMENT.sub(b"", _ORDER_ID.sub(number, stream)))
    if beginning:
        raise Differs(f"no answer: {beginning!r}")
    return [_answer(data) for data in answers]


def _answer(data: bytes) -> Answer:
    head, _, body = data.partition(b"\r\n\r\n")
    status_line, *headers = head.split(b"\r\n")
    # The moments that are left out have lengths of their own.
    length = b"Content-Length"
    headers = [header for header in headers if not (body and header.startswith(length))]
    headers = [header for header in headers if not header.startswith(b"Request-Id")]
    return Answer(status_line, tuple(sorted(headers)), body)


def difference(
    conversation: Conversation, by_connection: list[Answer], by_aiohttp: list[Answer]
) -> str:
    """Return what differs, "" if nothing does.

    aiohttp answers nothing of what came in one piece with something that is no HTTP. What lies in
    one piece depends on who has read already, so one side may have answered more than the other
    before the refusal. It takes what follows a request that closes its connection for no HTTP, too,
    and to a client that half-closes one side alone may have refused. Where the client does not
    wait, either side may have been faster.
    """
    if by_connection == by_aiohttp:
        return ""
    ends = [side[-1] if side else None for side in (by_connection, by_aiohttp)]
    has_refusal = any(end and _ends_all(end) for end in ends)
    both_end = conversation.half_closes or all(end and _is_last(end) for end in ends)
    if not conversation.is_patient or (has_refusal and both_end):
        less, more = sorted((_before_end(by_connection), _before_end(by_aiohttp)), key=len)
        if more[: len(less)] == less:
            return ""
    return f"by the connection: {by_connection}\nby aiohttp:        {by_aiohttp}"


def _ends_all(answer: Answer) -> bool:
    """Tell whether it refuses what is no HTTP, or another version of it."""
    return b'"code":"malformed"' in answer.body or answer.status == 505


def _is_last(answer: Answer) -> bool:
    """Tell whether the connection ends behind it."""
    keeps = b"connection: keep-alive" in {header.lower() for header in answer.headers}
    is_http10 = answer.status_line.startswith(b"HTTP/1.0 ")
    return _ends_all(answer) or answer.closes or (is_http10 and not keeps)


def _before_end(answers: list[Answer]) -> list[Answer]:
    return answers[:-1] if answers and _ends_all(answers[-1]) else answers


def broken_promise(conversation: Conversation, answers: list[Answer]) -> str:
    """Return which promise the answers of one side break by themselves, "" if none."""
    for answer in answers:
        if answer.status >= 500 and answer.status not in (503, 505):
            return f"an internal error: {answer}"
    for answer in answers[:-1]:
        if answer.closes:
            return f"an answer behind one that closes the connection: {answers}"
    expected = conversation.statuses
    if expected is None:
        return ""
    given = [answer.status for answer in _before_end(answers)]
    if len(given) > len(expected) or (conversation.is_patient and len(given) < len(expected)):
        return f"{len(given)} answers to {len(expected)} requests: {given}"
    if not all(status in statuses for status, statuses in zip(given, expected, strict=False)):
        return f"answers in another order than the requests: {given}, not {expected}"
    return ""
