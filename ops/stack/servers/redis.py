"""A private Redis (or Valkey) whose every acknowledged write is on disk."""

from __future__ import annotations

from pathlib import Path

from ops.processes.child import Child
from ops.processes.ports import LOOPBACK, kept_port
from ops.stack.discovery import require
from ops.stack.servers.greeting import until_greeted
from ops.stack.servers.server import Server, StackHome, configuration, write_private


async def prepare(place: StackHome) -> Server:
    """Write the configuration and describe the process."""
    server = require("redis")
    directory = place.directory("redis")
    port = kept_port(place.home, "redis")
    password = place.credentials.redis_password
    config = directory / "redis.conf"
    # In the file, not on the command line, where every user of the machine could read it.
    own_lines = f"port {port}", f"dir {_quoted(directory)}", f"requirepass {password}"
    write_private(config, configuration("redis.conf", *own_lines))
    # With the name of the user, without which redis-cli 7.0 does not log in.
    url = f"redis://default:{password}@{LOOPBACK}:{port}/0"
    spec = place.spec("redis", [server, config], cwd=directory)
    child = Child(spec, lambda: until_greeted("redis", url))
    return Server("redis", url, f"{LOOPBACK}:{port}", [child])


def _quoted(path: Path) -> str:
    """Return a path as one argument of a line of redis.conf, whatever it contains."""
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
