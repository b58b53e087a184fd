"""The peers as processes: what each lacks on this machine, and how each is started and stopped.

if line := NGINX.missing():
    print(line)  # a row that is left out is named
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
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import aiohttp

from config.settings import Settings
from gateway.grabs.responses import REFUSALS
from gateway.http.problems import Problem, problem_body
from loadtest.stack import Process, pinned
from ops.processes.child import Child
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
#: As patient as our side of a closed loop: a slow peer must answer all of its requests, too.
CALL_MAX_MS = 60_000
#: More than wrk has requests in flight, so that no connection to Redis is made twice.
CONNECTIONS_KEPT = 1024


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to compare ours with."""

    name: str
    #: Returns one line: what this machine lacks for the peer and what to type; "" if it can run.
    missing: Callable[[], str]
    #: Makes the files that it needs in a directory, and returns its command line for a port and
    #: the URL of a Redis.
    prepare: Callable[[Path, int, str], Sequence[str | Path]]


@asynccontextmanager
async def running(
    peer: Peer, home: Path, redis_url: str, core: int | None = None
) -> AsyncIterator[Process]:
    """Run a peer, pinned if a core is given, from when it answers to the end of the block.

    Raise StartFailed with the end of its log if it does not start. One of each peer at a time in
    a home.
    """
    stack_home = StackHome(home, load_credentials(home))
    name, port = f"peer-{peer.name}", free_port()
    directory, url = stack_home.directory(name), f"http://{LOOPBACK}:{port}"
    argv = peer.prepare(directory, port, redis_url)
    child = Child(stack_home.spec(name, argv, cwd=directory), lambda: _answers(url))
    try:
        with pinned(core):
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


def _prepare_hello(_directory: Path, port: int, _redis_url: str) -> list[str | Path]:
    return [sys.executable, SOURCES / "hello.py", str(port)]


#: A bare aiohttp application: `GET /` and `POST /`.
HELLO = Peer("hello", lambda: "", _prepare_hello)


def _find_nginx() -> str | None:
    # Debian keeps it in sbin, which an ordinary user's path lacks.
    return shutil.which("nginx", path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin"]))


def _missing_nginx() -> str:
    modules = [NGINX_MODULES / f"{name}.so" for name in ("ndk_http_module", "ngx_http_lua_module")]
    cjson = Path("/usr/lib").glob("*/lua/5.1/cjson.so")  # below the machine's triplet
    files = [*modules, NGINX_LUA / "redis.lua"]
    if _find_nginx() and all(file.exists() for file in files) and any(cjson):
        return ""
    return f"nginx with Lua is missing; type: sudo apt-get install {NGINX_PACKAGES}"


def _prepare_nginx(directory: Path, port: int, redis_url: str) -> list[str | Path]:
    config, text = directory / "nginx.conf", (SOURCES / "nginx.conf").read_text()
    own = {"modules": NGINX_MODULES, "sources": SOURCES, "port": port}
    for name, value in own.items():
        text = text.replace(f"@{name}@", str(value))
    config.write_text(text)
    # A file, because every user of the machine can read a command line.
    settings = json.dumps(_nginx_settings(redis_url), indent=2)
    write_private(directory / "settings.json", settings)
    # The prefix is where it looks for settings.json and writes what it has to.
    return [_find_nginx() or "nginx", "-p", directory, "-c", config]


#: nginx with Lua: grabs by one script call a request, and `/constant`, our sold-out answer.
NGINX = Peer("nginx", _missing_nginx, _prepare_nginx)


def _nginx_settings(redis_url: str) -> dict[str, object]:
    redis = urlsplit(redis_url)
    if redis.scheme != "redis":
        raise SeckillError(f"peers can only use a redis:// URL, not {redis.scheme}://")
    refusals = {verdict.value: problem for verdict, problem in REFUSALS.items()}
    refusals |= {Verdict.QUANTITY.value: Problem.BAD_REQUEST, "ticket": Problem.BAD_TICKET}
    keys = redis_keys.stock, redis_keys.sale, redis_keys.holders, redis_keys.outbox
    return {
        "redis": {
            # As an address: nginx resolves names by a name server alone.
            "host": socket.gethostbyname(redis.hostname or LOOPBACK),
            "port": redis.port or 6379,
            "user": unquote(redis.username or "default"),
            "password": unquote(redis.password or ""),
            "database": int(redis.path.strip("/") or 0),
            "connections_kept": CONNECTIONS_KEPT,
        },
        "script": (SOURCES / "one_grab.lua").read_text(),
        # No sale has this name, so that it marks where a sale's name goes.
        "keys": [key("%s") for key in keys],
        "call_max_ms": CALL_MAX_MS,
        "outbox_max": Settings.model_fields["outbox_max"].default,
        "refusals": {
            name: {"status": problem.value.status, "body": problem_body(problem).decode()}
            for name, problem in refusals.items()
        },
    }
