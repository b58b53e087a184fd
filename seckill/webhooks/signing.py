"""Signatures as in the Standard Webhooks specification: libraries for most languages check them.

What is signed is "<id>.<time>.<body>", with HMAC-SHA256. While a secret is being rotated, requests
carry a signature by each of the two.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Sequence

PREFIX = "whsec_"
#: As the specification advises: 24 to 64.
SECRET_BYTES = 32


def new_secret() -> str:
    """Return a secret that was never used."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def signed_headers(
    message_id: str, body: bytes, given: Sequence[str], *, now_s: int
) -> dict[str, str]:
    """Return the headers that identify and sign a request, by each of the secrets."""
    text = b"%s.%d.%s" % (message_id.encode(), now_s, body)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(now_s),
        "webhook-signature": " ".join(f"v1,{_mac(secret, text)}" for secret in given),
    }


def _mac(secret: str, text: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(PREFIX))
    return base64.b64encode(hmac.new(key, text, hashlib.sha256).digest()).decode()
