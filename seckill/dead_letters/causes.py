"""Open dead letters by their cause, so that a thousand of one kind are one line to look at."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from seckill.adapters.postgres import database_errors_as_unavailable

#: The newest letters that are looked at: reading them takes PostgreSQL a few milliseconds.
NEWEST = 1_000
#: Ids of one group that are named: as many as one call replays or discards.
IDS_MAX = 50
#: Groups that are shown.
GROUPS_MAX = 50
#: What differs between letters of one cause: ids and numbers.
_PARTICULAR = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+")


@dataclass(slots=True)
class CauseGroup:
    """The open letters of one queue that died of one cause."""

    queue: str
    cause: str
    letters: int
    oldest_at: datetime
    newest_at: datetime
    #: Of the newest ones, newest first; the first is the sample.
    ids: list[int]
    #: Sales that they name.
    sales: list[str]


async def groups(db: asyncpg.Pool) -> list[CauseGroup]:
    """Return the newest open letters by queue and cause, the largest group first."""
    with database_errors_as_unavailable():
        rows = await db.fetch(
            "SELECT letter_id, queue, left(reason, 300), first_at, last_at, sale_id"
            "  FROM dead_letters WHERE state = 'open' ORDER BY letter_id DESC LIMIT $1",
            NEWEST,
        )
    by_cause: dict[tuple[str, str], list[asyncpg.Record]] = defaultdict(list)
    for row in rows:
        by_cause[row[1], _PARTICULAR.sub("…", row[2])].append(row)
    found = [_group(queue, cause, letters) for (queue, cause), letters in by_cause.items()]
    return sorted(found, key=lambda group: -group.letters)[:GROUPS_MAX]


def _group(queue: str, cause: str, rows: list[asyncpg.Record]) -> CauseGroup:
    return CauseGroup(
        queue=queue,
        cause=cause,
        letters=len(rows),
        oldest_at=min(row[3] for row in rows),
        newest_at=max(row[4] for row in rows),
        ids=[row[0] for row in rows[:IDS_MAX]],
        sales=sorted({row[5] for row in rows if row[5]})[:IDS_MAX],
    )
