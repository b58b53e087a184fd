"""Sales for the screen: one in a line, many in the rows of a table."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

from seckill.consistency import fencing
from seckill.consistency.fencing import FenceReason
from seckill.currencies import amount_text
from seckill.sales.listing import SoldUnits
from seckill.sales.sales import Sale

#: Why sales need a rebuild; None while that is not known.
Troubles = dict[str, FenceReason] | None

#: The heads of what `row` returns.
COLUMNS = ("sale", "state", "total", "sold", "held", "left", "price", "opens", "closes")


def row(sale: Sale, units: SoldUnits) -> tuple[str, ...]:
    """Return a sale and its units as a row below `COLUMNS`."""
    return (
        sale.sale_id,
        _state_of(sale),
        *map(str, (sale.total, *units)),
        amount_text(sale.price_cents, sale.currency),
        _short(sale.opens_at),
        _short(sale.closes_at),
    )


def described(sale: Sale) -> str:
    """Return a sale in one line."""
    opens = f", opens {sale.opens_at.isoformat()}" if sale.opens_at else ""
    closes = f", closes {sale.closes_at.isoformat()}" if sale.closes_at else ""
    name = f" ({sale.name})" if sale.name else ""
    return (
        f"sale {sale.sale_id}{name}: {_state_of(sale)}, {sale.total} units at "
        f"{amount_text(sale.price_cents, sale.currency)}, "
        f"{sale.payment_window_s} s to pay{opens}{closes}"
    )


def with_need(sale: Sale, troubles: Troubles) -> dict[str, object]:
    """Return a sale for machines, with why it needs a rebuild."""
    need = "unknown" if troubles is None else troubles.get(sale.sale_id)
    return asdict(sale) | {"needs_rebuild": need}


def advice(troubles: Troubles) -> list[str]:
    """Return a line for each sale that needs a rebuild: what to do."""
    return [fencing.advice(sale_id, reason) for sale_id, reason in (troubles or {}).items()]


def _state_of(sale: Sale) -> str:
    """Return the state, and what the time has made of it."""
    hidden = ", hidden" if sale.is_hidden(datetime.now(UTC)) else ""
    return f"{_state_by_time(sale)}{hidden}"


def _state_by_time(sale: Sale) -> str:
    now = datetime.now(UTC)
    if sale.archived:
        return "archived"
    if sale.state in ("open", "paused") and sale.closes_at and sale.closes_at <= now:
        return f"{sale.state}, its time is over"
    if sale.state == "open" and sale.opens_at and sale.opens_at > now:
        return "open, its time is to come"
    return sale.state


def _short(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if moment else "-"
