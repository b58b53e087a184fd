"""Stripe's webhooks: what is signed, lately, with one of the secrets, is read."""

from __future__ import annotations

import msgspec
import pytest

from seckill.payments.provider import BadSignature, BadWebhook
from seckill.payments.stripe_webhooks import SIGNATURE, TOLERANCE_S, StripeWebhooks, sign

NOW = 1_800_000_000
#: An event of a test clock: its own time is years ahead, and its delivery is now.
BODY = msgspec.json.encode(
    {
        "id": "evt_1",
        "object": "event",
        "created": NOW + 10**8,
        "type": "payment_intent.amount_capturable_updated",
        "data": {"object": {"id": "pi_1", "metadata": {"seckill_key": "card-1-0"}}},
    }
)
read = StripeWebhooks(["new", "old"])


def header(by: str = "new", *, body: bytes = BODY, at: int = NOW) -> dict[str, str]:
    return {SIGNATURE: sign(by, body, now_s=at)}


@pytest.mark.parametrize("at", [NOW - TOLERANCE_S, NOW, NOW + TOLERANCE_S])
@pytest.mark.parametrize("secret", ["new", "old"])
def test_the_key_of_a_signed_event_is_read(secret: str, at: int) -> None:
    assert read(header(secret, at=at), BODY, now_s=NOW) == "card-1-0"


def test_one_good_signature_of_several_is_enough() -> None:
    mine = header()[SIGNATURE]
    several = mine.replace(",v1=", f",v1={'0' * 64},v1=") + ",v0=ignored"
    assert read({SIGNATURE: several}, BODY, now_s=NOW) == "card-1-0"


@pytest.mark.parametrize(
    "given",
    [
        {},
        {SIGNATURE: ""},
        {SIGNATURE: "t=,v1="},
        {SIGNATURE: f"t={NOW}"},
        {SIGNATURE: f"t={NOW},t={NOW},v1=00"},
        {SIGNATURE: f"t={NOW},v1=é"},
        header("other"),
        header(body=b"{}"),
        header(at=NOW - TOLERANCE_S - 1),
        header(at=NOW + TOLERANCE_S + 1),
    ],
)
def test_what_is_not_signed_lately_with_a_secret_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(BadSignature):
        read(given, BODY, now_s=NOW)


def test_without_a_secret_everything_is_refused() -> None:
    with pytest.raises(BadSignature):
        StripeWebhooks([])(header(""), BODY, now_s=NOW)


@pytest.mark.parametrize(
    ("body", "key"),
    [(b'{"data": {"object": {}}}', None), (b'{"data": {"object": {"metadata": null}}}', None)],
)
def test_an_event_of_something_else_has_no_key(body: bytes, key: str | None) -> None:
    assert read(header(body=body), body, now_s=NOW) is key


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff"])
def test_a_signed_body_that_is_no_event_is_named(body: bytes) -> None:
    with pytest.raises(BadWebhook):
        read(header(body=body), body, now_s=NOW)
