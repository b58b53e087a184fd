"""A branch in another service, called over HTTP: see docs/adding-a-branch.md."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from collections.abc import Mapping, Sequence

import msgspec

from seckill.adapters.http import HttpClient, Reply
from seckill.errors import Unavailable
from seckill.spans import TRACEPARENT, trace_of_transaction, working_in
from seckill.transactions.branches import PartlyDone
from seckill.transactions.states import BranchCall, BranchOp


class HttpBranch:
    """A branch of which each call is one `POST <url>/<operation>` with {"tx_id", "args"}.

    2xx is done; 409 and 422 refuse (try and do only). Any other answer, or none, leaves the outcome
    unknown: the same call is then made again, with the same Idempotency-Key. The service has to
    keep a barrier of its own.
    """

    def __init__(self, name: str, client: HttpClient, url: str) -> None:
        self.name = name
        self._client = client
        self._url = url.rstrip("/")

    async def run(self, op: BranchOp, calls: Sequence[BranchCall]) -> Mapping[str, str]:
        """Send all calls at once; the client limits how many are under way."""
        replies = await asyncio.gather(*(self._send(op, call) for call in calls))
        refused: dict[str, str] = {}
        failed: dict[str, Exception] = {}
        for call, reply in zip(calls, replies, strict=True):
            if isinstance(reply, Unavailable):
                failed[call.tx_id] = reply
            elif reply.status in (409, 422):
                refused[call.tx_id] = _reason(reply)
            elif not 200 <= reply.status < 300:
                failed[call.tx_id] = Unavailable(f"{self._url}/{op} answered {reply.status}")
        if failed:
            raise PartlyDone(refused, failed)
        return refused

    async def _send(self, op: BranchOp, call: BranchCall) -> Reply | Unavailable:
        # One trace a transaction, whichever process sends the call, and however often. The client
        # puts the order's own in its place if that is traced.
        trace_id = hashlib.blake2b(call.tx_id.encode(), digest_size=16).hexdigest()
        headers = {
            "Idempotency-Key": f"{call.tx_id}/{self.name}/{op}",
            TRACEPARENT: f"00-{trace_id}-{secrets.token_hex(8)}-00",
        }
        args = {name: value for name, value in call.args.items() if name != TRACEPARENT}
        body = msgspec.json.encode({"tx_id": call.tx_id, "args": args})
        try:
            with working_in(trace_of_transaction(call.tx_id, call.args)):
                return await self._client.post(f"{self._url}/{op}", body, headers)
        except Unavailable as error:
            return error


class _HttpRefusal(msgspec.Struct):
    #: As in problem+json.
    code: str = "refused"


def _reason(reply: Reply) -> str:
    """Return the code of a problem+json; any other body gives no reason beyond the status."""
    try:
        return msgspec.json.decode(reply.body, type=_HttpRefusal).code
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return "refused"
