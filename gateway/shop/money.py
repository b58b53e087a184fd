"""`/shop/v1/buyers/{buyer_id}/…`: wallets and coupons of buyers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import asyncpg
import msgspec
from aiohttp import web

from gateway.app_keys import DB
from gateway.http.contract import ResponseSpec, operation
from gateway.http.problems import Problem
from gateway.http.requests import json_body, parse_json, read_body
from gateway.http.responses import json_response
from gateway.http.shop_auth import shop_token
from gateway.sales.changes import Reason
from gateway.shop.calls import CALLER
from gateway.shop.idempotency import IDEMPOTENCY_KEY, change_once, keyed_call
from gateway.shop.parameters import BUYER_ID, buyer_id_of
from seckill import audit
from seckill.auth.tickets import ID
from seckill.errors import WrongState
from seckill.payments import wallets
from seckill.payments.wallets import CENTS_MAX, Coupon, TopUp, Wallet
from seckill.shop.tokens import Scope

Cents = Annotated[int, msgspec.Meta(ge=1, le=CENTS_MAX)]


class WalletView(msgspec.Struct):
    """A buyer's money: free to spend, and frozen by payments under way."""

    buyer_id: str
    available_cents: int
    frozen_cents: int


class CouponView(msgspec.Struct):
    """A coupon, which is used as a whole."""

    coupon_id: str
    buyer_id: str
    amount_cents: int
    status: Literal["available", "locked", "used"]


class CouponList(msgspec.Struct):
    """All coupons of a buyer, used ones included."""

    coupons: Sequence[CouponView]


class NewTopUp(msgspec.Struct, forbid_unknown_fields=True):
    """Money to be put into a wallet, and why."""

    amount_cents: Cents
    reason: Reason


class NewCoupon(msgspec.Struct, forbid_unknown_fields=True):
    """A coupon to be issued, and why."""

    coupon_id: Annotated[str, msgspec.Meta(pattern=f"^{ID.pattern}")]
    amount_cents: Cents
    reason: Reason


_WALLET = WalletView("alice", 1999, 0)
_COUPON = CouponView("ten-off", "alice", 1000, "available")
_top_up = msgspec.json.Decoder(NewTopUp)
_coupon = msgspec.json.Decoder(NewCoupon)


@operation(
    "Show a buyer's wallet",
    ResponseSpec(200, "The wallet; an empty one for who never had money.", _WALLET),
    tag="money",
    parameters=[BUYER_ID],
    identities=[shop_token(Scope.MONEY)],
    problems=[Problem.RATE_LIMITED],
)
async def show_wallet(request: web.Request) -> web.Response:
    """Answer with a buyer's wallet."""
    wallet = await wallets.find_wallet(request.app[DB], buyer_id_of(request))
    return json_response(_wallet_view(wallet))


@operation(
    "Put money into a buyer's wallet",
    ResponseSpec(200, "The wallet as it is then.", _WALLET),
    tag="money",
    parameters=[BUYER_ID, IDEMPOTENCY_KEY],
    identities=[shop_token(Scope.MONEY)],
    body=json_body(NewTopUp(1999, "a gift card")),
    problems=[Problem.RATE_LIMITED],
)
async def top_up_wallet(request: web.Request) -> web.Response:
    """Book money that the shop took elsewhere."""
    buyer_id, caller, body = buyer_id_of(request), request[CALLER], await read_body(request)
    wanted, call = parse_json(body, _top_up), keyed_call(request, body)

    async def change(connection: asyncpg.Connection) -> bytes:
        top_up = TopUp(f"shop-{call.made_id}", buyer_id, wanted.amount_cents)
        if await wallets.top_up(connection, [top_up]):
            await audit.record(
                connection,
                "wallet.top_up",
                actor=caller.actor,
                reason=wanted.reason,
                details={"buyer_id": buyer_id, "tx_id": top_up.tx_id, "cents": top_up.cents},
            )
        return msgspec.json.encode(_wallet_view(await wallets.find_wallet(connection, buyer_id)))

    return await change_once(request, body, change)


@operation(
    "List a buyer's coupons",
    ResponseSpec(200, "All of them, used ones included.", CouponList([_COUPON])),
    tag="money",
    parameters=[BUYER_ID],
    identities=[shop_token(Scope.MONEY)],
    problems=[Problem.RATE_LIMITED],
)
async def list_coupons(request: web.Request) -> web.Response:
    """Answer with a buyer's coupons."""
    found = await wallets.coupons_of(request.app[DB], buyer_id_of(request))
    return json_response(CouponList([_coupon_view(coupon) for coupon in found]))


@operation(
    "Issue a coupon to a buyer",
    ResponseSpec(200, "The coupon.", _COUPON),
    tag="money",
    parameters=[BUYER_ID, IDEMPOTENCY_KEY],
    identities=[shop_token(Scope.MONEY)],
    body=json_body(NewCoupon("ten-off", 1000, "a complaint")),
    problems=[Problem.CONFLICT, Problem.RATE_LIMITED],
)
async def issue_coupon(request: web.Request) -> web.Response:
    """Issue a coupon whose id is new."""
    buyer_id, caller, body = buyer_id_of(request), request[CALLER], await read_body(request)
    wanted = parse_json(body, _coupon)

    async def change(connection: asyncpg.Connection) -> bytes:
        coupon = Coupon(wanted.coupon_id, buyer_id, wanted.amount_cents)
        if not await wallets.issue_coupons(connection, [coupon]):
            raise WrongState(f"there is a coupon {coupon.coupon_id} already; give another id")
        await audit.record(
            connection,
            "coupon.issue",
            actor=caller.actor,
            reason=wanted.reason,
            details={"buyer_id": buyer_id, "coupon_id": coupon.coupon_id, "cents": coupon.cents},
        )
        return msgspec.json.encode(_coupon_view(coupon))

    return await change_once(request, body, change)


def _wallet_view(wallet: Wallet) -> WalletView:
    return WalletView(wallet.buyer_id, wallet.available_cents, wallet.frozen_cents)


def _coupon_view(coupon: Coupon) -> CouponView:
    return msgspec.convert(
        {
            "coupon_id": coupon.coupon_id,
            "buyer_id": coupon.buyer_id,
            "amount_cents": coupon.cents,
            "status": coupon.state,
        },
        CouponView,
    )
