"""Traces of whole lives of orders: one tree each, from the request to the end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from ops.sandbox_provider import Sandbox, SandboxBehaviour
from seckill.auth.key_ring import KeyRing
from seckill.log_lines import secrets_of
from seckill.payments import wallets
from seckill.payments.wallets import TopUp
from seckill.tracing.span_file import StoredSpan
from seckill.tracing.tree import SpanTree, grow
from tests.checkout import payer
from tests.collector import Collector, collecting
from tests.processes import Process, Processes, eventually

GRAB = "POST /v1/sales/{sale_id}/grabs"
PAY = "POST /v1/orders/{order_id}/payments"


@pytest.fixture(scope="module")
async def collector() -> AsyncIterator[Collector]:
    async with collecting() as running:
        yield running


@pytest.fixture(scope="module")
async def sandbox(settings):
    keys = KeyRing.parse(settings.webhook_keys.get_secret_value(), setting="test")
    sandbox = Sandbox(SandboxBehaviour(), keys=keys)
    async with sandbox.serving() as sandbox.url:
        yield sandbox


@pytest.fixture(scope="module")
async def processes(settings, tmp_path_factory, collector, sandbox):
    home = tmp_path_factory.mktemp("traced")
    async with Processes(
        settings,
        home,
        SECKILL_TRACE_RATE="1",
        SECKILL_LOG_FORMAT="json",
        SECKILL_LOG_LEVEL="debug",
        SECKILL_TRACE_FILE=str(home / "spans.jsonl"),
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        SECKILL_PROVIDER_URL=sandbox.url,
    ) as running:
        yield running


@pytest.fixture(scope="module")
async def gateway(processes: Processes, consumers: Process) -> Process:
    return await processes.run("gateway")


@pytest.fixture
async def http(gateway: Process) -> AsyncIterator[ClientSession]:
    async with ClientSession(gateway.url) as session:
        yield session


@pytest.fixture
def grab_for(ticket_for):
    """Grab a unit; return the order's id."""

    async def call(http, sale, buyer, **headers):
        async with http.post(
            f"/v1/sales/{sale.sale_id}/grabs",
            json={"quantity": 1},
            headers={"Seckill-Ticket": ticket_for(sale, buyer), **headers},
        ) as response:
            body = await response.json()
            assert response.status == 202, body
            return body["order_id"]

    return call


@pytest.fixture
def pay(login_for, db):
    """Pay an order once it has a row."""

    async def call(http, order_id, buyer, method="wallet"):
        async def row():
            return await db.fetchval("SELECT 1 FROM orders WHERE order_id = $1", order_id)

        await eventually(row, "the order is placed")
        async with http.post(
            f"/v1/orders/{order_id}/payments", json={"method": method}, headers=login_for(buyer)
        ) as response:
            assert response.status in (200, 202), await response.text()

    return call


@pytest.fixture
def tree_of(collector: Collector, processes: Processes):
    """Wait for the last spans of an order; return its only tree, the same in file and collector.

    Each process sends its own when it can, so a span of each process is waited for.
    """

    async def find(order_id: str, *last: str) -> SpanTree:
        async def whole():
            spans = collector.of_order(order_id)
            roots = grow(spans)
            there = {*last} <= {s.name for s in spans}
            return roots if there and len(roots) == 1 else None

        (root,) = await eventually(whole, f"one tree with the spans {last}", within_s=60)
        code, out, err = await processes.ask("trace", order_id, "--json")
        assert code == 0, err
        (in_file,) = json.loads(out)
        assert in_file["span_id"] == root.span.span_id
        return root

    return find


def names(roots: list[SpanTree]) -> list[str]:
    return [f"{'  ' * depth}{span.name}" for root in roots for depth, span in root.walk()]


def names_under(tree: SpanTree, parent: str) -> set[str]:
    """Return the names of the children of all spans of a name."""
    found: set[str] = set()
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        waiting += node.children
        if node.span.name == parent:
            found |= {child.span.name for child in node.children}
    return found


def span_named(tree: SpanTree, name: str) -> StoredSpan:
    return next(span for _, span in tree.walk() if span.name == name)


async def named(process: Process, trace_id: str, name: str) -> set[tuple[str, ...]]:
    """Return the labels of a histogram's buckets that name a trace."""
    accept = {"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    async with (
        ClientSession() as admin,
        admin.get(f"{process.admin_url}/metrics", headers=accept) as response,
    ):
        assert response.content_type == "application/openmetrics-text"
        families = [*text_string_to_metric_families(await response.text())]
    samples = (s for f in families if f.name == name for s in f.samples if s.exemplar)
    return {
        (*(value for label, value in sample.labels.items() if label != "le"),)
        for sample in samples
        if sample.exemplar.labels == {"trace_id": trace_id}
    }


