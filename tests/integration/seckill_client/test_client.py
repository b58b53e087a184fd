"""The client and a server that answers as a test says: lost answers, proxies, broken streams."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web

from ops.processes.ports import free_port
from seckill_client import client as client_module
from seckill_client import order_watch, retries
from seckill_client.buyer import BuyerClient
from seckill_client.client import SeckillClient
from seckill_client.errors import ComeBackLater, OutcomeUnknown, RequestRefused

Answer = tuple[int, Any] | Callable[[web.Request], Any]
QUEUED = {
    "order_id": "o1",
    "sale_id": "demo",
    "quantity": 1,
    "amount_cents": 1999,
    "currency": "EUR",
}
NOW = datetime(2026, 11, 27, 19, tzinfo=UTC)


class ScriptedServer:
    """Gives each call its next answer; the last one is given again."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Answer]] = {}
        self.asked: Counter[str] = Counter()
        self.headers: list[dict[str, str]] = []
        self.bodies: list[Any] = []

    def will(self, call: str, *answers: Answer) -> None:
        self.answers[call] = list(answers)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        call = f"{request.method} {request.path_qs}"
        self.asked[call] += 1
        self.headers.append(dict(request.headers))
        self.bodies.append(await request.json() if request.body_exists else None)
        answers = self.answers[call]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(answer):
            return await answer(request)
        status, body = answer
        text = body if isinstance(body, str) else json.dumps(body)
        after = {"Retry-After": "0"} if status in (429, 503) else {}
        return web.Response(status=status, text=text, headers=after)


async def lose(request: web.Request) -> web.StreamResponse:
    """Close the connection without an answer."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


def stream_of(*statuses: str) -> Answer:
    """Return a stream of an order that tells so many states, and ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"retry: 1\n\n")
        for status in statuses:
            data = json.dumps({**QUEUED, "status": status})
            await response.write(f"event: order\nid: {status}\ndata: {data}\n\n:\n\n".encode())
        return response

    return answer


def order(status: str, **more: Any) -> Answer:
    return 200, {**QUEUED, "status": status, **more}


def ticket_of(text: str) -> dict[str, str]:
    return {"ticket": text, "expires_at": "2999-01-01T00:00:00Z", "server_time": NOW.isoformat()}


def problem(status: int, code: str) -> Answer:
    return status, {"code": code, "status": status}


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer()


@pytest.fixture
async def url(server: ScriptedServer) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    yield f"http://127.0.0.1:{port}"
    await runner.cleanup()


@pytest.fixture
async def client(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SeckillClient]:
    for name in ("FIRST_S", "MOST_S", "LATE_MAX_S"):
        monkeypatch.setattr(retries, name, 0.001)
    monkeypatch.setattr(order_watch, "POLL_S", 0.001)
    async with SeckillClient(url) as client:
        yield client


@pytest.fixture
def buyer(client: SeckillClient, server: ScriptedServer) -> BuyerClient:
    ticket = ticket_of("t1")
    server.will(TICKET, (201, ticket))
    return client.buyer("token")


TICKET, GRAB = "POST /v1/sales/demo/tickets", "POST /v1/sales/demo/grabs"
PAY, SHOW, EVENTS = "POST /v1/orders/o1/payments", "GET /v1/orders/o1", "GET /v1/orders/o1/events"


async def test_a_grab_is_repeated_until_its_outcome_is_known(buyer, server) -> None:
    server.will(
        GRAB,
        lose,
        (502, "<html>Bad Gateway</html>"),
        problem(503, "unavailable"),
        problem(503, "overloaded"),
        problem(429, "rate_limited"),
        (200, {"order_id": "o1", "status": "yours"}),
    )
    grabbed = await buyer.grab("demo")
    assert (grabbed.order_id, grabbed.status) == ("o1", "yours")
    assert (server.asked[GRAB], server.asked[TICKET]) == (6, 1)
    assert {h["Seckill-Ticket"] for h in server.headers if "Seckill-Ticket" in h} == {"t1"}
    assert server.bodies[-1] == {"quantity": 1}


@pytest.mark.parametrize(("status", "code"), [(409, "sold_out"), (410, "closed")])
async def test_what_is_refused_is_not_repeated(buyer, server, status, code) -> None:
    server.will(GRAB, problem(status, code))
    with pytest.raises(RequestRefused) as refused:
        await buyer.grab("demo")
    assert (refused.value.code, refused.value.status) == (code, status)
    assert server.asked[GRAB] == 1


