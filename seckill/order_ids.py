"""Order ids: UUIDs of version 8 (RFC 9562) that hold when, and in which sale, they were made.

48 bits Unix milliseconds, 4 bits version, 12 bits upper half of the sale number, 2 bits variant,
12 bits lower half of the sale number, 50 random bits. By the sale number a reader finds the right
sale's holders while no row exists yet. The id is not a secret: reads compare the buyer.
"""

from __future__ import annotations

import os
import random
import re
from functools import lru_cache

from seckill.clock import now_ms

PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}\Z")
SALE_NUMBER_MAX = (1 << 24) - 1

#: Seeded by the system in each process; two ids of one sale and millisecond collide once in 2^50.
_random = random.Random(os.urandom(32))  # noqa: S311 - ids are not secrets


def new_order_id(sale_number: int) -> str:
    """Make the id of an order of the sale with this number (1 to 2^24 - 1)."""
    low = f"{1 << 63 | (sale_number & 0xFFF) << 50 | _random.getrandbits(50):016x}"
    return f"{_first_half(now_ms(), sale_number)}{low[:4]}-{low[4:]}"


@lru_cache(64)  # a crowd makes many ids in one millisecond
def _first_half(made_at_ms: int, sale_number: int) -> str:
    text = f"{made_at_ms:012x}"
    return f"{text[:8]}-{text[8:]}-8{sale_number >> 12:03x}-"


def sale_number_of(order_id: str) -> int:
    """Return the number of the sale to which an order belongs."""
    return int(order_id[15:18], 16) << 12 | (int(order_id[19:23], 16) & 0x3FFF) >> 2


def created_ms_of(order_id: str) -> int:
    """Return when the id was made, in Unix milliseconds."""
    return int(order_id[:8] + order_id[9:13], 16)
