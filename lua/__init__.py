"""The Lua scripts, one per operation; README.md beside them describes the data they share."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis.asyncio import Redis
    from redis.commands.core import AsyncScript


def source(name: str) -> str:
    """Return the text of the script `name` (without ".lua")."""
    return (files(__name__) / f"{name}.lua").read_text(encoding="ascii")


def register(redis: Redis, name: str) -> AsyncScript:
    """Register a script with a client; it is loaded again by itself when Redis has lost it."""
    return redis.register_script(source(name))
