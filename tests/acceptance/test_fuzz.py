"""The short run of the fuzzer (`make fuzz` is the long one), and what it found."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from seckill.auth.key_ring import KeyRing
from tests.fuzz.conversations import Conversation, Request
from tests.fuzz.fuzzer import run_round
from tests.fuzz.setup import make_twins
from tests.fuzz.twins import Twins

#: Seed and size of the short run: the same conversations each time, in about ten seconds.
SEED, COUNT = 1, 200

_GRAB = (
    b"POST /v1/sales/{open}/grabs HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    b"Seckill-Ticket: {ticket:open:0}\r\nContent-Length: 2\r\n\r\n{}"
)
#: Requests of conversations that were once answered differently or wrongly.
FOUND = {
    "requests behind one that closes": [_GRAB.replace(b"1.1", b"1.0"), _GRAB],
    "no version": [b"GET /last\r\n\r\n"],
    "another version behind a grab": [_GRAB, b"GET / HTTP/2.0\r\nHost: x\r\n\r\n"],
}


@pytest.fixture(scope="module")
async def twins(processes, db, stock, settings) -> AsyncIterator[Twins]:
    ring = KeyRing.parse(settings.ticket_keys.get_secret_value(), setting="test")
    twins = await make_twins(processes.run, processes.home, db, stock, ring)
    yield twins
    twins.close()


def test_conversations_get_the_same_answers_from_the_connection_and_from_aiohttp(twins):
    run_round(twins, SEED, COUNT)
    assert twins.exactly_alike > COUNT / 2, "the comparison looks away too often"


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_mended(twins, name):
    requests = tuple(Request(data) for data in FOUND[name])
    twins.compare(Conversation(requests, (), (), patient=True, waits=True, half_closes=False))
