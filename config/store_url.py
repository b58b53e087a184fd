"""Addresses of stores and services, checked for their form at start: a typo is one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator


def _of(*schemes: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not text:  # not configured
            return text
        url = urlsplit(text)
        if url.scheme not in schemes:
            known = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(f"an address that begins with {known} is needed")
        try:
            url.port  # noqa: B018 - parsed when it is asked for
        except ValueError:  # whose text may hold a part of a password that has a "/" in it
            raise ValueError("the port is not a number; write / in a password as %2F") from None
        return text

    return check


RedisUrl = Annotated[str, AfterValidator(_of("redis", "rediss", "unix"))]
AmqpUrl = Annotated[str, AfterValidator(_of("amqp", "amqps"))]
PostgresDsn = Annotated[str, AfterValidator(_of("postgresql", "postgres"))]
HttpUrl = Annotated[str, AfterValidator(_of("http", "https"))]
