"""Dead letters as a person or a machine is shown them."""

from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from rich.console import RenderableType

from ops.cli.console import table
from seckill.dead_letters import parser
from seckill.dead_letters.parser import first_line
from seckill.dead_letters.store import DeadLetter

#: How many letters of one outcome are named before they are only counted.
NAMED_MAX = 10


def describe(letter: DeadLetter, *, whole: bool = False) -> dict[str, Any]:
    """Return a letter for JSON; `whole` with its headers, its stack and its body."""
    fields = {
        key: value.isoformat() if isinstance(value, datetime) else value
        for key, value in asdict(letter).items()
        if whole or key not in ("body", "headers", "stack")
    }
    fields["orders"] = [order._asdict() for order in letter.orders]
    if whole:
        fields["body"] = base64.b64encode(letter.body).decode()
        fields["content"] = parser.decode(letter.body)
    return fields


def summary(letter: DeadLetter) -> str:
    """Return a letter in two lines: a table would leave no room for the reason."""
    return (
        f"{letter.letter_id}  {letter.last_at:%Y-%m-%d %H:%M:%S}  {letter.queue}"
        f"  sale {letter.sale_id or 'unknown'}, {len(letter.orders)} orders, {letter.state},"
        f" died {letter.deaths}, replayed {letter.replays} times\n"
        f"    {first_line(letter.reason)}"
    )


def details(letter: DeadLetter, standing: Sequence[dict[str, Any]]) -> Iterator[RenderableType]:
    """Yield all of a letter; `standing` has the orders that it names, as they are now."""
    for name, value in describe(letter, whole=True).items():
        if name not in ("orders", "body", "content") and value is not None:
            yield f"{name:<15}{value}"
    content = parser.decode(letter.body)
    yield f"{'body':<15}{len(letter.body)} bytes{', unreadable' * (content is None)}"
    yield repr(letter.body) if content is None else json.dumps(content)
    rows = [
        (
            order["order_id"],
            order["buyer_id"] or "-",
            str(order["quantity"] or "-"),
            order["row"] or "none",
            f"{holder['buyer_id']}: {holder['quantity']}" if holder else "none",
        )
        for order in standing
        for holder in [order["holder"]]
    ]
    if rows:
        yield table("order", "buyer", "quantity", "row now", "holder in Redis now", rows=rows)


def outcome_lines(outcomes: Sequence[dict[str, Any]], left: int) -> Iterator[str]:
    """Yield what became of letters, and how many are left."""
    by_text: dict[str, list[int]] = defaultdict(list)
    for outcome in outcomes:
        by_text[_text(outcome)].append(outcome["letter_id"])
    for text, ids in by_text.items():
        named = ", ".join(map(str, ids[:NAMED_MAX]))
        more = f" and {len(ids) - NAMED_MAX} more" if len(ids) > NAMED_MAX else ""
        yield f"letter {named}{more}: {text}"
    if left:
        yield f"{left} left; run it again for the next"
    elif not outcomes:
        yield "no open letter is meant"


def _text(outcome: dict[str, Any]) -> str:
    effects = Counter(outcome.get("orders", {}).values())
    orders = "".join(f", {count} {effect}" for effect, count in effects.items())
    units = f", {outcome['units']} units back" if outcome.get("units") else ""
    reason = f": {outcome['reason']}" if "reason" in outcome else ""
    return f"{outcome['outcome']}{orders}{units}{reason}"
