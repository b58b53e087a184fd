"""A private Redis (or Valkey) whose every acknowledged write is on disk."""

from __future__ import annotations

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as NotConnected
from redis.exceptions import TimeoutError as NoAnswer

from ops.processes.child import Child
from ops.processes.ports import LOOPBACK, free_port
from ops.stack.discovery import require
from ops.stack.servers.server import Server, StackHome, configuration, until_answers, write_private


async def prepare(place: StackHome) -> Server:
    """Write the configuration and describe the process."""
    server = require("redis")
    directory = place.directory("redis")
    port = free_port()
    password = place.credentials.redis_password
    config = directory / "redis.conf"
    # In the file, not on the command line, where every user of the machine could read it.
    own_lines = f"port {port}", f"dir {directory}", f"requirepass {password}"
    write_private(config, configuration("redis.conf", *own_lines))
    # With the name of the user, without which redis-cli 7.0 does not log in.
    url = f"redis://default:{password}@{LOOPBACK}:{port}/0"
    child = Child(place.spec("redis", [server, config], cwd=directory), lambda: _answers(url))
    return Server("redis", url, f"{LOOPBACK}:{port}", [child])


async def _answers(url: str) -> None:
    """Wait for PONG; while Redis reads the append-only file, it answers LOADING."""
    client = Redis.from_url(url, socket_timeout=1, retry=Retry(NoBackoff(), 0))
    async with client:
        await until_answers(client.ping, (NotConnected, NoAnswer))
