"""The pool manager's control socket: one JSON line in, one JSON line out, then the line is closed.

It lies in a directory of mode 0700: who may open it may do everything that the manager can.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import msgspec

from seckill.errors import SeckillError, UserMistake

#: A manager that is well answers within its stores' time limits; one that does not is hung.
ANSWER_S = 15.0
#: Needs no store, so it is answered at once, or not at all.
OVERVIEW_S = 3.0
#: For the answers that are being written when the manager ends.
GOODBYE_S = 1.0


class Request(msgspec.Struct, forbid_unknown_fields=True):
    """What a manager is asked for."""

    op: Literal["status", "overview", "scale", "pause", "resume", "drain", "restart", "stop"]
    #: For pause and resume; none means all.
    roles: list[str] = []
    #: For scale: role -> lower and upper bound, equal for a fixed count.
    counts: dict[str, tuple[int, int]] = {}


Reply = dict[str, Any]
Handler = Callable[[Request], Awaitable[Reply]]

_decode = msgspec.json.Decoder(Request).decode


class NoPool(SeckillError):
    """No pool manager runs."""


@asynccontextmanager
async def control_server(home: Path, handle: Handler) -> AsyncIterator[None]:
    """Answer requests by `handle`; what it raises is told to the caller."""
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if line := await reader.readline():
                writer.write(json.dumps(await _reply(handle, line)).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            return  # the caller went away: nobody wants to know
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(answer(reader, writer), name="control")
        answering.add(task)
        task.add_done_callback(answering.discard)

    server = await asyncio.start_unix_server(accept, sock=_listener(_directory(home)))
    try:
        yield
    finally:
        server.close()
        (_directory(home) / "socket").unlink(missing_ok=True)
        if answering:
            await asyncio.wait(answering, timeout=GOODBYE_S)


def ask(home: Path, request: Request, *, timeout_s: float | None = ANSWER_S) -> Reply:
    """Ask the manager of `home`; NoPool when none runs, and what it objects to as it was raised."""
    try:
        with (
            _reachable(_directory(home)) as path,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line,
        ):
            line.settimeout(timeout_s)
            line.connect(path)
            line.sendall(msgspec.json.encode(request) + b"\n")
            answer = line.makefile("rb").readline()
    except TimeoutError:
        raise SeckillError(f"the pool manager did not answer within {timeout_s:g} s") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise NoPool(
            f"no pool runs in {home}; start it: seckill pool start, or all: seckill up"
        ) from None
    except OSError as error:
        raise SeckillError(f"the pool manager cannot be asked: {error}") from error
    if not answer:
        raise SeckillError("the pool manager ended before it answered")
    reply: Reply = json.loads(answer)
    if "mistake" in reply:
        raise UserMistake(reply["mistake"])
    if "error" in reply:
        raise SeckillError(reply["error"])
    return reply


def overview(home: Path) -> Reply | None:
    """Return the manager's pid and its workers as `seckill status` shows them; None: no answer."""
    with suppress(SeckillError):
        return ask(home, Request("overview"), timeout_s=OVERVIEW_S)
    return None


async def _reply(handle: Handler, line: bytes) -> Reply:
    try:
        return await handle(_decode(line))
    except msgspec.MsgspecError as error:
        return {"mistake": f"no such request: {error}"}
    except UserMistake as mistake:
        return {"mistake": str(mistake)}
    except (SeckillError, OSError) as error:
        return {"error": str(error) or repr(error)}


def _listener(directory: Path) -> socket.socket:
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o700)
    with _reachable(directory) as path:
        Path(path).unlink(missing_ok=True)  # of a manager that was killed
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        Path(path).chmod(0o600)
    return listener


def _directory(home: Path) -> Path:
    return home / "run" / "pool"


@contextmanager
def _reachable(directory: Path) -> Iterator[str]:
    """Give the socket a path that fits into the 107 bytes that the kernel takes.

    A home may lie deep; through an open directory its own path does not count.
    """
    descriptor = os.open(directory, os.O_DIRECTORY | os.O_PATH)
    try:
        yield f"/proc/self/fd/{descriptor}/socket"
    finally:
        os.close(descriptor)
