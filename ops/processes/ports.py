"""Free ports on the loopback interface."""

from __future__ import annotations

import json
import random
import socket
from contextlib import suppress
from pathlib import Path

LOOPBACK = "127.0.0.1"

#: Below the range from which Linux takes the ports of outgoing connections (32768 and up). A port
#: of that range could be taken by any client while its store is being restarted, or a client
#: that dials the dead store could be given the very port it dials, and talk to itself.
_RANGE = range(20_000, 32_000)
_ATTEMPTS = 200
_handed_out: set[int] = set()


def free_port() -> int:
    """Return a port on which no process listens, and never the same one twice."""
    for _ in range(_ATTEMPTS):
        port = random.choice(_RANGE)  # noqa: S311 - spread, not secrecy
        if port not in _handed_out and _is_free(port):
            _handed_out.add(port)
            return port
    raise OSError(f"no free port between {_RANGE.start} and {_RANGE.stop} on {LOOPBACK}")


def kept_port(home: Path, name: str) -> int:
    """Return the port that `name` had in this home the last time if it is free, or a new one.

    So an address that somebody has noted is still right when the stack is started again.
    """
    file = home / "ports.json"
    kept: dict[str, int] = {}
    with suppress(OSError, ValueError):  # there is none yet, or it was cut off: new ports then
        kept = json.loads(file.read_text())
    port = kept.get(name, 0)
    if not port or port in _handed_out or not _is_free(port, reuse=True):
        port = free_port()
        file.write_text(json.dumps({**kept, name: port}))
    _handed_out.add(port)
    return port


def _is_free(port: int, *, reuse: bool = False) -> bool:
    """Return whether it can be bound; with `reuse` although connections of before linger."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
