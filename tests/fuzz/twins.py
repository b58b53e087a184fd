"""Two gateways on the same stores: one takes plain grabs itself, one leaves all to aiohttp."""

from __future__ import annotations

import itertools
import re
import select
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

from tests.fuzz.comparison import Differs, answers_in, broken_promise, difference
from tests.fuzz.conversations import BUYERS, Conversation, ticket

#: Completes whatever the gateway was in the middle of, and is no request: it ends the connection.
END = b"X" * 70_000
#: Longest wait for anything that should take milliseconds.
PATIENCE_S = 20.0
_IN_FLIGHT = re.compile(rb"^seckill_in_hand(?:\{.*\})? (\S+)", re.MULTILINE)

TicketMaker = Callable[[str, str], str]


class Twin:
    """One gateway and its buyers."""

    def __init__(self, name: str, url: str, admin_url: str, log: Path) -> None:
        self.name, self._log, self._logged = name, log, 0
        self._address = _address(url)
        self._buyers = HTTPConnection(*self._address, timeout=PATIENCE_S)
        self._admin = HTTPConnection(*_address(admin_url), timeout=PATIENCE_S)

    def talk(self, conversation: Conversation, names: dict[bytes, bytes]) -> bytes:
        """Have a conversation, and return all that is answered."""
        with socket.create_connection(self._address, timeout=PATIENCE_S) as client:
            # Each packet goes at once, and not when the one before was acknowledged.
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with suppress(ConnectionError):
                for piece in conversation.pieces(names):
                    client.sendall(piece)
                    if conversation.patient:
                        self._read_by()
            received = self._answers(client, conversation, names) if conversation.waits else b""
            with suppress(ConnectionError, OSError):
                if conversation.half_closes:
                    client.shutdown(socket.SHUT_WR)
                else:
                    client.sendall(END)
            return received + _rest(client)

    def close(self) -> None:
        """Close the connections by which it is asked."""
        self._buyers.close()
        self._admin.close()

    def new_traceback(self) -> str:
        """Return what was logged since the last look, if there is a traceback in it."""
        size = self._log.stat().st_size if self._log.exists() else 0
        if size == self._logged:
            return ""
        with self._log.open("rb") as log:
            log.seek(self._logged)
            new = log.read().decode(errors="replace")
        self._logged = size
        return new if "Traceback" in new else ""

    def _answers(
        self, client: socket.socket, conversation: Conversation, names: dict[bytes, bytes]
    ) -> bytes:
        """Wait for the answers: as many as there are requests, or until nothing is in flight."""
        received, deadline = b"", time.monotonic() + PATIENCE_S
        expected = len(conversation.requests) + len(conversation.spoils)
        quiet = 0
        # A sale that was never opened is read anew each second, and who waits for that is not in
        # flight yet. This request waits for the same reading.
        waiting = f"/v1/sales/{names[b'{created}'].decode()}"
        while quiet < 2:
            _get(self._buyers, waiting)
            while select.select([client], [], [], 0)[0]:
                try:
                    data = client.recv(65_536)
                except ConnectionError:
                    return received
                if not data:
                    return received
                received, quiet = received + data, 0
            if received.count(b"\r\nDate: ") >= expected:
                return received
            quiet = quiet + 1 if self._in_flight() == 0 else 0
            if time.monotonic() > deadline:
                raise Differs(f"{self.name}: something is in flight for {PATIENCE_S} s")
        return received

    def _read_by(self) -> None:
        """Return when the gateway has read what was sent before."""
        _get(self._buyers, "/v1/nothing")

    def _in_flight(self) -> float:
        return sum(float(number) for number in _IN_FLIGHT.findall(_get(self._admin, "/metrics")))


class Twins:
    """The two gateways, and the sales that they know."""

    def __init__(
        self, connection: Twin, aiohttp: Twin, sales: Mapping[str, str], ticket_for: TicketMaker
    ) -> None:
        self._twins = (connection, aiohttp)
        self._sales, self._ticket_for = sales, ticket_for
        self._numbers = itertools.count()
        self.conversations = self.exactly_alike = 0

    def compare(self, conversation: Conversation) -> None:
        """Raise Differs if the twins do not answer a conversation alike, and rightly."""
        number = next(self._numbers)
        sides = []
        for twin in self._twins:
            stream = twin.talk(conversation, self._names(f"{twin.name[0]}{number:07}"))
            try:
                sides.append(answers_in(stream))
            except Differs as strange:
                raise Differs(f"{conversation}\n{twin.name}: {strange}") from strange
        complaints = [
            difference(conversation, sides[0], sides[1]),
            *(broken_promise(conversation, answers) for answers in sides),
            *(twin.new_traceback() for twin in self._twins),
        ]
        self.conversations += 1
        self.exactly_alike += sides[0] == sides[1]
        if any(complaints):
            sent = conversation.pieces({})
            told = "\n".join(complaint for complaint in complaints if complaint)
            raise Differs(f"{conversation}\nsent: {sent}\n{told}")

    def close(self) -> None:
        """Close what is open for all conversations."""
        for twin in self._twins:
            twin.close()

    def _names(self, prefix: str) -> dict[bytes, bytes]:
        """Return what stands for the placeholders: buyers of one conversation."""
        names = {b"{%b}" % state.encode(): id_.encode() for state, id_ in self._sales.items()}
        for state, sale_id in self._sales.items():
            for buyer in range(BUYERS):
                made = self._ticket_for(sale_id, f"{prefix}-{buyer}")
                names[ticket(state, buyer)] = made.encode()
        return names


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


def _get(connection: HTTPConnection, path: str) -> bytes:
    for attempt in (1, 2):
        try:
            connection.request("GET", path)
            return connection.getresponse().read()
        except (HTTPException, ConnectionError):
            connection.close()  # it was idle for too long
            if attempt == 2:
                raise
    raise AssertionError("bug: neither answered nor raised")


def _rest(client: socket.socket) -> bytes:
    """Read until the gateway closes, or resets."""
    received = b""
    with suppress(ConnectionError):
        while data := client.recv(65_536):
            received += data
    return received
