"""Branches: what takes part in a transaction."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import asyncpg
import msgspec

from seckill.adapters.http import HttpClient, Reply
from seckill.adapters.postgres import transaction
from seckill.errors import Unavailable
from seckill.transactions import barrier
from seckill.transactions.states import BranchCall, BranchOp

#: Does an operation for all works in the caller's transaction, in few statements, and returns
#: tx_id -> reason for those that it refuses and has not touched. Locks in the house's order:
#: orders by id, inventory by sale, wallets by buyer. Raises for trouble only.
Operation = Callable[[asyncpg.Connection, Sequence[BranchCall]], Awaitable[Mapping[str, str]]]


class Branch(Protocol):
    """One participant. Doing an operation again has no further effect."""

    @property
    def name(self) -> str:
        """Its name in the log and in the barrier; never changed while transactions are open."""

    async def run(self, op: BranchOp, works: Sequence[BranchCall]) -> Mapping[str, str]:
        """Do an operation for all works; return tx_id -> reason for those refused.

        Only try and do may refuse. Raises PartlyDone when some are known to be done, any other
        exception when for none of them it is known.
        """


@dataclass(frozen=True, slots=True)
class Definition:
    """What a transaction consists of, under the name that the log keeps."""

    name: str
    #: Tried, done and confirmed in this order; canceled and undone in reverse.
    branches: tuple[Branch, ...]


class PartlyDone(Unavailable):
    """Some of a call's works failed; the others are done or refused."""

    def __init__(self, refused: Mapping[str, str], failed: Mapping[str, Exception]) -> None:
        super().__init__(f"{len(failed)} failed, such as: {next(iter(failed.values()))}")
        self.refused = refused
        self.failed = failed


class SqlBranch:
    """A branch in PostgreSQL: one transaction a call, behind the barrier.

    An operation that is not given has nothing to do.
    """

    def __init__(
        self,
        name: str,
        db: asyncpg.Pool,
        *,
        try_: Operation | None = None,
        confirm: Operation | None = None,
        cancel: Operation | None = None,
        do: Operation | None = None,
        undo: Operation | None = None,
    ) -> None:
        self.name = name
        self._db = db
        self._operations = {
            BranchOp.TRY: try_,
            BranchOp.CONFIRM: confirm,
            BranchOp.CANCEL: cancel,
            BranchOp.DO: do,
            BranchOp.UNDO: undo,
        }

    async def run(self, op: BranchOp, works: Sequence[BranchCall]) -> Mapping[str, str]:
        """Do an operation, once for each transaction; Unavailable when PostgreSQL is away."""
        async with transaction(self._db) as connection:
            passed, refused = await barrier.enter(connection, self.name, op, works)
            operation = self._operations[op]
            if operation is None or not passed:
                return refused
            if now := await operation(connection, passed):
                await barrier.withdraw(connection, self.name, op, list(now))
            return {**refused, **now}


class HttpBranch:
    """A branch in another service: one `POST <url>/<operation>` with {"tx_id", "args"} a work.

    2xx is done, 409 and 422 refuse (try and do only), and anything else, as no answer, leaves the
    outcome unknown: then the same call is made again, with the same Idempotency-Key. The service
    has to keep a barrier of its own.
    """

    def __init__(self, name: str, client: HttpClient, url: str) -> None:
        self.name = name
        self._client = client
        self._url = url.rstrip("/")

    async def run(self, op: BranchOp, works: Sequence[BranchCall]) -> Mapping[str, str]:
        """Call the service for all works at once; the client bounds how many."""
        replies = await asyncio.gather(*(self._call(op, work) for work in works))
        refused: dict[str, str] = {}
        failed: dict[str, Exception] = {}
        for work, reply in zip(works, replies, strict=True):
            if isinstance(reply, Unavailable):
                failed[work.tx_id] = reply
            elif reply.status in (409, 422):
                refused[work.tx_id] = _reason(reply)
            elif not 200 <= reply.status < 300:
                failed[work.tx_id] = Unavailable(f"{self._url}/{op} answered {reply.status}")
        if failed:
            raise PartlyDone(refused, failed)
        return refused

    async def _call(self, op: BranchOp, work: BranchCall) -> Reply | Unavailable:
        # One trace a transaction, whoever makes the call and however often.
        trace_id = hashlib.blake2b(work.tx_id.encode(), digest_size=16).hexdigest()
        headers = {
            "Idempotency-Key": f"{work.tx_id}/{self.name}/{op}",
            "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-00",
        }
        body = _encode({"tx_id": work.tx_id, "args": work.args})
        try:
            return await self._client.post(f"{self._url}/{op}", body, headers)
        except Unavailable as error:
            return error


class _BranchRefusal(msgspec.Struct):
    #: As in problem+json.
    code: str = "refused"


_encode = msgspec.json.Encoder().encode
_decode_refusal = msgspec.json.Decoder(_BranchRefusal).decode


def _reason(reply: Reply) -> str:
    """Return the code of a problem+json; a body that is none says nothing beyond the status."""
    try:
        return _decode_refusal(reply.body).code
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "refused"
