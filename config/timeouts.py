"""The setting that says what tells the end of an order's time to pay."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator
from pydantic_settings import NoDecode

DELAY_QUEUE = "delay_queue"
KEY_EXPIRY = "key_expiry"
WAYS = (DELAY_QUEUE, KEY_EXPIRY)


def parse_timeouts(text: str) -> frozenset[str]:
    """Parse a comma-separated list of ways; ValueError names what is none."""
    ways = frozenset(item.strip() for item in text.split(",") if item.strip())
    for way in ways - set(WAYS):
        raise ValueError(f"{way!r} is none of: {', '.join(WAYS)}")
    return ways


# NoDecode: pydantic-settings would take a list for JSON. A default is no text, so it is not parsed.
Timeouts = Annotated[
    frozenset[str], NoDecode, PlainValidator(parse_timeouts), Field(validate_default=False)
]
