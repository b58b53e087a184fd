"""Free ports on the loopback interface."""

from __future__ import annotations

import json
import random
import socket
from collections import deque
from contextlib import suppress
from pathlib import Path

LOOPBACK = "127.0.0.1"

#: Below the range from which Linux takes the ports of outgoing connections (32768 and up). A port
#: of that range could be taken by any client while its store is being restarted, or a client
#: that dials the dead store could be given the very port it dials, and talk to itself.
_RANGE = range(20_000, 32_000)
_ATTEMPTS = 200
_handed_out: set[int] = set()
#: The last ports that were handed out stay reserved: a store takes seconds until it listens, and
#: other processes of ours look for ports meanwhile. More are never awaited at a time.
_reserved: deque[socket.socket] = deque(maxlen=64)


def free_port(in_a_row: int = 1) -> int:
    """Return a port on which no process listens, and never the same one twice.

    Nor one that another process has just been given, which does not listen on it yet. Of several
    in a row return the first.
    """
    for _ in range(_ATTEMPTS):
        first = random.choice(_RANGE)  # noqa: S311 - spread, not secrecy
        ports = range(first, first + in_a_row)
        if all(p not in _handed_out and _is_free(p) and _reserve(p) for p in ports):
            _handed_out.update(ports)
            return first
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


def _reserve(port: int) -> bool:
    """Return whether no other process has reserved a port, and this one has now.

    A name in the abstract namespace (unix(7)) belongs to one socket, and is free when that is
    closed, however its process ends.
    """
    claim = socket.socket(socket.AF_UNIX)
    try:
        claim.bind(f"\0seckill-port-{port}")
    except OSError:
        claim.close()
        return False
    if len(_reserved) == _reserved.maxlen:
        _reserved.popleft().close()
    _reserved.append(claim)
    return True


def _is_free(port: int, *, reuse: bool = False) -> bool:
    """Return whether it can be bound; with `reuse` although connections of before linger."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
