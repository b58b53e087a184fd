"""The Lua scripts of Redis, one for each operation on a sale.

Promise: each script is one atomic step, and safe to repeat.

Relies on: a Redis that keeps its data (AOF always, no eviction), and on callers that send at most
512 entries in a call.

Begin with `README.md` (the keys and the scripts), then `grab.lua`. The class `Stock` in
`seckill/inventory/reservations.py` has a typed method for each script of a sale's stock.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript


@cache
def source(name: str) -> str:
    """Return the text of the script `name` (without ".lua")."""
    return (files(__name__) / f"{name}.lua").read_text(encoding="ascii")


@cache
def digest(name: str) -> str:
    """Return the digest by which Redis knows the script `name`."""
    return hashlib.sha1(source(name).encode(), usedforsecurity=False).hexdigest()


def register(redis: Redis, name: str) -> AsyncScript:
    """Register a script with a client, which loads it again whenever Redis has lost it."""
    return redis.register_script(source(name))
