"""An answer of the gateway as a client reads it, and what follows from it. No I/O."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

#: Codes after which nothing was done, and the same call may succeed later.
LATER_CODES = frozenset(
    {"not_open", "overloaded", "paused", "queued", "rate_limited", "too_early", "too_slow"}
)
#: The code of a call that got no answer, or one that no gateway gives: a proxy's page.
NO_ANSWER = "no_answer"


@dataclass(frozen=True, slots=True)
class ServerAnswer:
    """Status, body and hints of an answer. Status 0: none came."""

    status: int = 0
    body: Mapping[str, Any] = field(default_factory=dict)
    #: Seconds to wait before the same call; None where the answer names none.
    retry_after_s: float | None = None
    #: The id of the request in the gateway's logs; "" where it has none.
    request_id: str = ""

    @classmethod
    def read(cls, status: int, text: str, headers: Mapping[str, str]) -> ServerAnswer:
        """Read what was received; a body that is no JSON object is an empty one."""
        after = retry_after_s(headers.get("Retry-After"))
        return cls(status, json_object(text), after, headers.get("Request-Id", ""))

    @property
    def is_good(self) -> bool:
        """Whether the call did what was asked."""
        return 200 <= self.status < 300

    @property
    def code(self) -> str:
        """The stable code of a problem, or `no_answer`; "" where nothing is wrong."""
        named = self.body.get("code")
        return str(named) if named else ("" if self.is_good else NO_ANSWER)

    @property
    def is_unknown(self) -> bool:
        """Whether the call may have been done or not: the same call again finds it out."""
        said_later = self.code in LATER_CODES
        return self.status == 0 or (self.status >= 500 and not said_later)

    @property
    def is_later(self) -> bool:
        """Whether nothing was done, and the same call may succeed later."""
        # A proxy's 429 has no code of ours.
        return self.code in LATER_CODES or (self.status == 429 and not self.is_unknown)


def json_object(text: str | None) -> dict[str, Any]:
    """Return a JSON object; any other text is an empty one."""
    try:
        body = json.loads(text or "")
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def retry_after_s(header: str | None) -> float | None:
    """Return the seconds of a `Retry-After`; None without one. The gateway sends no dates."""
    return float(header) if header and header.isdecimal() else None


def unix_s(moment: str | None) -> float:
    """Return a moment of the contract as Unix seconds; 0 for none."""
    return datetime.fromisoformat(moment).astimezone(UTC).timestamp() if moment else 0.0
