"""Free ports on the loopback interface."""

from __future__ import annotations

import random
import socket

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


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
