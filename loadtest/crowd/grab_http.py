"""HTTP of the generators: the bytes of a grab, and what the head of an answer says."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

_NUMBERS = [
    re.compile(rb"\r\n" + name + rb": *(\d+)", re.IGNORECASE)
    for name in (b"content-length", b"retry-after")
]


class HttpForm(StrEnum):
    """What a request says about its connection."""

    #: HTTP/1.1, whose connections stay open.
    KEEP_ALIVE = "keep-alive"
    #: HTTP/1.1 with `Connection: close`.
    CLOSE = "close"
    #: HTTP/1.0, as nginx before 1.29.7 and `ab` send it.
    OLD = "1.0"


_FORMS = {
    HttpForm.KEEP_ALIVE: ("1.1", ""),
    HttpForm.CLOSE: ("1.1", "Connection: close\r\n"),
    HttpForm.OLD: ("1.0", ""),
}


def grab_bytes(sale_id: str, ticket: str, form: HttpForm = HttpForm.KEEP_ALIVE) -> bytes:
    """Return the bytes of a grab."""
    version, connection = _FORMS[form]
    return (
        f"POST /v1/sales/{sale_id}/grabs HTTP/{version}\r\nHost: localhost\r\n"
        f"Seckill-Ticket: {ticket}\r\n{connection}"
        "Content-Type: application/json\r\nContent-Length: 15\r\n\r\n"
        '{"quantity": 1}'
    ).encode()


# Within a second, in which the date stays, most answers of one kind have the same head.
@lru_cache(maxsize=1024)
def read_head(head: bytes) -> tuple[int, int, int]:
    """Return status, length of the body, and seconds of Retry-After."""
    length, after = (int(found[1]) if (found := of.search(head)) else 0 for of in _NUMBERS)
    return int(head[9:12]), length, after
