"""The peers as processes: what each lacks on this machine, and how it is started and stopped.

if line := HELLO.missing():
    print(line)  # left out with a word, never silently
else:
    async with running(HELLO, stack.home, stack.services.redis_url, core) as peer:
        ...  # peer.url
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from loadtest.bench_stack import Process, pinned
from ops.children import Child
from ops.credentials import load_credentials
from ops.ports import LOOPBACK, free_port
from ops.stores.place import Place, until_answers

SOURCES = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Site:
    """Where a peer is to run, and the Redis that it is to use."""

    place: Place
    directory: Path
    port: int
    redis_url: str


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to measure ours against."""

    name: str
    #: Says in one line what this machine lacks for it, and what to type; "" when it can run.
    missing: Callable[[], str]
    #: Makes the files that it needs and returns its command line.
    prepare: Callable[[Site], Awaitable[Sequence[str | Path]]]


@asynccontextmanager
async def running(
    peer: Peer, home: Path, redis_url: str, core: int | None = None
) -> AsyncIterator[Process]:
    """Run a peer, pinned if a core is given, from when it answers to the end of the block.

    Raises StartFailed with the end of its log. One of each peer at a time in a home.
    """
    place = Place(home, load_credentials(home))
    name = f"peer-{peer.name}"
    site = Site(place, place.directory(name), free_port(), redis_url)
    url = f"http://{LOOPBACK}:{site.port}"
    argv = await peer.prepare(site)
    child = Child(place.spec(name, argv, cwd=site.directory), lambda: _answers(url))
    try:
        with nullcontext() if core is None else pinned(core):
            await child.start()
        yield Process(child, url)
    finally:
        await child.stop()


async def _answers(url: str) -> None:
    async with aiohttp.ClientSession() as client:

        async def ask() -> None:
            async with client.get(url):
                pass

        await until_answers(ask, (aiohttp.ClientConnectionError,))


# hello


async def _prepare_hello(site: Site) -> list[str | Path]:
    return [sys.executable, SOURCES / "hello.py", str(site.port)]


#: A bare aiohttp application: `GET /` and `POST /`.
HELLO = Peer("hello", lambda: "", _prepare_hello)
