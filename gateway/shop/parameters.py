"""Values in the path, query and headers of the shop's calls: declared, and read."""

from __future__ import annotations

import re
from datetime import datetime

from aiohttp import web

from gateway.http.contract import Parameter
from gateway.http.problems import Problem, Refused
from gateway.http.requests import ORDER_ID, SALE_ID
from seckill.auth.tickets import ID

_IDS = "use 1 to 64 of A-Z a-z 0-9 _ . -"
_WRONG = (Problem.BAD_REQUEST,)

BUYER_ID = Parameter("buyer_id", "Names the buyer.", ID, "alice", _WRONG)
OF_BUYER = Parameter("buyer_id", "Of this buyer alone.", ID, "alice", _WRONG, "query")
OF_SALE = Parameter(
    "sale_id", "Of this sale alone.", ID, SALE_ID.example, (Problem.BAD_REQUEST,), "query"
)
SINCE = Parameter(
    "since",
    "Grabbed at this time or later, an RFC 3339 time with its zone.",
    None,
    "2026-11-27T20:00:00+08:00",
    _WRONG,
    "query",
)
UNTIL = Parameter(
    "until", "Grabbed before this time.", None, "2026-11-28T00:00:00Z", _WRONG, "query"
)
LIMIT = Parameter(
    "limit", "How many at most.", re.compile(r"[1-9][0-9]{0,2}\Z"), "100", _WRONG, "query"
)
ORDER_CURSOR = Parameter(
    "cursor",
    "`next` of the page before.",
    re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z"),
    ORDER_ID.example,
    _WRONG,
    "query",
)
SALE_CURSOR = Parameter(
    "cursor", "`next` of the page before.", re.compile(r"[0-9]{1,9}\Z"), "41", _WRONG, "query"
)

_NUMBER = re.compile(r"[1-9][0-9]{0,17}\Z")
_NUMBERED = (Problem.BAD_REQUEST, Problem.NOT_FOUND, Problem.UNAVAILABLE)
WEBHOOK_ID = Parameter("webhook_id", "The webhook's number.", _NUMBER, "7", _NUMBERED)
DELIVERY_ID = Parameter("delivery_id", "The delivery's number.", _NUMBER, "17", _NUMBERED)
DELIVERY_STATE = Parameter(
    "state",
    "In this state alone.",
    re.compile(r"(pending|delivered|dead)\Z"),
    "dead",
    _WRONG,
    "query",
)
NUMBER_CURSOR = Parameter("cursor", "`next` of the page before.", _NUMBER, "41", _WRONG, "query")
DROP = Parameter(
    "drop",
    "`true`: also deliveries that were not made yet.",
    re.compile(r"(true|false)\Z"),
    "true",
    _WRONG,
    "query",
)


def text_of(request: web.Request, parameter: Parameter) -> str | None:
    """Return a value of the query; None if it was not given. Raise Refused if it cannot be one."""
    text = request.query.get(parameter.name)
    if text is None:
        return None
    if parameter.pattern and not parameter.pattern.match(text):
        said = _IDS if parameter.pattern is ID else f"such as {parameter.example}"
        raise Refused(Problem.BAD_REQUEST, said, field=parameter.name)
    return text


def limit_of(request: web.Request, *, default: int, most: int) -> int:
    """Return how many are asked for, within the bounds."""
    text = text_of(request, LIMIT)
    if text is None:
        return default
    if int(text) > most:
        raise Refused(Problem.BAD_REQUEST, f"1 to {most}", field=LIMIT.name)
    return int(text)


def moment_of(request: web.Request, parameter: Parameter) -> datetime | None:
    """Return a time of the query; None if it was not given."""
    text = request.query.get(parameter.name)
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        said = f"an RFC 3339 time with its zone, such as {parameter.example} (%2B for +)"
        raise Refused(Problem.BAD_REQUEST, said, field=parameter.name)
    return moment


def buyer_id_of(request: web.Request) -> str:
    """Return the buyer's id that the path names."""
    buyer_id = request.match_info["buyer_id"]
    if not ID.match(buyer_id):
        raise Refused(Problem.BAD_REQUEST, _IDS, field="buyer_id")
    return buyer_id


def number_of(request: web.Request, parameter: Parameter) -> int:
    """Return a number of the path, or refuse."""
    text = request.match_info[parameter.name]
    if not _NUMBER.match(text):
        raise Refused(Problem.BAD_REQUEST, f"such as {parameter.example}", field=parameter.name)
    return int(text)


def refuse_unknown(request: web.Request, *known: Parameter) -> None:
    """Raise Refused for a misspelt filter, which would else find all orders."""
    for name in request.query.keys() - {parameter.name for parameter in known}:
        said = f"there are {', '.join(parameter.name for parameter in known)}"
        raise Refused(Problem.BAD_REQUEST, said, field=name[:64])
