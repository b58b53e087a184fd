"""What the commands share: their stores, how they run, and how they check and print."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import asyncpg
import typer
from redis.asyncio import Redis

from config.settings import Settings, load_settings
from seckill.adapters import postgres
from seckill.adapters import redis as redis_client
from seckill.auth import tickets
from seckill.errors import UserMistake
from seckill.inventory.reservations import Stock

T = TypeVar("T")


#: Some commands ask Redis within a transaction, which PostgreSQL ends after five idle seconds: its
#: complaint about that would hide that it is Redis that does not answer.
REDIS_S = 3.0


SaleId = Annotated[str, typer.Argument(metavar="ID", help="The sale's id.")]


Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@dataclass(frozen=True, slots=True)
class Stores:
    """What these commands talk to."""

    redis: Redis
    stock: Stock
    db: asyncpg.Pool


@asynccontextmanager
async def open_stores(settings: Settings) -> AsyncIterator[Stores]:
    """Open Redis and PostgreSQL for one command."""
    settings.require_stores()
    redis = redis_client.connect(settings.redis_url, timeout_s=REDIS_S)
    try:
        async with postgres.connect(
            settings.postgres_dsn, size=2, timeout_s=settings.connect_timeout_s
        ) as db:
            yield Stores(redis, Stock(redis), db)
    finally:
        await redis.aclose()


def run(work: Any) -> Any:  # noqa: ANN401 - typed by each caller's lambda
    """Do some work on the stores, and return what it returns."""

    async def go() -> object:
        async with open_stores(load_settings()) as stores:
            return await work(stores)

    return asyncio.run(go())


def print_json(value: object) -> None:
    """Print one line of JSON for machines."""
    typer.echo(json.dumps(value))


def check_id(text: str) -> None:
    """Refuse what cannot be an id, before any store is asked."""
    if not tickets.ID.match(text):
        raise UserMistake(f"id {text!r}: use 1 to 64 of A-Z a-z 0-9 _ . -")