async def test_a_paid_and_shipped_order_is_one_tree(
    http, open_sale, grab_for, pay, tree_of, db, processes
) -> None:
    sale = await open_sale()
    buyer = payer()
    await wallets.top_up(db, [TopUp(f"top-{buyer}", buyer, 5000)])
    order_id = await grab_for(http, sale, buyer)
    await pay(http, order_id, buyer)

    tree = await tree_of(order_id, PAY, "send saga.completed")
    code, out, err = await processes.ask("order", "show", order_id, "--json")
    life = json.loads(out) if code == 0 else err
    times = [moment["at"] for moment in life["moments"]]
    told = [moment["what"] for moment in life["moments"]]

    assert (life["state"], life["buyer_id"], life["trace_id"]) == (
        "paid",
        buyer,
        tree.span.trace_id,
    )
    assert life["holder"] == f"{order_id}:1"
    assert times == sorted(times)
    assert told[0] == "grabbed"
    for words in ("placed: 1 for 1999", "do capture", "shipment allocated", "COMPLETED"):
        assert any(words in each for each in told), words
    assert tree.span.name == GRAB
    assert tree.span.kind == "server"
    assert tree.span.parent_id is None
    assert {
        "send orders.place",
        "process orders.place",
        "send order.placed",
        PAY,
    } <= names_under(tree, GRAB)
    assert {"tcc payment", "saga fulfilment"} <= names_under(tree, PAY)
    assert {"try order", "try wallet", "confirm order", "confirm wallet"} <= names_under(
        tree, "tcc payment"
    )
    assert {"do capture", "do allocate_shipment", "do notify"} <= names_under(
        tree, "saga fulfilment"
    )
    assert {span.service for _, span in tree.walk()} == {"seckill-gateway", "seckill-consumer"}
    placed = span_named(tree, "process orders.place")
    assert placed.kind == "consumer"
    assert placed.attributes["messaging.system"] == "rabbitmq"
    assert placed.attributes["messaging.destination.name"] == "orders.place"
    assert placed.attributes["messaging.batch.message_count"] == 1
    stages = ["parsed", "called", "replied", "published", "confirmed"]
    assert list(tree.span.events) == stages
    assert sorted(tree.span.events, key=tree.span.events.__getitem__) == stages


async def test_an_order_paid_by_card_and_shipped_is_one_tree_with_the_provider_s_calls(
    http, open_sale, grab_for, pay, tree_of, processes, gateway
) -> None:
    sale = await open_sale()
    buyer = payer()
    order_id = await grab_for(http, sale, buyer)
    await pay(http, order_id, buyer, "card")

    tree = await tree_of(order_id, PAY, "send saga.completed")

    code, out, err = await processes.ask("trace", order_id)
    assert code == 0, err
    assert tree.span.name == GRAB
    assert {"process orders.place", PAY, "saga fulfilment", "send order.paid"} <= names_under(
        tree, GRAB
    )
    assert "POST" in names_under(tree, PAY)
    steps = {"do capture", "do allocate_shipment", "do notify", "POST"}
    assert steps <= names_under(tree, "saga fulfilment")
    paths = [str(s.attributes["url.path"]) for _, s in tree.walk() if s.kind == "client"]
    assert [path.rpartition("/")[2] for path in paths] == ["authorise", "capture"]
    assert [path for path in paths if path not in out] == []
    calls = await named(gateway, tree.span.trace_id, "seckill_provider_call_seconds")
    assert calls == {("authorise", "ok")}


async def test_histograms_name_the_traces_of_what_they_counted(
    http, open_sale, grab_for, tree_of, gateway, consumers, processes
) -> None:
    sale = await open_sale()
    order_id = await grab_for(http, sale, "ann")
    await tree_of(order_id, GRAB, "send order.placed")
    trace_id = order_id.replace("-", "")

    assert await named(gateway, trace_id, "seckill_grab_seconds") == {("accepted",)}
    stages = {"queue", "call", "wait_publish", "confirm"}
    assert await named(gateway, trace_id, "seckill_grab_stage_seconds") == {
        (stage,) for stage in stages
    }
    assert await named(consumers, trace_id, "seckill_placement_seconds") == {()}
    code, out, err = await processes.ask("trace", trace_id)
    assert code == 0, err
    assert out.startswith(f"order {order_id}, trace {trace_id}")


