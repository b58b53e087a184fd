"""Clients that misbehave: each request is one that HTTP knows, and all of them come."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from loadtest.drills.misbehaviour import ALL, Misbehaviour, misbehaving, press
from seckill.errors import SeckillError


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.name)
def test_what_they_send_is_whole_requests(kind: Misbehaviour) -> None:
    request = kind.request.format(sale="spring")
    head, _, body = request.partition("\r\n\r\n")
    has_length = f"Content-Length: {len(body)}\r\n" in f"{head}\r\n"
    assert has_length or not head or (head.startswith("GET ") and not body)


class Writer:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    async def drain(self) -> None:
        pass


@pytest.mark.parametrize(
    ("request_", "sent"), [(b"ask ", [b"ask ask ", b"", b"ask ", b"ask "]), (b"", [b""])]
)
async def test_each_answer_is_followed_by_the_next_request(
    request_: bytes, sent: list[bytes]
) -> None:
    reader, writer = asyncio.StreamReader(), Writer()
    pressing = asyncio.create_task(press(reader, cast(Any, writer), request_, 2))
    for piece in (b"HTTP/", b"1.1 403\r\n\r\nHTTP/1", b".1 403\r\n\r\n"):
        await asyncio.sleep(0)  # each is read by itself
        reader.feed_data(piece)
        await asyncio.sleep(0)
    reader.feed_eof()
    await pressing
    assert writer.sent == sent


async def test_clients_whose_process_ends_are_missed() -> None:
    no_address = cast(Any, ("127.0.0.1", 1, "one too many"))
    with pytest.raises(SeckillError, match="its process has ended"):
        async with misbehaving(Misbehaviour("odd", 1), no_address, "spring"):
            pass
