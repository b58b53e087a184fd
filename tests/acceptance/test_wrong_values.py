"""Wrong values in every place of every route: refused, and never a mistake of ours (C29)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from gateway.app import ROUTES
from seckill.auth import webhook_signatures
from seckill.auth.key_ring import KeyRing
from tests.acceptance.admin_api import bearer
from tests.processes import Process, eventually

pytestmark = pytest.mark.usefixtures("no_tracebacks")

DIGITS = "9" * 3_900
ORDER_ID = "019aab2f-4c00-8000-8005-5d3c1f0a2b7e"
#: What is in the path, and good there.
NAMES = {
    "order_id": ORDER_ID,
    "asset": "swagger-ui.css",
    "code": "sold_out",
    "reference": "payment-1",
    "tx_id": "00000000-0000-8000-8000-000000000000",
    "letter_id": "1",
}
#: In the path: as they are sent.
PATHS = [
    "%00",
    "%ff",
    "%ed%a0%80",
    "%f0%9f%92%a9",
    "%0a",
    "%",
    "%2e%2e",
    "-1",
    "{}",
    "x" * 64,
    "x" * 65,
    "x" * 7_000,
    DIGITS,
    "[" * 3_000,
    ORDER_ID.upper(),
    ORDER_ID.replace("8005", "c005"),
    "00000000-0000-8000-8000-000000000000",
    "ffffffff-ffff-8fff-bfff-ffffffffffff",
    ORDER_ID + "%0a",
    "\xff\xfe",
]
QUERIES = [DIGITS, "-" + DIGITS, "1e999", "nan", "-inf", "%00", "%ed%a0%80", "\u0661", "", "1_0"]
#: In a body: JSON values of every type, and beyond what types can hold.
VALUES = [
    "null",
    "true",
    "0",
    "-1",
    "1.5",
    "1e999",
    "-0.0",
    DIGITS,
    "-" + DIGITS,
    "1" + "0" * 18,
    "9223372036854775807",
    "2147483648",
    '""',
    '"\\u0000"',
    '"a\\u0000b"',
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"\U0001f4a9"',
    '"' + "x" * 3_900 + '"',
    '"' + DIGITS + '"',
    '"0001-01-01T00:00:00Z"',
    '"9999-12-31T23:59:59Z"',
    '"0001-01-01T00:00:00+23:59"',
    '"9999-12-31T23:59:59-23:59"',
    "[]",
    "{}",
    '["\\u0000"]',
    '{"\\u0000": [1, 1]}',
    "[" * 1_900 + "]" * 1_900,
    '{"a":' * 700 + "1" + "}" * 700,
]
BODIES = [
    "",
    "x",
    "null",
    "[]",
    DIGITS,
    "[" * 4_000,
    "[" * 1_900 + "]" * 1_900,
    '{"a":' * 700 + "1" + "}" * 700,
    '{"\\ud800": 1}',
    '{"\\u0000": 1}',
    "\xff",
    "\0",
]
HEADERS = [
    "",
    DIGITS,
    "\xff",
    "x" * 7_000,
    "." * 7_000,
    "~" * 4,
    "k1~" + DIGITS + "~b~" + "0" * 32,
    "Bearer",
    "Bearer " + DIGITS,
    "Bearer " + "e30." * 1_000,
    "Bearer eyJraWQiOjF9.e30.e30",
    "Bearer eyJraWQiOltdfQ.e30.e30",
    "Bearer W10.W10.W10",
    "Basic \xff",
    f"t={DIGITS},v1=" + "0" * 64,
    "t=-1,v1=",
    "[" * 3_000,
]
HEADER_NAMES = [
    "Authorization",
    "Seckill-Ticket",
    "Seckill-Signature",
    "Last-Event-ID",
    "X-Forwarded-For",
    "Origin",
    "Content-Type",
    "Content-Encoding",
    "Accept",
    "Accept-Encoding",
    "If-None-Match",
    "If-Modified-Since",
    "Range",
    "Cookie",
    "Access-Control-Request-Method",
    "traceparent",
]
ADMIN = [
    ("GET", "/livez", {}),
    ("GET", "/readyz", {}),
    ("GET", "/metrics", {}),
    ("GET", "/admin/sales", {}),
    (
        "POST",
        "/admin/sales",
        {
            "sale_id": '"made-wrongly"',
            "stock": "1",
            "price_cents": "1",
            "per_order_max": "1",
            "opens_at": "null",
            "closes_at": "null",
            "payment_window_s": "900",
            "proof_bits": "0",
        },
    ),
    ("GET", "/admin/sales/{sale_id}", {}),
    ("POST", "/admin/sales/{sale_id}/open", {}),
    ("POST", "/admin/sales/{sale_id}/close", {}),
    ("POST", "/admin/sales/{sale_id}/pause", {}),
    ("POST", "/admin/sales/{sale_id}/resume", {}),
    (
        "POST",
        "/admin/sales/{sale_id}/restock",
        {"units": "1", "from_total": "10", "reason": '"x"'},
    ),
    ("GET", "/admin/sales/{sale_id}/ledger", {}),
    ("GET", "/admin/sales/{sale_id}/limits", {}),
    (
        "PUT",
        "/admin/sales/{sale_id}/limits",
        {"try": '{"rate": 1000, "burst": 1000}', "confirm": "null", "cancel": "null"},
    ),
    ("GET", "/admin/dead-letters/{letter_id}", {}),
    ("POST", "/admin/dead-letters/replay", {"ids": "[1]", "force": "false"}),
    ("POST", "/admin/dead-letters/discard", {"ids": "[1]", "reason": '"x"'}),
    ("GET", "/admin/transactions/{tx_id}", {}),
    ("POST", "/admin/transactions/{tx_id}/retry", {}),
    ("POST", "/admin/transactions/{tx_id}/settle", {"to": '"confirmed"', "reason": '"x"'}),
    ("POST", "/admin/pool/scale", {"counts": '{"relay": [1, 1]}'}),
    ("POST", "/admin/pool/pause", {"roles": '["relay"]'}),
]
#: Right values of the fields of the public bodies.
PUBLIC = {
    "grab": {"quantity": "1"},
    "pay_order": {"method": '"wallet"', "coupon": "null"},
    "issue_ticket": {"challenge": '"x"', "solution": '"1"'},
    "take_payment_event": {"key": '"x"', "status": '"authorised"'},
    "take_external_payment": {
        "reference": '"made-wrongly"',
        "amount_cents": "1",
        "currency": '"EUR"',
        "paid_at": '"2026-11-27T19:14:00Z"',
    },
}
ALL = [
    *((False, method, path, PUBLIC.get(op.name, {})) for method, path, op in ROUTES),
    *((True, method, path, fields) for method, path, fields in ADMIN),
]


@pytest.fixture(scope="module")
async def gateway(processes) -> Process:
    return await processes.run("gateway")


@pytest.fixture
def sale_headers(settings, ticket_for, login_for):
    """Make the headers that a good request about a sale has."""

    def make(sale, *, admin: bool) -> dict[str, str]:
        if admin:
            return bearer(settings.admin_token.get_secret_value())
        return {**login_for("ann"), "Seckill-Ticket": ticket_for(sale, "ann")}

    return make


def bodies_of(fields: dict[str, str]) -> Iterator[str]:
    """Make bodies that are wrong as a whole, and in one field each."""
    yield from BODIES
    for wrong in fields:
        for value in VALUES:
            others = {**fields, wrong: value}
            yield "{" + ",".join(f'"{name}":{text}' for name, text in others.items()) + "}"


def requests_of(
    method: str, path: str, sale_id: str, fields: dict[str, str], headers: dict[str, str], sign
) -> Iterator[bytes]:
    """Make all wrong requests of a route."""

    def request(target: str, body: str = "", extra: dict[str, str] | None = None) -> bytes:
        data = body.encode("latin-1") if body.isascii() else body.encode("utf-8", "surrogatepass")
        given = {**headers, "Seckill-Signature": sign(data), **(extra or {})}
        given.setdefault("Content-Type", "application/json")
        lines = [f"{method} {target} HTTP/1.1", "Host: x", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in given.items()]
        return "\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1") + data

    good = path.format(**NAMES, sale_id=sale_id)
    right = "{" + ",".join(f'"{name}":{text}' for name, text in fields.items()) + "}"
    body = right if fields else ""
    if "{" in path:
        for value in PATHS:
            yield request(path.format(**dict.fromkeys([*NAMES, "sale_id"], value)), body)
    for value in QUERIES:
        query = value if value.isascii() else "%d9%a1"
        yield request(f"{good}?wait={query}&{query}={query}", body)
    if method != "GET":
        yield from (request(good, wrong) for wrong in bodies_of(fields))
    for name in HEADER_NAMES:
        yield from (request(good, body, {name: value}) for value in HEADERS)


async def ask(url: str, data: bytes) -> tuple[int, bytes]:
    """Send a request, and return its answer's status and all of it.

    It is sent again after a reset: a gateway without time resets what waits too long.
    """
    parts = urlsplit(url)

    async def answer():
        try:
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
            try:
                writer.write(data)
                async with asyncio.timeout(30):
                    line = await reader.readline()
                    rest = await reader.read(2_000)
            finally:
                writer.close()
        except ConnectionResetError:
            return None
        return int(line.split()[1]), line + rest

    return await eventually(answer, "an answer")


@pytest.mark.parametrize(
    ("admin", "method", "path", "fields"), ALL, ids=[f"{m}-{p}" for _, m, p, _ in ALL]
)
async def test_a_wrong_value_anywhere_is_no_mistake_of_ours(
    gateway, open_sale, settings, sale_headers, admin, method, path, fields
):
    sale = await open_sale()
    keys = settings.webhook_keys if "webhooks" in path else settings.shop_keys
    ring = KeyRing.parse(keys.get_secret_value(), setting="test")

    def sign(body: bytes) -> str:
        return webhook_signatures.sign(ring, body, now_s=int(time.time()))

    headers = sale_headers(sale, admin=admin)
    requests = [*requests_of(method, path, sale.sale_id, fields, headers, sign)]
    url, few = gateway.admin_url if admin else gateway.url, asyncio.Semaphore(20)

    async def status_of(request: bytes) -> tuple[int, bytes]:
        async with few:
            return await ask(url, request)

    answers = await asyncio.gather(*map(status_of, requests))
    wrong = [
        (request[:300], answer[:600])
        for request, (status, answer) in zip(requests, answers, strict=True)
        if status >= 500 and not (status == 503 and is_expected(answer))
    ]
    assert wrong == []


def is_expected(answer: bytes) -> bool:
    """Tell whether a 503 says something true: one ledger at a time, and what is not set up here."""
    body = answer.partition(b"\r\n\r\n")[2]
    return json.loads(body)["code"] in ("overloaded", "unavailable", "no_pool")


async def test_a_reason_that_no_store_can_keep_is_refused(admin, open_sale):
    for reason in ("a\0b", "\ud800"):
        sale = await open_sale(stock=10)
        change = json.dumps({"units": 1, "from_total": 10, "reason": reason})
        path = f"/admin/sales/{sale.sale_id}/restock"
        headers = {"Content-Type": "application/json"}
        async with admin.post(path, data=change, headers=headers) as response:
            assert response.status in (400, 422), await response.text()
