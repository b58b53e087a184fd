"""What is on sale: `GET /v1/sales` and `GET /v1/sales/{sale_id}`, read by anyone.

A sale that was never opened is not public yet: its terms may be wrong and still be changed. Nor is
one that is hidden until it is announced.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

from aiohttp import web

from gateway.grabs.sale_views import CACHED, has_copy
from gateway.http.contract import Parameter, ResponseSpec, operation
from gateway.http.problems import Problem, Refused
from gateway.http.requests import SALE_ID, find_sale
from gateway.http.responses import COMMON
from gateway.overload.aiohttp_protocol import in_flight
from gateway.sales.pages import LIMIT_MAX, SALE_PAGES, SaleList, SaleView
from gateway.sales.views import SALE_VIEWS
from seckill.sales.listing import NUMBER_MAX

LIMIT = Parameter(
    "limit",
    f"Sales of a page, 1 to {LIMIT_MAX}, which is also the default.",
    re.compile(r"([1-9][0-9]?|100)\Z"),
    "20",
    (Problem.BAD_REQUEST,),
    place="query",
)
CURSOR = Parameter(
    "cursor",
    "`next` of the page before.",
    re.compile(r"[0-9]{1,9}\Z"),
    "16777215",
    (Problem.BAD_REQUEST,),
    place="query",
)
_EXAMPLE = SaleView(
    sale_id="sneakers-2026",
    name="Sneakers 2026",
    sku="SN-2026-42",
    picture_url="https://shop.example/sneakers.jpg",
    metadata={"colour": "red"},
    state="open",
    price_cents=1999,
    currency="EUR",
    currency_digits=2,
    per_order_max=1,
    opens_at=datetime(2026, 11, 27, 19, tzinfo=UTC),
    closes_at=None,
    payment_window_s=900,
    proof_bits=0,
    server_time=datetime(2026, 11, 27, 19, 0, 1, tzinfo=UTC),
    sold_out=False,
    remaining=499,
    tickets_from=datetime(2026, 11, 27, 18, 50, tzinfo=UTC),
    units_back_from=None,
)


@operation(
    "List sales, the newest first",
    ResponseSpec(
        200,
        "A page of the sales that were opened. A copy may be kept for a second.",
        SaleList([_EXAMPLE], "16777214"),
        headers=["Cache-Control", "ETag"],
        links={
            name: {"sale_id": "$response.body#/sales/0/sale_id"}
            for name in ("show_sale", "issue_challenge", "issue_ticket", "grab", "show_mine")
        },
    ),
    ResponseSpec(
        304,
        "The copy that `If-None-Match` names is still right.",
        None,
        headers=["Cache-Control", "ETag"],
    ),
    tag="sales",
    parameters=[LIMIT, CURSOR],
    problems=[Problem.UNAVAILABLE],
)
async def list_sales(request: web.Request) -> web.Response:
    """Answer with a page of sales, or with 304 to a client that has it."""
    limit, before = _query(request, LIMIT, LIMIT_MAX), _query(request, CURSOR, NUMBER_MAX)
    with in_flight(request):
        page = await request.app[SALE_PAGES].read(before=before, limit=limit)
    # Weak: `server_time` may differ between two copies of one tag.
    headers = {**COMMON, "Cache-Control": CACHED, "ETag": f'W/"{page.tag}"'}
    wanted = request.if_none_match or ()
    if any(tag.value in (page.tag, "*") for tag in wanted):
        return web.Response(status=304, headers=headers)
    return web.Response(body=page.body, content_type="application/json", headers=headers)


@operation(
    "Show one sale",
    ResponseSpec(
        200,
        "The sale. A copy may be kept for a second.",
        _EXAMPLE,
        headers=["Cache-Control", "ETag"],
    ),
    ResponseSpec(
        304,
        "The copy that `If-None-Match` names is still right.",
        None,
        headers=["Cache-Control", "ETag"],
    ),
    tag="sales",
    parameters=[SALE_ID],
)
async def show_sale(request: web.Request) -> web.Response:
    """Answer with one sale, or with 304 to a client that has it."""
    sale = await find_sale(request)
    with in_flight(request):
        view = await request.app[SALE_VIEWS].read(sale.sale_id)
    if view is None:
        raise Refused(Problem.NOT_FOUND, f"there is no sale {sale.sale_id}")
    if has_copy(",".join(request.headers.getall("If-None-Match", ())), view.tag):
        return web.Response(status=304, headers=view.headers)
    return web.Response(body=view.body, content_type="application/json", headers=view.headers)


def _query(request: web.Request, parameter: Parameter, default: int) -> int:
    text = request.query.get(parameter.name)
    if text is None:
        return default
    if parameter.pattern is None or not parameter.pattern.match(text):
        raise Refused(Problem.BAD_REQUEST, parameter.description, field=parameter.name)
    return int(text)
