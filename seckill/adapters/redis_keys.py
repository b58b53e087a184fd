"""Every Redis key of the project. All keys of a sale share the tag {sale_id}: one cluster slot.

With a namespace (`namespace.py`) every key begins with it: `shop1:sk:{sale_id}:stock`.
"""

from __future__ import annotations

import re

from seckill import order_ids
from seckill.adapters import namespace

_EXPIRY = re.compile(r"sk:\{[^}]+\}:expiry:(.+)")


def stock(sale_id: str) -> str:
    """Return the STRING of units that are not reserved."""
    return f"{namespace.redis_prefix}sk:{{{sale_id}}}:stock"


def sale(sale_id: str) -> str:
    """Return the HASH of state, window, per_order_max, number, epoch, corrections and total."""
    return f"{namespace.redis_prefix}sk:{{{sale_id}}}:sale"


def holders(sale_id: str) -> str:
    """Return the HASH buyer_id -> "order_id:quantity"."""
    return f"{namespace.redis_prefix}sk:{{{sale_id}}}:holders"


def outbox(sale_id: str) -> str:
    """Return the STREAM of accepted batches that the broker has not confirmed."""
    return f"{namespace.redis_prefix}sk:{{{sale_id}}}:outbox"


def bucket(sale_id: str, op: str) -> str:
    """Return the HASH of level and time of an operation's token bucket, and its own limit."""
    return f"{namespace.redis_prefix}sk:{{{sale_id}}}:bucket:{op}"


def line(sale_id: str, op: str) -> str:
    """Return the ZSET name -> turn in microseconds of the names that wait for an operation."""
    return f"{namespace.redis_prefix}sk:{{{sale_id}}}:line:{op}"


def burnt_proof(sale_id: str, nonce: str) -> str:
    """Return the STRING that marks a proof as used until its challenge has expired."""
    return f"{namespace.redis_prefix}sk:{{{sale_id}}}:proof:{nonce}"


def expiry(sale_id: str, order_id: str) -> str:
    """Return the STRING that expires when the order's time to pay is over."""
    return f"{namespace.redis_prefix}sk:{{{sale_id}}}:expiry:{order_id}"


def order_of_expiry(key: str) -> str | None:
    """Return the order of an expiry key; None for any other key."""
    prefix = namespace.redis_prefix
    found = _EXPIRY.fullmatch(key, len(prefix)) if key.startswith(prefix) else None
    return found[1] if found and order_ids.PATTERN.match(found[1]) else None


def expired_channel(database: int) -> str:
    """Return the channel on which Redis announces the keys of a database that expire."""
    return f"__keyevent@{database}__:expired"


def paying(sale_id: str, order_id: str) -> str:
    """Return the STRING that the one payment under way of an order holds, to save double work."""
    return f"{namespace.redis_prefix}sk:{{{sale_id}}}:paying:{order_id}"


def replication_mark(sale_id: str) -> str:
    """Return the STRING that is written before replicas are waited for."""
    return f"{namespace.redis_prefix}sk:{{{sale_id}}}:replicated"


def history() -> str:
    """Return the ZSET "mark" -> how far PostgreSQL had come when a consumer looked last."""
    return f"{namespace.redis_prefix}sk:{namespace.redis_tag}history"


def sale_versions() -> str:
    """Return the HASH sale_id -> version of the sale in PostgreSQL when a consumer looked last."""
    return f"{namespace.redis_prefix}sk:{namespace.redis_tag}sale-versions"


def reconcile_lock() -> str:
    """Return the STRING that the one working reconcile role holds, to save double work."""
    return f"{namespace.redis_prefix}sk:{namespace.redis_tag}lock:reconcile"


def relay_lock() -> str:
    """Return the STRING that the one working relay holds, to save double work."""
    return f"{namespace.redis_prefix}sk:{namespace.redis_tag}lock:relay"


def installation() -> str:
    """Return the STRING of the id of the installation that this Redis belongs to."""
    return f"{namespace.redis_prefix}sk:{namespace.redis_tag}installation"


def processes() -> str:
    """Return the HASH process -> what it reported last, of all processes of the installation."""
    return f"{namespace.redis_prefix}sk:processes"


def probe(token: str, kind: str) -> str:
    """Return the key of this kind on which a process that starts tries its commands."""
    return f"{namespace.redis_prefix}sk:{{{token}}}:probe:{kind}"
