"""The log of transactions."""

from __future__ import annotations

import asyncpg


class Log:
    """What every process writes before it acts, and what `recover` goes on from."""

    def __init__(self, db: asyncpg.Pool) -> None:
        self._db = db
