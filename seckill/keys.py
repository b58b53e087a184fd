"""Every Redis key of the project. All keys of a sale share the tag {sale_id}: one cluster slot."""

from __future__ import annotations


def stock(sale_id: str) -> str:
    """Return the STRING of units that nobody has reserved."""
    return f"sk:{{{sale_id}}}:stock"


def sale(sale_id: str) -> str:
    """Return the HASH of state, window, per_order_max, number, epoch, corrections and total."""
    return f"sk:{{{sale_id}}}:sale"


def holders(sale_id: str) -> str:
    """Return the HASH buyer_id -> "order_id:quantity"."""
    return f"sk:{{{sale_id}}}:holders"


def outbox(sale_id: str) -> str:
    """Return the STREAM of accepted batches that the broker has not confirmed."""
    return f"sk:{{{sale_id}}}:outbox"


def bucket(sale_id: str, op: str) -> str:
    """Return the HASH of level and time of an operation's token bucket, and its own limit."""
    return f"sk:{{{sale_id}}}:bucket:{op}"


def line(sale_id: str, op: str) -> str:
    """Return the ZSET name -> turn in microseconds of those who wait for an operation."""
    return f"sk:{{{sale_id}}}:line:{op}"


def burnt_proof(sale_id: str, nonce: str) -> str:
    """Return the STRING that tells, until its challenge has expired, that a proof was used."""
    return f"sk:{{{sale_id}}}:proof:{nonce}"


def relay_lock() -> str:
    """Return the STRING that the one working relay holds, to save doing work twice."""
    return "sk:lock:relay"
