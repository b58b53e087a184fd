"""What is taken for a plain grab, and what is left to aiohttp."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.grabs.parser import (
    HEAD_MAX,
    NotPlain,
    PlainGrab,
    length_of_lone_grab,
    read_plain_grab,
)

BODY = b'{"quantity": 1}'
GRAB = (
    b"POST /v1/sales/spring/grabs HTTP/1.1\r\nHost: x\r\nSeckill-Ticket: k~1~ann~00\r\n"
    b"Content-Type: application/json\r\nContent-Length: 15\r\n\r\n" + BODY
)


def with_header(line: bytes) -> bytes:
    return GRAB.replace(b"Host: x\r\n", b"Host: x\r\n" + line + b"\r\n")


@pytest.mark.parametrize(
    "data",
    [
        GRAB,
        GRAB.replace(b"Content-Length", b"content-LENGTH").replace(b"Seckill", b"seckill"),
        GRAB[: -len(BODY)].replace(b": ", b":").replace(b"~00", b"~00 \t") + BODY,
        with_header(b"Connection: keep-alive"),
        with_header(b"Connection: Keep-Alive"),
        with_header(b"Cookie: a=b; c=d"),
        with_header(b"X-Empty:"),
        GRAB.replace(b"application/json", b"application/json; charset=utf-8"),
    ],
)
def test_a_plain_grab_is_read(data: bytes) -> None:
    expected = PlainGrab("spring", "k~1~ann~00", 1, len(data), "", "")
    assert read_plain_grab(data) == expected
    assert read_plain_grab(data + b"GET / what follows") == expected


def test_what_else_it_says_is_read() -> None:
    data = with_header(b"Origin: https://shop.example\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2")
    grab = read_plain_grab(data)
    assert isinstance(grab, PlainGrab)
    assert (grab.origin, grab.forwarded) == ("https://shop.example", "10.0.0.1, 10.0.0.2")


def test_grabs_that_differ_in_their_tickets_alone_are_told_apart() -> None:
    for ticket in (b"k~1~ann~00", b"k~1~bob~0123", b"", b"k~1~ann~00"):
        for data in (GRAB, GRAB.lower().replace(b"post", b"POST").replace(b"http", b"HTTP")):
            sent = data.replace(b"k~1~ann~00", ticket)
            expected = PlainGrab("spring", ticket.decode(), 1, len(sent), "", "")
            assert read_plain_grab(sent) == expected
            assert read_plain_grab(sent + sent) == expected


def test_what_looks_like_a_ticket_in_a_body_is_none() -> None:
    body = b'{"quantity":\r\nSeckill-Ticket: 1\r\n}'
    head = GRAB[: -len(BODY)].replace(b"15", b"%d" % len(body))
    for data in (head + body, head.replace(b"Seckill-Ticket", b"seckill-TICKET") + body):
        for _ in range(2):  # remembered or not
            grab = read_plain_grab(data)
            assert isinstance(grab, PlainGrab)
            assert (grab.ticket, grab.quantity) == ("k~1~ann~00", None)
    no_ticket = read_plain_grab(head.replace(b"Seckill-Ticket", b"Other") + body)
    assert isinstance(no_ticket, PlainGrab)
    assert no_ticket.ticket == ""


@given(st.binary(max_size=12))
def test_a_grab_that_is_remembered_says_what_llhttp_says_whatever_its_ticket(ticket: bytes) -> None:
    """`Seckill-TICKET` is no spelling that is looked for, so that one is parsed."""
    sent = GRAB.replace(b"k~1~ann~00", ticket)
    assert read_plain_grab(sent) == read_plain_grab(sent.replace(b"Seckill-T", b"SECKILL-T"))


OLD = GRAB.replace(b"HTTP/1.1", b"HTTP/1.0")


@pytest.mark.parametrize(
    ("data", "is_http10", "keeps_alive"),
    [
        (GRAB, False, True),
        (with_header(b"Connection: close"), False, False),
        (with_header(b"Connection: Close"), False, False),
        (OLD, True, False),
        (OLD.replace(b"Host: x", b"Host: x\r\nConnection: close"), True, False),
        (OLD.replace(b"Host: x", b"Host: x\r\nConnection: keep-alive"), True, True),
    ],
)
def test_it_says_whether_the_connection_stays_open(
    data: bytes, is_http10: bool, keeps_alive: bool
) -> None:
    grab = read_plain_grab(data)
    assert isinstance(grab, PlainGrab)
    assert (grab.is_http10, grab.keeps_alive) == (is_http10, keeps_alive)


def test_without_a_ticket_it_is_plain_all_the_same() -> None:
    grab = read_plain_grab(GRAB.replace(b"Seckill-Ticket", b"Other"))
    assert isinstance(grab, PlainGrab)
    assert grab.ticket == ""


@pytest.mark.parametrize(
    "body", [b"{" * 15, BODY.replace(b"ity", b"ify"), BODY.replace(b"1", b"0")]
)
def test_a_body_that_is_no_grabs_is_left_to_aiohttp_without_what_follows(body: bytes) -> None:
    grab = read_plain_grab(GRAB[: -len(BODY)] + body + b"GET / what follows")
    assert isinstance(grab, PlainGrab)
    assert (grab.quantity, grab.length) == (None, len(GRAB))


@given(st.integers(0, len(GRAB) - 1))
def test_every_part_of_one_may_become_one(end: int) -> None:
    assert read_plain_grab(GRAB[:end]) is NotPlain.UNFINISHED


UNUSUAL = {
    "another method": GRAB.replace(b"POST", b"PUT"),
    "another path": GRAB.replace(b"/grabs", b"/tickets"),
    "a query": GRAB.replace(b"/grabs", b"/grabs?x=1"),
    "an escaped path": GRAB.replace(b"spring", b"spr%69ng"),
    "an absolute target": GRAB.replace(b"/v1", b"http://x/v1", 1),
    "two spaces": GRAB.replace(b"POST ", b"POST  "),
    "HTTP/1.2": GRAB.replace(b"HTTP/1.1", b"HTTP/1.2"),
    "a sale id that is too long": GRAB.replace(b"spring", b"s" * 65),
    "no host": GRAB.replace(b"Host: x\r\n", b""),
    "a name twice": with_header(b"Seckill-Ticket: other"),
    "a name twice, in other letters": with_header(b"SECKILL-ticket: other"),
    "two lengths": with_header(b"Content-Length: 15"),
    "no length": GRAB.replace(b"Content-Length: 15\r\n", b""),
    "no body": GRAB[: -len(BODY)].replace(b"15", b"0"),
    "a signed length": GRAB.replace(b"15", b"+15"),
    "a length with zeros before": GRAB.replace(b"15", b"015"),
    "a long body": GRAB.replace(b"15", b"4097"),
    "chunks": GRAB.replace(b"Content-Length: 15", b"Transfer-Encoding: chunked"),
    "chunks and a length": with_header(b"Transfer-Encoding: chunked"),
    "an expectation": with_header(b"Expect: 100-continue"),
    "an upgrade": with_header(b"Connection: upgrade\r\nUpgrade: h2c"),
    "an upgrade without connection": with_header(b"Upgrade: h2c"),
    "several words on the connection": with_header(b"Connection: close, x"),
    "an encoding": with_header(b"Content-Encoding: gzip"),
    "another type": GRAB.replace(b"application/json", b"text/plain"),
    "no type": GRAB.replace(b"Content-Type: application/json\r\n", b""),
    "a folded header": with_header(b"X: a\r\n b"),
    "a space before the colon": with_header(b"X : a"),
    "a bare line feed": with_header(b"X: a\nY: b"),
    "a bare carriage return": with_header(b"X: a\rY: b"),
    "a zero byte": with_header(b"X: a\0b"),
    "no name": with_header(b": a"),
    "no colon": with_header(b"X"),
    "too many headers": with_header(b"\r\n".join(b"X-%d: y" % n for n in range(70))),
    "a head that is too long": with_header(b"X: " + b"y" * HEAD_MAX),
    "a head that will be too long": with_header(b"X: " + b"y" * HEAD_MAX)[:HEAD_MAX],
    "an empty line before": b"\r\n" + GRAB,
    "something else": b"GET / HTTP/1.1\r\n",
    "the beginning of something else": b"PUT",
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_anything_unusual_is_left_alone(name: str) -> None:
    assert read_plain_grab(UNUSUAL[name]) is NotPlain.UNUSUAL


@given(st.binary(max_size=300))
def test_nothing_makes_it_fail(data: bytes) -> None:
    assert read_plain_grab(GRAB[:40] + data + GRAB[40:]) is not None
    assert read_plain_grab(data) in set(NotPlain)


@pytest.mark.parametrize(
    "data",
    [
        GRAB,
        GRAB.replace(b"Content-Length", b"content-length"),
        with_header(b"Connection: Keep-Alive"),
        with_header(b"X-Content-Length: 7"),
    ],
)
def test_a_lone_grab_is_framed_without_being_parsed(data: bytes) -> None:
    assert length_of_lone_grab(data, cors=True) == len(data)
    grab = read_plain_grab(data)
    assert isinstance(grab, PlainGrab)
    assert (grab.length, grab.keeps_alive) == (len(data), True)


def test_a_lone_grab_is_framed_alike_whatever_its_ticket() -> None:
    for ticket in (b"k~1~ann~00", b"k~1~bob~0123", b"", b"k~1~ann~00"):
        data = GRAB.replace(b"k~1~ann~00", ticket)
        assert length_of_lone_grab(data, cors=True) == len(data)
        assert length_of_lone_grab(data + b"G", cors=True) == 0
        assert length_of_lone_grab(data[:-1], cors=True) == 0


def test_what_looks_like_a_ticket_in_a_body_counts_for_its_length() -> None:
    body = b"\r\nSeckill-Ticket: 1\r\n"
    head = GRAB.replace(b"Seckill-Ticket", b"Other")[: -len(BODY)]
    one_byte_too_many = head.replace(b"15", b"%d" % (len(body) - len(b"1"))) + body
    assert length_of_lone_grab(one_byte_too_many, cors=False) == 0


@pytest.mark.parametrize(
    "data",
    [
        GRAB[:-1],
        GRAB + GRAB,
        GRAB + b"G",
        GRAB.replace(b"POST", b"PUT"),
        GRAB.replace(b"/grabs", b"/tickets"),
        GRAB.replace(b"HTTP/1.1", b"HTTP/1.0"),
        GRAB.replace(b"Content-Length: ", b"Content-Length: +"),
        GRAB.replace(b"Content-Length: ", b"Content-Length:"),
        GRAB.replace(b"\r\nContent-Length", b"\nContent-Length"),
        with_header(b"Content-Length: 15"),
        with_header(b"content-length:15"),
        with_header(b"Transfer-Encoding: chunked"),
        with_header(b"Connection: close"),
        with_header(b"connection:keep-alive, close"),
        with_header(b"Origin: https://shop.example"),
        with_header(b"X: " + b"x" * HEAD_MAX),
    ],
)
def test_what_is_not_framed_for_certain_is_parsed(data: bytes) -> None:
    assert length_of_lone_grab(data, cors=True) == 0


@given(st.lists(st.sampled_from([*GRAB.splitlines(keepends=True), b"X: y\r\n", b"\r\n", BODY])))
def test_what_is_framed_for_certain_is_the_whole(lines: list[bytes]) -> None:
    data = b"".join(lines)
    assert length_of_lone_grab(data, cors=False) in (0, len(data))
    grab = read_plain_grab(data)
    if isinstance(grab, PlainGrab) and grab.length < len(data):
        assert length_of_lone_grab(data, cors=False) == 0
