"""The peers as processes: what each lacks on this machine, and how it is started and stopped.

if line := NGINX.missing():
    print(line)  # left out with a word, never silently
else:
    async with running(NGINX, stack.home, stack.services.redis_url, core) as peer:
        ...  # peer.url
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiohttp

from config.settings import PROJECT_ROOT, Settings
from gateway.http.problems import REFUSALS, Problem, problem_body
from loadtest.stack import Process, pinned
from ops.processes.child import Child, run_to_end
from ops.processes.ports import LOOPBACK, free_port
from ops.stack.credentials import load_credentials
from ops.stack.servers.server import StackHome, until_answers, write_private
from seckill.adapters import redis_keys
from seckill.errors import SeckillError
from seckill.inventory.reservations import Verdict

SOURCES = Path(__file__).parent
#: By name `nginx`, although others need it, so that apt-install keeps its daemon from starting.
NGINX_PACKAGES = "nginx libnginx-mod-http-lua lua-nginx-redis lua-cjson"
#: Where Debian and Ubuntu put the modules of their nginx, and the Lua of those.
NGINX_MODULES = Path("/usr/lib/nginx/modules")
NGINX_LUA = Path("/usr/share/lua/5.1/nginx")
#: As patient as our side of a closed loop: a peer that is slow must answer all it is given, too.
CALL_MAX_MS = 60_000
#: More than wrk has requests under way, so that no connection to Redis is made twice.
CONNECTIONS_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Site:
    """Where a peer is to run, and the Redis that it is to use."""

    place: StackHome
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
    place = StackHome(home, load_credentials(home))
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


# nginx


def _find_nginx() -> str | None:
    # Debian keeps it in sbin, which an ordinary user's path lacks.
    return shutil.which("nginx", path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin"]))


def _missing_nginx() -> str:
    files = (
        NGINX_MODULES / "ndk_http_module.so",
        NGINX_MODULES / "ngx_http_lua_module.so",
        NGINX_LUA / "redis.lua",
    )
    cjson = Path("/usr/lib").glob("*/lua/5.1/cjson.so")  # below the machine's triplet
    if _find_nginx() and all(file.exists() for file in files) and any(cjson):
        return ""
    return f"nginx with Lua is missing; type: sudo apt-get install {NGINX_PACKAGES}"


async def _prepare_nginx(site: Site) -> list[str | Path]:
    config = site.directory / "nginx.conf"
    text = (SOURCES / "nginx.conf").read_text()
    own = {"modules": NGINX_MODULES, "sources": SOURCES, "port": site.port}
    for name, value in own.items():
        text = text.replace(f"@{name}@", str(value))
    config.write_text(text)
    _write_settings(site)
    # The prefix is where it looks for settings.json and writes what it has to.
    return [_find_nginx() or "nginx", "-p", site.directory, "-c", config]


#: nginx with Lua: grabs by one script call a request, and `/constant`, our sold-out answer.
NGINX = Peer("nginx", _missing_nginx, _prepare_nginx)


# Go


def _missing_go() -> str:
    return "" if shutil.which("go") else "Go is missing; type: sudo apt-get install golang-go"


async def _prepare_go(site: Site) -> list[str | Path]:
    program = site.directory / "grabs"
    # Outside of any module, and of the standard library alone: nothing is downloaded.
    build: list[str | Path] = ["go", "build", "-o", program, SOURCES / "grabs.go"]
    # One cache for all homes: since 1.20 Go comes with a library that is yet to be compiled, which
    # takes half a minute.
    env = {"GOCACHE": str(PROJECT_ROOT / ".seckill" / "go-cache")}
    await run_to_end(site.place.spec("peer-go-build", build, cwd=site.directory, env=env))
    return [program, "-port", str(site.port), "-settings", _write_settings(site)]


#: Go's net/http: grabs by one script call a request.
GO = Peer("go", _missing_go, _prepare_go)


# What peers that grab are told.


def _write_settings(site: Site) -> Path:
    """Write what a peer needs to know: in a file, as everybody can read command lines."""
    redis = urlsplit(site.redis_url)
    if redis.scheme != "redis":
        raise SeckillError(f"peers can only use a redis:// URL, not {redis.scheme}://")
    refusals = {verdict.value: problem for verdict, problem in REFUSALS.items()}
    refusals |= {Verdict.QUANTITY.value: Problem.BAD_REQUEST, "ticket": Problem.BAD_TICKET}
    settings = {
        "redis": {
            # As an address: nginx knows of names only what a name server tells it.
            "host": socket.gethostbyname(redis.hostname or LOOPBACK),
            "port": redis.port or 6379,
            "user": unquote(redis.username or "default"),
            "password": unquote(redis.password or ""),
            "database": int(redis.path.strip("/") or 0),
            "connections_kept": CONNECTIONS_KEPT,
        },
        "script": (SOURCES / "one_grab.lua").read_text(),
        # No sale has this name, so that it marks where that goes.
        "keys": [
            key("%s")
            for key in (redis_keys.stock, redis_keys.sale, redis_keys.holders, redis_keys.outbox)
        ],
        "call_max_ms": CALL_MAX_MS,
        "outbox_max": Settings.model_fields["outbox_max"].default,
        "refusals": {
            name: {"status": problem.value.status, "body": problem_body(problem).decode()}
            for name, problem in refusals.items()
        },
    }
    file = site.directory / "settings.json"
    write_private(file, json.dumps(settings, indent=2))
    return file
