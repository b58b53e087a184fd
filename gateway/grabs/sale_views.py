"""A sale's bytes in one second, as aiohttp and connections answer with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from gateway.http.responses import COMMON

#: The same for all, and good for as long as `remaining` may lag.
CACHED = "public, max-age=1"


@dataclass(slots=True)
class EncodedView:
    """The bytes of a sale in one second."""

    second: int
    body: bytes
    #: With its quotes.
    tag: str
    #: Answers with these bytes, before and behind their Request-Id, by who they are for
    #: (`RawResponses`).
    answers: dict[tuple[int, bool], tuple[bytes, bytes]] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of an answer, 200 or 304."""
        return {**COMMON, "Cache-Control": CACHED, "ETag": self.tag}


class KnownViews(Protocol):
    """Who has such bytes; `gateway.sales.views` does."""

    def peek(self, sale_id: str) -> EncodedView | None:
        """Return a sale's bytes if they are known without asking a store."""


def has_copy(if_none_match: str, tag: str) -> bool:
    """Tell whether the header names the tag: then the client has these bytes."""
    named = [each.strip().removeprefix("W/") for each in if_none_match.split(",")]
    return tag in named or "*" in named


#: What connections ask.
KNOWN_VIEWS = web.AppKey[KnownViews]("known_views")