async def test_a_ticket_of_old_keys_is_replaced_once(buyer, server) -> None:
    server.will(GRAB, problem(401, "bad_ticket"), (202, {"order_id": "o1", "status": "queued"}))
    assert (await buyer.grab("demo")).order_id == "o1"
    assert server.asked[TICKET] == 2
    server.will(GRAB, problem(401, "bad_ticket"))
    with pytest.raises(RequestRefused):
        await buyer.grab("demo")


async def test_patience_ends_with_the_last_error(url, server) -> None:
    server.will(SHOW, (503, {"code": "paused"}))
    async with SeckillClient(url, patience_s=0) as client:
        with pytest.raises(ComeBackLater) as later:
            await client.buyer("token").order("o1")
        assert (later.value.code, later.value.retry_after_s) == ("paused", 0)
        server.will(SHOW, lose)
        with pytest.raises(OutcomeUnknown) as unknown:
            await client.buyer("token").order("o1")
        assert (unknown.value.code, unknown.value.status) == ("no_answer", 0)
        server.will(SHOW, (200, "<html>Welcome</html>"))
        with pytest.raises(OutcomeUnknown, match="not an answer of a gateway"):
            await client.buyer("token").order("o1")


async def test_a_server_that_is_silent_is_no_answer(url, server) -> None:
    async def wait(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError

    server.will(SHOW, wait)
    async with SeckillClient(url, timeout_s=0.05, patience_s=0) as client:
        with pytest.raises(OutcomeUnknown):
            await client.buyer("token").order("o1")


async def test_a_client_that_is_not_open_says_so(url) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await SeckillClient(url).sale("demo")


async def test_a_proof_whose_ticket_was_lost_is_done_anew(buyer, server) -> None:
    challenge = {"challenge": "c", "bits": 4, "expires_at": "2999-01-01T00:00:00Z"}
    server.will("POST /v1/sales/demo/challenges", (201, challenge))
    ticket = ticket_of("t2")
    proof_used = problem(409, "proof_used")
    server.will(TICKET, problem(403, "proof_needed"), lose, proof_used, (201, ticket))
    assert (await buyer.get_ticket("demo")).ticket == "t2"
    assert server.asked["POST /v1/sales/demo/challenges"] == 3
    assert (await buyer.get_ticket("demo")).ticket == "t2"
    assert server.asked[TICKET] == 4  # it is held


async def test_a_watch_polls_where_there_is_no_stream(buyer, server) -> None:
    server.will(EVENTS, problem(503, "overloaded"))
    server.will(
        SHOW,
        order("queued", next_poll_ms=1),
        order("pending"),
        order("pending"),
        order("cancelled"),
    )
    assert [o.status async for o in buyer.watch("o1")] == ["queued", "pending", "cancelled"]
    assert server.asked[EVENTS] == 1


async def test_a_watch_comes_back_to_a_stream_that_ended(buyer, server) -> None:
    server.will(EVENTS, stream_of("queued", "pending"), stream_of("paid", "refunded"))
    server.will(SHOW, order("pending"))
    seen = [o.status async for o in buyer.watch("o1")]
    assert seen == ["queued", "pending", "paid", "refunded"]
    sent = [h.get("Last-Event-ID") for h in server.headers if "text/event" in h["Accept"]]
    assert sent == [None, "pending"]


async def test_a_watch_of_a_final_order_ends(buyer, server) -> None:
    server.will(EVENTS, (204, ""))
    server.will(SHOW, order("rejected", reason="stock"))
    (last,) = [o async for o in buyer.watch("o1")]
    assert (last.status, last.reason) == ("rejected", "stock")
    server.will(EVENTS, problem(404, "not_found"))
    with pytest.raises(RequestRefused):
        await buyer.wait_until("o1", "paid")


async def test_a_payment_under_way_is_followed_to_its_end(buyer, server) -> None:
    paying = {**QUEUED, "status": "paying", "next_poll_ms": 1}
    server.will(PAY, problem(409, "queued"), problem(409, "payment_in_progress"))
    server.will(SHOW, (200, paying), (200, paying), order("paid"))
    assert (await buyer.pay("o1", coupon="C")).status == "paid"
    assert server.bodies.count({"method": "wallet", "coupon": "C"}) == 2


@pytest.mark.parametrize(
    ("status", "then", "code"), [("pending", 402, "declined"), ("cancelled", 410, "expired")]
)
async def test_a_payment_that_failed_later_says_why(buyer, server, status, then, code) -> None:
    paying = {**QUEUED, "status": "paying", "next_poll_ms": 1}
    server.will(PAY, (202, paying), problem(then, code))
    server.will(SHOW, order(status))
    with pytest.raises(RequestRefused) as refused:
        await buyer.pay("o1")
    assert refused.value.code == code


async def test_a_card_that_was_declined_later_is_not_tried_again(buyer, server) -> None:
    server.will(PAY, (202, {**QUEUED, "status": "paying", "next_poll_ms": 1}))
    server.will(SHOW, order("pending"))
    with pytest.raises(RequestRefused) as refused:
        await buyer.pay("o1", "card")
    assert (refused.value.code, refused.value.status) == ("declined", 402)
    assert server.asked[PAY] == 1


async def test_a_payment_that_waits_for_its_buyer_is_returned_at_once(buyer, server) -> None:
    action = {"type": "redirect", "url": "https://bank.example/3ds"}
    server.will(PAY, (202, {**QUEUED, "status": "paying", "next_poll_ms": 500, "action": action}))
    order = await buyer.pay("o1", "card", payment_method="pm_1", return_url="https://shop.example")
    assert (order.status, order.action_url) == ("paying", "https://bank.example/3ds")
    assert server.bodies[-1] == {
        "method": "card",
        "payment_method": "pm_1",
        "return_url": "https://shop.example",
    }


def sale(opens_in_s: float, state: str = "open") -> Callable[[web.Request], Any]:
    """Return the answer of a server whose clock is years behind."""

    async def answer(_: web.Request) -> web.StreamResponse:
        opens_at = NOW + timedelta(seconds=opens_in_s)
        body = {
            "sale_id": "demo",
            "state": state,
            "name": None,
            "price_cents": 1999,
            "currency": "EUR",
            "currency_digits": 2,
            "per_order_max": 1,
            "opens_at": opens_at.isoformat(),
            "closes_at": None,
            "payment_window_s": 900,
            "proof_bits": 0,
            "server_time": NOW.isoformat(),
            "sold_out": False,
            "remaining": 10,
        }
        return web.json_response(body)

    return answer


async def test_a_sale_opens_by_the_clock_of_the_server(client, server) -> None:
    server.will("GET /v1/sales/demo", sale(0.02), sale(-1))
    opened = await client.wait_for_opening("demo", within_s=0.01)
    assert opened.opens_at == NOW - timedelta(seconds=1)
    assert client.clock.now_s() == pytest.approx(NOW.timestamp(), abs=30)


async def test_a_sale_that_closes_before_its_opening_is_not_waited_for(client, server) -> None:
    server.will("GET /v1/sales/demo", sale(3600, "closed"))
    async with asyncio.timeout(10):
        closed = await client.wait_for_opening("demo")
    assert closed.state == "closed"


async def test_an_opening_that_is_moved_to_an_earlier_time_is_not_missed(
    client, server, monkeypatch
) -> None:
    monkeypatch.setattr(client_module, "FAR_LOOK_S", 0.01)
    monkeypatch.setattr(client_module, "COMPARE_S", 0.01)
    server.will("GET /v1/sales/demo", sale(3600), sale(-1))
    async with asyncio.timeout(10):
        opened = await client.wait_for_opening("demo", within_s=0.01)
    assert opened.opens_at == NOW - timedelta(seconds=1)


async def test_tickets_are_asked_for_again_when_they_are_handed_out(buyer, server) -> None:
    ticket = ticket_of("t3")

    async def too_early(_: web.Request) -> web.StreamResponse:
        body = {"code": "too_early", "status": 403}
        return web.json_response(body, status=403, headers={"Retry-After": "0"})

    server.will(TICKET, too_early, (201, ticket))
    assert (await buyer.get_ticket("demo")).ticket == "t3"


async def test_pages_of_sales_are_walked(client, server) -> None:
    (_, one) = 200, json.loads((await sale(0)(None)).text)  # type: ignore[arg-type]
    server.will("GET /v1/sales", (200, {"sales": [one], "next": "c/1"}))
    server.will("GET /v1/sales?cursor=c%2F1", (200, {"sales": [one, one], "next": None}))
    assert [each.sale_id async for each in client.sales()] == ["demo"] * 3


async def test_the_page_of_a_proxy_is_no_list_without_sales(client, server) -> None:
    server.will("GET /v1/sales", (200, "<html>welcome</html>"))
    with pytest.raises(OutcomeUnknown, match="not an answer of a gateway"):
        _ = [each async for each in client.sales()]
