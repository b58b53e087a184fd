"""Control sockets: one JSON line in, one JSON line out, then the connection is closed.

A socket lies in a directory of mode 0700: a user who may open it may do all that its owner can.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from seckill.errors import SeckillError, UserMistake

#: An owner that is well answers within its stores' time limits; one that does not is hung.
ANSWER_S = 15.0
#: For the answers that are being written when the owner ends.
GOODBYE_S = 1.0

Reply = dict[str, Any]
R = TypeVar("R", bound=msgspec.Struct)


class NotListening(SeckillError):
    """No process listens at a control socket."""


@dataclass(frozen=True, slots=True)
class ControlSocket:
    """Where a process of a home takes requests."""

    directory: Path
    #: For error messages: which process listens there, and the message when it does not run.
    owner: str
    absent: str

    @asynccontextmanager
    async def serving(
        self, request_type: type[R], handle: Callable[[R], Awaitable[Reply]]
    ) -> AsyncIterator[None]:
        """Answer requests by `handle` inside the block; the caller gets what it raises."""
        decode = msgspec.json.Decoder(request_type).decode
        answering: set[asyncio.Task[None]] = set()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                if line := await reader.readline():
                    reply = await _reply(lambda: handle(decode(line)))
                    writer.write(json.dumps(reply).encode() + b"\n")
                    await writer.drain()
            except ConnectionError:
                return  # the caller has left: no process waits for this answer
            finally:
                writer.close()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(answer(reader, writer), name="control")
            answering.add(task)
            task.add_done_callback(answering.discard)

        server = await asyncio.start_unix_server(accept, sock=self._listener())
        try:
            yield
        finally:
            server.close()
            (self.directory / "socket").unlink(missing_ok=True)
            if answering:
                await asyncio.wait(answering, timeout=GOODBYE_S)

    def ask(self, request: msgspec.Struct, *, timeout_s: float | None = ANSWER_S) -> Reply:
        """Return the owner's reply, or raise what it objects to; NotListening when it is not there.

        Without a `timeout_s` it may take as long as it lives.
        """
        try:
            with (
                _reachable(self.directory) as path,
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection,
            ):
                connection.settimeout(timeout_s)
                connection.connect(path)
                connection.sendall(msgspec.json.encode(request) + b"\n")
                answer = connection.makefile("rb").readline()
        except TimeoutError:
            raise SeckillError(f"the {self.owner} did not answer within {timeout_s:g} s") from None
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotListening(self.absent) from None
        except OSError as error:
            raise SeckillError(f"the {self.owner} cannot be asked: {error}") from error
        if not answer:
            raise SeckillError(f"the {self.owner} ended before it answered")
        reply: Reply = json.loads(answer)
        if "mistake" in reply:
            raise UserMistake(reply["mistake"])
        if "error" in reply:
            raise SeckillError(reply["error"])
        return reply

    def _listener(self) -> socket.socket:
        self.directory.mkdir(parents=True, exist_ok=True)
        self.directory.chmod(0o700)
        with _reachable(self.directory) as path:
            Path(path).unlink(missing_ok=True)  # of an owner that was killed
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            listener.bind(path)
            Path(path).chmod(0o600)
        return listener


async def _reply(handle: Callable[[], Awaitable[Reply]]) -> Reply:
    try:
        return await handle()
    except msgspec.MsgspecError as error:
        return {"mistake": f"no such request: {error}"}
    except UserMistake as mistake:
        return {"mistake": str(mistake)}
    except (SeckillError, OSError) as error:
        return {"error": str(error) or repr(error)}


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
