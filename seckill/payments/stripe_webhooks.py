"""Stripe's webhooks: `Stripe-Signature: t=<Unix seconds>,v1=<HMAC-SHA256 of t, a stop, the body>`.

https://docs.stripe.com/webhooks#verify-manually. `t` is when it was sent, so a delivery that Stripe
repeats for days has a new one each time. The time of the event (`created`) may be days ago, or that
of a test clock, and is not compared with ours.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence

import msgspec

from seckill.payments.provider import BadSignature, BadWebhook
from seckill.payments.stripe_answers import KEY

SIGNATURE = "Stripe-Signature"
#: The tolerance of Stripe's own libraries.
TOLERANCE_S = 300

_TIME = re.compile(r"\d{1,12}", re.ASCII)
#: A header has a time and one signature for each secret that is being replaced.
_HEADER_MAX = 2_000


class _Object(msgspec.Struct):
    metadata: dict[str, str] | None = None


class _Data(msgspec.Struct):
    object: _Object


class _Event(msgspec.Struct):
    data: _Data


_decode = msgspec.json.Decoder(_Event).decode


def sign(secret: str, body: bytes, *, now_s: int) -> str:
    """Return the value of the header for a body."""
    return f"t={now_s},v1={_mac(secret, str(now_s), body)}"


class StripeWebhooks:
    """Reads webhooks that are signed with one of the secrets."""

    def __init__(self, secrets: Sequence[str]) -> None:
        """Without a secret every webhook is refused. Two are for a change of secrets."""
        self._secrets = secrets

    def __call__(self, headers: Mapping[str, str], body: bytes, *, now_s: float) -> str | None:
        """Return the key of the charge; raise BadSignature or BadWebhook."""
        header = headers.get(SIGNATURE, "")
        parts = [item.partition("=") for item in header[:_HEADER_MAX].split(",")]
        times = [value for name, _, value in parts if name.strip() == "t"]
        given = [value.encode() for name, _, value in parts if name.strip() == "v1"]
        if len(times) != 1 or not _TIME.fullmatch(times[0]):
            raise BadSignature
        if abs(now_s - int(times[0])) > TOLERANCE_S:
            raise BadSignature
        wanted = [_mac(secret, times[0], body).encode() for secret in self._secrets]
        # Each is compared, in constant time, so that no answer shows how near a guess was.
        if not any([hmac.compare_digest(mine, theirs) for mine in wanted for theirs in given]):
            raise BadSignature
        try:
            event = _decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadWebhook(str(error)) from error
        return (event.data.object.metadata or {}).get(KEY)


def _mac(secret: str, at: str, body: bytes) -> str:
    return hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
