"""What a request says: its body, the ids in its path and the sale it is about, all checked."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TypeVar

import msgspec
from aiohttp import ClientPayloadError, web
from aiohttp.http_exceptions import HttpProcessingError

from gateway.app_keys import SALES
from gateway.http.contract import Body, Parameter
from gateway.http.problems import Problem, Refused
from seckill import order_ids
from seckill.auth.tickets import ID
from seckill.sales.sales import Sale

S = TypeVar("S", bound=msgspec.Struct)

#: No honest body is larger; a grab's is 15 bytes.
BODY_MAX = 4 * 1024
#: Time for a whole body; an honest one comes in the same packet as its headers.
BODY_S = 5.0
#: What is read of a too large body so that the connection stays usable; beyond it is closed.
DRAIN_MAX = 64 * 1024

#: How the functions below refuse, for the declarations of the routes that call them.
SALE_ID = Parameter(
    "sale_id",
    "Names the sale.",
    ID,
    "sneakers-2026",
    (Problem.BAD_REQUEST, Problem.NOT_FOUND, Problem.UNAVAILABLE),
)
ORDER_ID = Parameter(
    "order_id",
    "Names the order, as the grab's answer gave it.",
    order_ids.PATTERN,
    "019aab2f-4c00-8000-8005-5d3c1f0a2b7e",
    (Problem.BAD_REQUEST, Problem.NOT_FOUND, Problem.UNAVAILABLE),
)


def json_body(example: msgspec.Struct, *, required: bool = True) -> Body:
    """Declare a body that `read_json` reads."""
    return Body(
        example,
        (
            Problem.MALFORMED,
            Problem.TOO_SLOW,
            Problem.TOO_LARGE,
            Problem.UNSUPPORTED_MEDIA_TYPE,
            Problem.BAD_REQUEST,
        ),
        required,
    )


async def read_json(request: web.Request, decoder: msgspec.json.Decoder[S]) -> S:
    """Read a small JSON body of the decoder's type, or refuse naming what is wrong with it."""
    return parse_json(await read_body(request), decoder)


async def read_body(request: web.Request, max_bytes: int = BODY_MAX) -> bytes:
    """Read a small JSON body as it was sent, or refuse."""
    if "Content-Encoding" in request.headers:
        raise Refused(Problem.UNSUPPORTED_MEDIA_TYPE, "send the body as it is, not encoded")
    body = await _receive(request, max_bytes)
    if request.content_type != "application/json":
        raise Refused(Problem.UNSUPPORTED_MEDIA_TYPE)
    return body


async def read_any_body(request: web.Request) -> bytes:
    """Read a small body of any kind, or none, as it was sent; or refuse."""
    return await _receive(request, BODY_MAX)


def parse_json(body: bytes, decoder: msgspec.json.Decoder[S]) -> S:
    """Return the value of a JSON body, or refuse naming what is wrong with it."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$.")
        raise Refused(Problem.BAD_REQUEST, message, field=path.rstrip("`")) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refused(Problem.MALFORMED, f"not JSON: {error}") from error


async def find_sale(request: web.Request) -> Sale:
    """Return the sale that the path names, or refuse."""
    sale_id = sale_id_of(request)
    sale = await request.app[SALES].get(sale_id)
    if sale is None or sale.is_hidden(datetime.now(UTC)):
        raise Refused(Problem.NOT_FOUND, f"there is no sale {sale_id}")
    return sale


def sale_id_of(request: web.Request) -> str:
    """Return the sale id that the path names, or refuse: it may be no id at all."""
    sale_id = request.match_info["sale_id"]
    if not ID.match(sale_id):
        raise Refused(Problem.BAD_REQUEST, "use 1 to 64 of A-Z a-z 0-9 _ . -", field="sale_id")
    return sale_id


def order_id_of(request: web.Request) -> str:
    """Return the order id that the path names, or refuse."""
    order_id = request.match_info["order_id"].lower()
    if not order_ids.PATTERN.match(order_id):
        raise Refused(Problem.BAD_REQUEST, "not an order id of this shop", field="order_id")
    return order_id


async def _receive(request: web.Request, max_bytes: int) -> bytes:
    content = request.content
    if content.is_eof() and content.total_bytes <= max_bytes:
        return content.read_nowait()  # all of it came with the headers: nothing to wait for
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in content.iter_any():
                body += chunk
                if len(body) > DRAIN_MAX:
                    break
    except TimeoutError as error:
        late = f"the body took more than {BODY_S:g} s"
        raise Refused(Problem.TOO_SLOW, late, close=True) from error
    except (web.RequestPayloadError, HttpProcessingError, ClientPayloadError) as error:
        raise Refused(Problem.MALFORMED, "the body is not framed as stated", close=True) from error
    if len(body) > max_bytes:
        raise Refused(Problem.TOO_LARGE, f"at most {max_bytes} bytes")
    return bytes(body)
