"""A client that sends whatever bytes a test gives it, and bytes to send."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from urllib.parse import urlsplit

from aiohttp import ClientSession

from tests.processes import eventually

BODY = b'{"quantity": 1}'
#: Answered by aiohttp alone, and unlike anything else: it is sent behind what is under test.
LAST = b"GET /last HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /v1/sales HTTP/1.1\r\nHost: x\r\n"
GARBAGE = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),  # TLS
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    b"GET /\r\n\r\n",  # HTTP/0.9
    b"\0" * 100,
    b"GET /\0 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\0\r\n\r\n",
    b"GET / HTTP/1.1\nHost: x\n\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nX: a\nContent-Length: 5\r\n\r\n",
    b"GET / HTTP/1.1\rHost: x\r\r",
    b"GET / HTTP/9.9\r\nHost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET //[ HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT : HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/sales/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/sales/\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/sales/%zz HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/orders/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/sales/x HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"POST /v1/sales/x/tickets HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\n\r\n",
    POST + b"Content-Length: -5\r\n\r\n",
    POST + b"Content-Length: 99999999999999999999\r\n\r\n",
    POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: gzip\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    POST + b"Transfer-Encoding: chunked\r\n\r\n-5\r\nxxxxx\r\n0\r\n\r\n",
]


class Client:
    """A connection that sends whatever bytes it is given."""

    _socket: socket.socket

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._received = b""

    async def connect(self, gateway, *, receive_buffer=None) -> Client:
        """Connect; try again after a reset or a refusal, for a gateway may have no time."""
        parts = urlsplit(gateway.url)

        async def connected():
            self._socket = socket.socket()
            self._socket.setblocking(False)
            # Each `send` is a packet, at once. Otherwise the kernel keeps one back until the one
            # before has been acknowledged.
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if receive_buffer:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            try:
                await self._loop.sock_connect(self._socket, (parts.hostname, parts.port))
            except (ConnectionResetError, ConnectionRefusedError):
                self._socket.close()
                return False
            return True

        await eventually(connected, "a connection")
        return self

    async def send(self, data: bytes) -> bool:
        """Send; return whether the gateway still listens."""
        try:
            await self._loop.sock_sendall(self._socket, data)
        except ConnectionError:
            return False
        return True

    def send_no_more(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    async def answer(self) -> tuple[int, bytes, bytes]:
        """Read one answer: status, head and body."""
        while b"\r\n\r\n" not in self._received:
            assert await self.receive(), f"closed after {self._received}"
        end = self._received.index(b"\r\n\r\n") + 4
        head = self._received[:end]
        end += int(head.lower().partition(b"content-length:")[2].split()[0])
        while len(self._received) < end:
            assert await self.receive(), f"closed after {self._received}"
        body, self._received = self._received[len(head) : end], self._received[end:]
        return int(head.split()[1]), head, body

    async def statuses(self, count: int) -> list[int]:
        return [(await self.answer())[0] for _ in range(count)]

    async def rest(self) -> bytes:
        """Read until the gateway closes, or resets."""
        while await self.receive():
            pass
        return self._received

    async def receive(self) -> bytes:
        """Read what comes next; nothing once the gateway has closed."""
        data = b""
        with suppress(ConnectionError):
            async with asyncio.timeout(20):
                data = await self._loop.sock_recv(self._socket, 65_536)
        self._received += data
        return data


def grab_request(sale, ticket, body=BODY, framing=None, *headers) -> bytes:
    lines = [
        f"POST /v1/sales/{sale.sale_id}/grabs HTTP/1.1",
        "Host: x",
        f"Seckill-Ticket: {ticket}",
        "Content-Type: application/json",
        framing or f"Content-Length: {len(body)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def read_by(gateway) -> None:
    """Return when the gateway has read all that was sent to it before."""
    async with ClientSession(gateway.url) as http, http.get("/v1/nothing") as response:
        assert response.status == 404
