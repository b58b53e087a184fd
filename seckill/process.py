"""What a process owes its supervisor: READY=1, an error for a busy port, a stop on signals."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from seckill.errors import SeckillError
from seckill.outages import OUTAGES

log = logging.getLogger(__name__)


def notify_ready(notify_socket: str) -> None:
    """Send READY=1 by systemd's protocol (sd_notify), if a supervisor asked for it.

    From now on the process lives through outages, and logs them.
    """
    OUTAGES.logs = True
    notify_waiting(notify_socket)


def notify_waiting(notify_socket: str) -> None:
    """Send READY=1 for a process that cannot start yet: another one would wait as well."""
    if not notify_socket:
        return
    address = "\0" + notify_socket[1:] if notify_socket.startswith("@") else notify_socket
    # A supervisor of ours listens until the first READY=1 only.
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel,
        suppress(ConnectionRefusedError),
    ):
        channel.sendto(b"READY=1", address)


@contextmanager
def listening(host: str, port: int, setting: str) -> Iterator[None]:
    """Raise an error that names the port and its setting if the port cannot be opened."""
    try:
        yield
    except OSError as error:
        reason = "it is in use" if error.errno == errno.EADDRINUSE else str(error)
        raise SeckillError(f"cannot listen on {host}:{port} ({setting}): {reason}") from error


def stop_on_signals() -> asyncio.Event:
    """Return an event that SIGTERM or SIGINT sets; SIGHUP is noted in the log, and ends nothing.

    SIGHUP means that the terminal is gone, or "read your configuration again". By default it would
    end the process with its work undrained. It is handled, not ignored, because what is ignored
    stays ignored in every child.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signal_ in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signal_, stop.set)
    loop.add_signal_handler(signal.SIGHUP, log.info, "SIGHUP: there is nothing to read again")
    return stop
