"""What all adapters do with a call to their provider: measure it, and note whether it answered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from seckill import metrics
from seckill.errors import Unavailable
from seckill.outages import OUTAGES, PROVIDER
from seckill.spans import current

T = TypeVar("T")


@contextmanager
def observed(call: str) -> Iterator[None]:
    """Count a call, and log once that the provider does not answer, and once that it does again."""
    began_at = time.monotonic()

    def observe(result: str) -> None:
        took_s = time.monotonic() - began_at
        calls = metrics.PROVIDER_CALL_SECONDS.labels(call, result)
        calls.observe(took_s)
        if context := current():
            calls.exemplify(took_s, context.trace_id)

    try:
        yield
    except Unavailable as error:
        observe("failed")
        error.store = PROVIDER
        OUTAGES.failed(error)
        raise
    observe("ok")
    OUTAGES.worked(PROVIDER)


def decoded(url: str, body: bytes, decode: Callable[[bytes], T]) -> T:
    """Decode an answer; raise Unavailable if it is none."""
    try:
        return decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise Unavailable(f"{url} answered something else than a charge: {error}") from error
