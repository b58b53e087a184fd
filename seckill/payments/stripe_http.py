"""Requests to Stripe, and which of its errors mean no, again, or an operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar
from urllib.parse import urlencode

import msgspec

from seckill.adapters.http import HttpClient, Reply
from seckill.errors import FailureKind, Permanent, Unavailable
from seckill.payments.provider_calls import decoded
from seckill.payments.stripe_answers import StripeError, StripeErrorBody

#: The version that the adapter was written for; an account's own may be any.
VERSION = "2024-06-20"

S = TypeVar("S", bound=msgspec.Struct)

_decode_error = msgspec.json.Decoder(StripeErrorBody).decode


class StripeRefusal(Permanent):
    """Stripe said no: the same request gets the same answer."""

    def __init__(self, status: int, word: str, message: str, type_: str = "") -> None:
        super().__init__(f"{status} {word}: {message}")
        self.word = word
        #: The bank's no, and not a mistake in the request.
        self.is_decline = status == 402
        #: The Idempotency-Key was used for a request with other values.
        self.is_other_request = type_ == "idempotency_error"

    def unavailable(self) -> Unavailable:
        """Return it as an outcome that is not known."""
        return Unavailable(f"Stripe answered {self}", code=self.word)


@dataclass(frozen=True, slots=True)
class StripeAnswer(Generic[S]):
    """A success; `replayed` if it is that of an earlier request of this Idempotency-Key."""

    answer: S
    replayed: bool


class StripeHttp:
    """Sends forms, with the secret key, and reads JSON."""

    def __init__(self, client: HttpClient, url: str, key: str) -> None:
        self._client = client
        self._url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {key}", "Stripe-Version": VERSION}

    async def get(self, path: str, answer: type[S]) -> S:
        """Read; raise Unavailable or StripeRefusal."""
        reply = await self._client.get(self._url + path, self._headers)
        return self._answer(path, reply, answer)

    async def post(
        self, path: str, fields: Mapping[str, str], answer: type[S], *, key: str = ""
    ) -> StripeAnswer[S]:
        """Change something, once for each key; raise Unavailable or StripeRefusal."""
        headers = {**self._headers, "Content-Type": "application/x-www-form-urlencoded"}
        if key:
            headers["Idempotency-Key"] = key
        reply = await self._client.post(self._url + path, urlencode(fields).encode(), headers)
        replayed = reply.headers.get("Idempotent-Replayed") == "true"
        if replayed and reply.status >= 500:
            # The failure is the answer to this key for a day. What it made, if anything, was told
            # to no process, so no process has gone on with it.
            raise StripeRefusal(reply.status, "provider_error", "the first request failed")
        return StripeAnswer(self._answer(path, reply, answer), replayed)

    def _answer(self, path: str, reply: Reply, answer: type[S]) -> S:
        if reply.status == 200:
            return decoded(path, reply.body, msgspec.json.Decoder(answer).decode)
        error = _error_of(reply)
        said = f"{self._url} answered {reply.status} {error.word} to {path.partition('?')[0]}"
        if reply.status in (401, 403):
            raise Unavailable(said, kind=FailureKind.CONFIGURATION, code=error.word)
        # 409: the first request of this key is still under way. 429: too many, or a lock.
        if reply.status in (409, 429) or reply.status >= 500 or not error.type:
            raise Unavailable(said, code=error.word)
        raise StripeRefusal(reply.status, error.word, error.message or "", error.type)


def _error_of(reply: Reply) -> StripeError:
    try:
        return _decode_error(reply.body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return StripeError()  # not from Stripe itself: a proxy, say
