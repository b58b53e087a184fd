"""What Stripe answers by its documents, and localstripe does not: recorded shapes, shortened.

https://docs.stripe.com/error-low-level, https://docs.stripe.com/declines/codes
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from seckill.errors import FailureKind, Unavailable
from seckill.payments.provider import Charge, ChargeRequest, ChargeStatus, RefundStatus
from seckill.payments.stripe_client import StripeClient

WANTED = ChargeRequest("card-1-0", 1999, "EUR", "sale", "order", "pm_card", "https://shop/back")
Answer = tuple[int, dict[str, Any], dict[str, str]]


def intent(status: str, **more: Any) -> dict[str, Any]:
    metadata = {"seckill_key": "card-1-0", "seckill_sale": "sale", "seckill_order": "order"}
    return {
        "id": "pi_1",
        "object": "payment_intent",
        "amount": 1999,
        "currency": "eur",
        "status": status,
        "metadata": metadata,
        "next_action": None,
        "last_payment_error": None,
        "latest_charge": None,
        **more,
    }


def error(status: int, type_: str, code: str | None = None, **more: Any) -> Answer:
    return status, {"error": {"type": type_, "code": code, "message": "…", **more}}, {}


def ok(body: dict[str, Any], **headers: str) -> Answer:
    return 200, body, {name.replace("_", "-"): value for name, value in headers.items()}


@asynccontextmanager
async def stripe(*answers: Answer) -> AsyncIterator[tuple[StripeClient, list[web.Request]]]:
    """Answer the requests in turn; the last answer stays."""
    left, seen = list(answers), []

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        seen.append(request)
        status, body, headers = left.pop(0) if len(left) > 1 else left[0]
        return web.json_response(body, status=status, headers=headers)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with StripeClient.open(url, "sk_test", timeout_s=5, calls_max=2) as client:
            yield client, seen
    finally:
        await runner.cleanup()


async def authorise(*answers: Answer) -> Charge:
    async with stripe(*answers) as (client, _):
        return await client.authorise(WANTED)


async def test_a_request_names_its_version_key_and_what_it_is_for() -> None:
    answers = ok(intent("requires_confirmation")), ok(intent("requires_capture"))
    async with stripe(*answers) as (client, seen):
        charge = await client.authorise(WANTED)
        made, confirmed = seen
        fields = await made.post()
    assert (charge.status, charge.ref) == (ChargeStatus.AUTHORISED, "pi_1")
    assert made.headers["Idempotency-Key"] == "card-1-0"
    assert made.headers["Authorization"] == "Bearer sk_test"
    assert made.headers["Stripe-Version"]
    assert (fields["capture_method"], fields["metadata[seckill_order]"]) == ("manual", "order")
    assert confirmed.path == "/v1/payment_intents/pi_1/confirm"
    assert (await confirmed.post())["return_url"] == "https://shop/back"


async def test_a_decline_has_the_banks_word() -> None:
    why = {"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds"}
    declined = intent("requires_payment_method", last_payment_error=why)
    charge = await authorise(
        ok(intent("requires_confirmation")),
        error(402, "card_error", "card_declined", decline_code="insufficient_funds"),
        ok(declined),
    )
    assert (charge.status, charge.decline_code) == (ChargeStatus.DECLINED, "insufficient_funds")


async def test_3d_secure_gives_the_page_of_the_bank() -> None:
    redirect = {"url": "https://hooks.stripe.com/3d_secure_2/…", "return_url": "https://shop/back"}
    action = {"type": "redirect_to_url", "redirect_to_url": redirect}
    charge = await authorise(
        ok(intent("requires_confirmation")), ok(intent("requires_action", next_action=action))
    )
    assert charge.status is ChargeStatus.REQUIRES_ACTION
    assert charge.redirect_url == redirect["url"]


async def test_a_bank_that_asks_without_a_way_back_is_a_decline() -> None:
    sdk = {"type": "use_stripe_sdk", "use_stripe_sdk": {}}
    async with stripe(
        ok(intent("requires_confirmation")),
        ok(intent("requires_action", next_action=sdk)),
        ok(intent("canceled")),
    ) as (client, seen):
        charge = await client.authorise(WANTED)
    assert charge.decline_code == "authentication_required"
    assert seen[-1].path.endswith("/cancel")


@pytest.mark.parametrize(
    "answer",
    [
        error(429, "invalid_request_error", "rate_limit"),
        error(429, "invalid_request_error", "lock_timeout"),
        error(409, "idempotency_error", "idempotency_key_in_use"),
        error(500, "api_error"),
        error(400, ""),
        (502, {"html": "from a proxy"}, {}),
        ok({"id": 1}),
    ],
)
async def test_what_decides_nothing_is_unknown(answer: Answer) -> None:
    with pytest.raises(Unavailable):
        await authorise(answer)


@pytest.mark.parametrize("status", [401, 403])
async def test_a_wrong_key_is_for_an_operator(status: int) -> None:
    with pytest.raises(Unavailable) as raised:
        await authorise(error(status, "invalid_request_error", "api_key_expired"))
    assert raised.value.kind is FailureKind.CONFIGURATION


@pytest.mark.parametrize(("status", "code"), [(400, "amount_too_small"), (404, "resource_missing")])
async def test_a_request_that_stripe_refuses_charges_nothing(status: int, code: str) -> None:
    charge = await authorise(error(status, "invalid_request_error", code))
    assert (charge.status, charge.decline_code) == (ChargeStatus.DECLINED, code)


async def test_a_first_answer_that_failed_for_good_is_a_decline_and_not_unknown_for_a_day() -> None:
    failed = (500, {"error": {"type": "api_error"}}, {"Idempotent-Replayed": "true"})
    assert (await authorise(failed)).decline_code == "provider_error"


async def test_a_key_that_was_used_with_other_values_is_found_by_search() -> None:
    other = error(400, "idempotency_error")
    found = {"data": [intent("requires_capture")], "has_more": False}
    assert (await authorise(other, ok(found))).status is ChargeStatus.AUTHORISED
    with pytest.raises(Unavailable):
        await authorise(other, ok({"data": [], "has_more": False}))


async def test_a_repeat_reads_what_has_happened_since() -> None:
    charge = await authorise(
        ok(intent("requires_confirmation"), Idempotent_Replayed="true"),
        ok(intent("requires_capture")),
    )
    assert charge.status is ChargeStatus.AUTHORISED


async def test_the_pages_of_a_search_are_one_list() -> None:
    pages = [
        ok({"data": [intent("requires_capture")], "has_more": True, "next_page": "p2"}),
        ok({"data": [intent("canceled")], "has_more": False, "next_page": None}),
    ]
    async with stripe(*pages) as (client, seen):
        charges = await client.charges_of("sale")
    assert [charge.status for charge in charges] == [ChargeStatus.AUTHORISED, ChargeStatus.VOIDED]
    assert seen[0].query["query"] == "metadata['seckill_sale']:'sale'"
    assert seen[1].query["page"] == "p2"


async def test_what_was_given_back_as_a_whole_is_voided_and_a_part_is_told() -> None:
    for back, status in ((0, "captured"), (500, "captured"), (1999, "voided")):
        done = intent("succeeded", latest_charge={"id": "ch_1", "amount_refunded": back})
        async with stripe(ok(done)) as (client, _):
            charge = await client.find(WANTED)
        assert (charge.status, charge.refunded_cents) == (status, back)


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ([ok(intent("requires_capture"))], RefundStatus.NOT_YET),
        ([ok(intent("canceled"))], RefundStatus.REFUSED),
        (
            [
                ok(intent("succeeded")),
                ok({"data": []}),
                error(400, "invalid_request_error", "charge_already_refunded"),
            ],
            RefundStatus.REFUSED,
        ),
        (
            [
                ok(intent("succeeded")),
                ok({"data": []}),
                ok({"id": "re_1", "amount": 500, "status": "pending"}),
            ],
            RefundStatus.DONE,
        ),
        (
            [
                ok(intent("succeeded")),
                ok(
                    {
                        "data": [
                            {
                                "id": "re_1",
                                "amount": 500,
                                "status": "failed",
                                "metadata": {"seckill_refund": "part"},
                            }
                        ]
                    }
                ),
            ],
            RefundStatus.REFUSED,
        ),
    ],
)
async def test_a_part_is_given_back_once_or_not_at_all(
    answers: list[Answer], status: RefundStatus
) -> None:
    async with stripe(*answers) as (client, _):
        assert await client.refund(WANTED, "part", 500) is status


async def test_a_part_that_stripe_cannot_count_is_not_sent() -> None:
    in_dinars = ChargeRequest("card-1-0", 2000, "KWD", "sale", "order", "pm_card")
    async with stripe(ok(intent("succeeded")), ok({"data": []})) as (client, seen):
        assert await client.refund(in_dinars, "part", 5) is RefundStatus.REFUSED
    assert [request.path for request in seen if request.path == "/v1/refunds"] == ["/v1/refunds"]