async def test_an_order_can_be_followed_through_the_logs_and_no_secret_is_in_them(
    http, open_sale, grab_for, tree_of, processes, settings, gateway, consumers
) -> None:
    sale = await open_sale(payment_window_s=1)
    order_id = await grab_for(http, sale, "ann")
    await tree_of(order_id, "return units")

    texts = [process.child.spec.log.read_text() for process in (gateway, consumers)]
    lines = [[json.loads(line) for line in text.splitlines()] for text in texts]

    lines = [[line for line in of if order_id in line["message"]] for of in lines]
    events = [[line["event"] for line in of] for of in lines]
    assert events[0] == ["grabs_published"]
    assert [e for e in events[1] if e != "orders_expired"] == ["orders_placed", "units_returned"]
    assert {line["order_id"] for of in lines for line in of} == {order_id}
    for secret in secrets_of(settings):
        assert not any(secret in text for text in texts)


async def test_an_expired_order_is_one_tree(http, open_sale, grab_for, tree_of) -> None:
    sale = await open_sale(payment_window_s=1)
    order_id = await grab_for(http, sale, "ann")

    tree = await tree_of(order_id, "return units")

    assert tree.span.name == GRAB
    found = names_under(tree, GRAB)
    assert {"process orders.place", "return units"} <= found
    assert found & {"process orders.expire", "sweep: cancel overdue orders"}


async def test_an_order_that_a_failed_saga_refunded_is_one_tree(
    http, open_sale, grab_for, pay, tree_of, db
) -> None:
    sale = await open_sale()
    await db.execute("INSERT INTO shipping_capacity VALUES ($1, 0)", sale.sale_id)
    buyer = payer()
    await wallets.top_up(db, [TopUp(f"top-{buyer}", buyer, 5000)])
    order_id = await grab_for(http, sale, buyer)
    await pay(http, order_id, buyer)

    tree = await tree_of(order_id, "saga fulfilment")

    assert tree.span.name == GRAB
    saga = span_named(tree, "saga fulfilment")
    assert saga.error == "COMPENSATED: no_capacity"
    assert {"do capture", "do allocate_shipment", "undo allocate_shipment", "undo capture"} <= (
        names_under(tree, "saga fulfilment")
    )
    assert span_named(tree, "do allocate_shipment").error == "no_capacity"


async def test_a_sampled_client_is_the_parent_of_all(
    http, open_sale, grab_for, collector, processes
) -> None:
    sale = await open_sale()
    trace_id, span_id = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    order_id = await grab_for(http, sale, "ann", traceparent=f"00-{trace_id}-{span_id}-01")

    async def placed():
        spans = [s for s in collector.spans if s.trace_id == trace_id]
        roots = grow(spans)
        return roots if "send order.placed" in {s.name for s in spans} and len(roots) == 1 else None

    (root,) = await eventually(placed, "one tree of the placed order", within_s=60)
    assert root.span.name == GRAB
    assert root.span.parent_id == span_id
    code, out, _ = await processes.ask("trace", order_id)
    assert code == 0
    assert trace_id in out.splitlines()[0]


async def test_a_refund_by_an_operator_is_in_the_order_s_tree(
    http, open_sale, grab_for, pay, tree_of, db, processes
) -> None:
    sale = await open_sale()
    buyer = payer()
    await wallets.top_up(db, [TopUp(f"top-{buyer}", buyer, 5000)])
    order_id = await grab_for(http, sale, buyer)
    await pay(http, order_id, buyer)
    await tree_of(order_id, "send saga.completed")

    code, _, err = await processes.ask("refund", order_id, "--reason", "damaged")

    assert code == 0, err
    tree = await tree_of(order_id, "refund by an operator")
    assert "refund by an operator" in names_under(tree, GRAB)


async def test_a_grab_that_won_nothing_is_found_by_its_trace(
    http, open_sale, grab_for, ticket_for, processes, collector
) -> None:
    sale = await open_sale(stock=1)
    await grab_for(http, sale, "ann")
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    headers = {
        "Seckill-Ticket": ticket_for(sale, "bob"),
        "traceparent": f"00-{trace_id}-00f067aa0ba902b7-01",
    }
    path = f"/v1/sales/{sale.sale_id}/grabs"
    async with http.post(path, json={"quantity": 1}, headers=headers) as response:
        assert response.status == 409

    async def sent():
        return any(span.trace_id == trace_id for span in collector.spans)

    await eventually(sent, "the span of the refused grab", within_s=60)
    code, out, err = await processes.ask("trace", trace_id)
    assert code == 0, err
    assert out.splitlines()[0].startswith(f"trace {trace_id}")
    assert "sold_out" in out


@pytest.mark.parametrize("words", [("trace",), ("order", "show")])
async def test_an_unknown_order_is_one_line(processes, words) -> None:
    code, out, err = await processes.ask(*words, "019aab2f-4c00-8000-8005-5d3c1f0a2b7e")
    assert (code, out) == (2, "")
    assert err.startswith("seckill: there is no ")
    assert err.count("\n") == 1
