"""Clients that misbehave, in a process of their own; they go on until the block ends.

async with misbehaving(PIPELINING, ("127.0.0.1", 8080), sale_id):
    ...  # all of them have connected by now
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

import uvloop

from loadtest.stack import OTHER_CORE, PATIENCE_S, pinned
from seckill.errors import SeckillError

#: Connections that one process opens at a time, so that they do not fill the accept queues.
OPENING_MAX = 100
#: Pause of a client whose connection was closed, if it comes back.
BACK_AFTER_S = 0.5
#: One process may open some 20,000 files on an ordinary machine.
CONNECTIONS_A_PROCESS = 10_500
_ANSWER = b"HTTP/1.1 "


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """What some clients do; `{sale}` in the request is the sale's id."""

    name: str
    connections: int
    #: Nothing is sent if it is empty.
    request: str = ""
    #: Requests that each connection keeps under way.
    ahead: int = 1
    comes_back: bool = False
    tls: bool = False


#: Grabs with junk tickets, as fast as they are answered.
PIPELINING = Misbehaviour(
    "16 that pipeline",
    16,
    "POST /v1/sales/{sale}/grabs HTTP/1.1\r\nHost: x\r\nSeckill-Ticket: junk\r\n"
    "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}",
    ahead=200,
    comes_back=True,
)
#: Login tokens of 7.8 kB.
JUNK_TOKENS = Misbehaviour(
    "200 with junk tokens",
    200,
    "POST /v1/sales/{sale}/tickets HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n"
    f"Authorization: Bearer {'x' * 2_600}.{'x' * 2_600}.{'x' * 2_600}\r\n\r\n",
    comes_back=True,
)
#: Each request is a whole one of aiohttp, and none is wrong.
LISTING = Misbehaviour(
    "200 that list the sales",
    200,
    "GET /v1/sales?limit=100 HTTP/1.1\r\nHost: x\r\n\r\n",
    comes_back=True,
)
#: All from one address.
IDLE = Misbehaviour("21,000 idle", 21_000)
#: They connect and never shake hands.
TLS_SILENCE = Misbehaviour("3,000 silent at TLS", 3_000, comes_back=True, tls=True)
ALL = (PIPELINING, JUNK_TOKENS, LISTING, IDLE, TLS_SILENCE)


@asynccontextmanager
async def misbehaving(
    kind: Misbehaviour, address: tuple[str, int], sale_id: str
) -> AsyncIterator[None]:
    """Let the clients misbehave until the block ends; raise SeckillError if they do not.

    Beside clients that are not there anything would be well.
    """
    spawning = multiprocessing.get_context("spawn")  # a fork would have our threads' locks
    request = kind.request.format(sale=sale_id).encode()
    started = []
    try:
        for first in range(0, kind.connections, CONNECTIONS_A_PROCESS):
            count = min(CONNECTIONS_A_PROCESS, kind.connections - first)
            link, other = spawning.Pipe()
            process = spawning.Process(
                target=_run, args=(other, kind, address, request, count), daemon=True
            )
            with pinned(OTHER_CORE):
                process.start()
            other.close()
            started.append(process)
            if not await asyncio.to_thread(link.poll, PATIENCE_S):
                raise SeckillError(f"{kind.name}: not all have connected")
            try:
                link.recv()
            except EOFError as error:
                raise SeckillError(f"{kind.name}: its process has ended") from error
        yield
        if not all(process.is_alive() for process in started):
            raise SeckillError(f"{kind.name}: its process has ended before the drill")
    finally:
        for process in started:
            process.terminate()
            process.join()


def _run(
    link: Connection, kind: Misbehaviour, address: tuple[str, int], request: bytes, count: int
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    uvloop.run(_misbehave(link, kind, address, request, count))


async def _misbehave(
    link: Connection, kind: Misbehaviour, address: tuple[str, int], request: bytes, count: int
) -> None:
    """Run all clients; report to the link when each has tried to connect."""
    opening, tried = asyncio.Semaphore(OPENING_MAX), 0
    all_tried = asyncio.Event()

    async def client() -> None:
        nonlocal tried
        is_first = True
        while is_first or kind.comes_back:
            try:
                async with opening:
                    reader, writer = await asyncio.open_connection(*address)
                writer.transport.set_write_buffer_limits(0)
            except OSError:
                reader = None
            if is_first:
                is_first, tried = False, tried + 1
                if tried == count:
                    all_tried.set()
            if reader is not None:
                with suppress(OSError):
                    await press(reader, writer, request, kind.ahead)
                writer.close()
            await asyncio.sleep(BACK_AFTER_S)

    async with asyncio.TaskGroup() as clients:
        for _ in range(count):
            clients.create_task(client())
        await all_tried.wait()
        link.send("all have tried")
        await asyncio.Event().wait()  # until the process is ended


async def press(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes, ahead: int
) -> None:
    """Keep so many requests under way until the connection ends; without one, only stay."""
    writer.write(request * ahead)
    rest = b""
    while data := await reader.read(65_536):
        received = rest + data
        answers, rest = received.count(_ANSWER), received[1 - len(_ANSWER) :]
        if request:
            writer.write(request * answers)
            await writer.drain()
