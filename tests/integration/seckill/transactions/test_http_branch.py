"""HttpBranch against a real server that refuses, breaks, hangs, and loses its replies."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ops.processes.ports import free_port
from seckill.adapters.http import HttpClient
from seckill.backoff import Backoff
from seckill.errors import Unavailable
from seckill.payments import checkout as payments
from seckill.transactions import attempts
from seckill.transactions.branches import Definition, PartlyDone
from seckill.transactions.http_branch import HttpBranch
from seckill.transactions.log import TransactionLog
from seckill.transactions.states import BranchCall, BranchOp, TransactionState
from seckill.transactions.tcc import Coordinator
from tests.checkout import payer
from tests.transactions import TransactionBench, new_calls, new_id

DOCUMENT = Path(__file__).resolve().parents[4] / "docs/adding-a-branch.md"


class ShopService:
    """A service of the shop, with a barrier of its own: the Idempotency-Key."""

    def __init__(self) -> None:
        self.url = ""
        self.done: dict[str, dict[str, object]] = {}
        #: operation -> the code with which it is refused
        self.refuses: dict[str, str] = {}
        self.calls: Counter[str] = Counter()
        self.traces: dict[str, set[str]] = {}

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        args, op = body["args"], request.match_info["op"]
        key = request.headers["Idempotency-Key"]
        self.calls[key] += 1
        trace = request.headers["traceparent"].split("-")[1]
        self.traces.setdefault(body["tx_id"], set()).add(trace)
        if op in self.refuses:
            return web.json_response({"code": self.refuses[op]}, status=409)
        if args.get("answers") and op == args.get("at", "try"):
            return web.json_response(args.get("says"), status=args["answers"])
        self.done.setdefault(key, body)
        if op == args.get("loses") and self.calls[key] <= args.get("times", 1):
            assert request.transport is not None
            request.transport.abort()
        if op == args.get("hangs"):
            await asyncio.Event().wait()
        return web.json_response({})


@pytest.fixture
async def service() -> AsyncIterator[ShopService]:
    service = ShopService()
    app = web.Application()
    app.router.add_post("/wallet/{op}", service.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    service.url = f"http://127.0.0.1:{port}/wallet"
    yield service
    await runner.cleanup()


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    async with HttpClient.open(timeout_s=5) as client:
        yield client


@pytest.fixture
def branch(client: HttpClient, service: ShopService) -> HttpBranch:
    return HttpBranch("wallet", client, service.url)


@pytest.fixture(autouse=True)
def no_waits(monkeypatch):
    monkeypatch.setattr(attempts, "BACKOFF", Backoff(0.001, 0.2))


async def test_a_call_says_what_and_for_whom(branch, service):
    call = BranchCall(new_id(), {"cents": 5})
    assert await branch.run(BranchOp.TRY, [call]) == {}
    assert service.done == {f"{call.tx_id}/wallet/try": {"tx_id": call.tx_id, "args": {"cents": 5}}}


async def test_all_calls_of_a_transaction_belong_to_one_trace(branch, service):
    calls = new_calls(2)
    for op in (BranchOp.TRY, BranchOp.TRY, BranchOp.CONFIRM):
        await branch.run(op, calls)
    assert [len(traces) for traces in service.traces.values()] == [1, 1]
    assert len(set.union(*service.traces.values())) == 2


@pytest.mark.parametrize(
    ("says", "reason"),
    [({"code": "no_funds"}, "no_funds"), ({}, "refused"), ("text", "refused"), (None, "refused")],
)
@pytest.mark.parametrize("status", [409, 422])
async def test_a_conflict_is_a_refusal(branch, says, reason, status):
    call = BranchCall(new_id(), {"answers": status, "says": says})
    assert await branch.run(BranchOp.TRY, [call]) == {call.tx_id: reason}


@pytest.mark.parametrize("status", [302, 400, 401, 404, 429, 500, 503])
async def test_any_other_answer_is_neither_yes_nor_no(branch, status):
    bad, good = BranchCall(new_id(), {"answers": status}), BranchCall(new_id(), {})
    with pytest.raises(PartlyDone, match=f"answered {status}") as caught:
        await branch.run(BranchOp.TRY, [bad, good])
    assert list(caught.value.failed) == [bad.tx_id]
    assert caught.value.refused == {}


async def test_no_answer_in_time_is_neither_yes_nor_no(service):
    async with HttpClient.open(timeout_s=0.2) as client:
        with pytest.raises(PartlyDone, match="does not answer"):
            await HttpBranch("wallet", client, service.url).run(
                BranchOp.TRY, [BranchCall(new_id(), {"hangs": "try"})]
            )


async def test_no_service_is_neither_yes_nor_no(client):
    with pytest.raises(Unavailable, match="does not answer"):
        await client.post(f"http://127.0.0.1:{free_port()}/", b"{}", {})


@pytest.mark.parametrize("op", [BranchOp.TRY, BranchOp.CONFIRM])
async def test_F7_a_lost_reply_is_asked_for_again_under_the_same_key(branch, service, probe, op):
    bench = TransactionBench(probe, ["stock"])
    calls = [*new_calls(5), *new_calls(5, loses=op)]
    outcomes = await bench.coordinator(branches=[probe.branch("stock"), branch]).run(calls)
    assert {outcome.state for outcome in outcomes.values()} == {TransactionState.CONFIRMED}
    assert len(service.done) == 2 * len(calls)
    expected = [1] * 5 + [2] * 5
    assert [service.calls[f"{call.tx_id}/wallet/{op}"] for call in calls] == expected
    await probe.assert_whole(["stock"], calls)


async def test_a_service_that_never_answers_a_try_has_it_cancelled(branch, service, probe, db):
    bench = TransactionBench(probe, ["stock"])
    call = BranchCall(new_id(), {"loses": "try", "times": 99})
    outcomes = await bench.coordinator(branches=[probe.branch("stock"), branch]).run([call])
    assert outcomes[call.tx_id].state is TransactionState.CANCELED
    assert f"{call.tx_id}/wallet/cancel" in service.done
    row = await db.fetchrow("SELECT op, error FROM branches WHERE tx_id = $1", call.tx_id)
    assert row["op"] == "try"
    assert "does not answer" in row["error"]


@pytest.fixture
def with_points() -> Callable[..., Definition]:
    """Return the function that docs/adding-a-branch.md shows."""
    (code,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - our own document
    return names["with_points"]


@pytest.mark.parametrize("refuses", [False, True])
async def test_the_branch_of_the_document_takes_part_in_a_payment(
    with_points, service, client, checkout, shop, open_sale, db, refuses, assert_balanced
):
    sale = await open_sale()
    (order,) = await shop.order(sale, payer())
    await checkout.give(order.buyer_id, 1999)
    service.refuses = {"try": "no_points"} if refuses else {}
    payment = with_points(payments.definition(db), client, service.url)
    tx_id, args = checkout.call(order)

    outcome = await Coordinator(payment, TransactionLog(db)).submit(tx_id, args)

    assert outcome.reason == ("no_points" if refuses else None)
    assert await shop.states(sale, [order]) == ["pending" if refuses else "paid"]
    done = ("cancel",) if refuses else ("try", "confirm")
    assert service.done.keys() == {f"{tx_id}/points/{op}" for op in done}
    assert all(body["args"] == args for body in service.done.values())
    await assert_balanced(sale)
