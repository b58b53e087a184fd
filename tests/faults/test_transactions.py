"""Coordinators killed with SIGKILL in the middle of batches: recovery ends all that they left."""

from __future__ import annotations

import asyncio
import random
import sys

import asyncpg

from config.settings import Settings
from seckill.transactions.states import ENDED, BranchCall, TransactionState
from tests.transactions import TransactionBench

KILLS = 8


async def test_F12_killed_coordinators_leave_nothing_half_done_and_answered_no_lies(
    bench, db, settings: Settings
):
    answered: dict[str, str] = {}
    open_at_kills = 0
    for _ in range(KILLS):
        answered |= await _victim(settings, bench.name)
        open_at_kills += await _open(db, bench)
        calls = await _all(db, bench)
        while await _open(db, bench):
            await bench.recover(calls)

    calls = await _all(db, bench)
    await bench.probe.assert_whole(bench.names, calls)
    ended = dict(zip((w.tx_id for w in calls), await bench.probe.states(calls), strict=True))
    lies = {t: s for t, s in answered.items() if TransactionState(s) in ENDED and ended[t][0] != s}
    assert lies == {}
    assert {TransactionState.CONFIRMED, TransactionState.CANCELED} <= set(answered.values())
    assert open_at_kills > 0, "it was never killed in the middle"


async def _victim(settings: Settings, name: str) -> dict[str, str]:
    """Run a coordinator until a random while after its first answers; return what it answered."""
    victim = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.victim",
        settings.postgres_dsn,
        name,
        env={"PYTHONPATH": ":".join(sys.path)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert victim.stdout is not None
    lines = [await victim.stdout.readline()]
    asyncio.get_running_loop().call_later(_moment_s(), victim.kill)
    lines += [line async for line in victim.stdout]
    await victim.wait()
    whole = [line.decode().split() for line in lines if line.endswith(b"\n")]
    return {tx_id: state for tx_id, state in whole}


def _moment_s() -> float:
    return random.uniform(0.01, 0.3)  # noqa: S311 - no secret


async def _all(db: asyncpg.Pool, bench: TransactionBench) -> list[BranchCall]:
    rows = await db.fetch("SELECT tx_id FROM transactions WHERE name = $1", bench.name)
    return [BranchCall(row["tx_id"], {}) for row in rows]


async def _open(db: asyncpg.Pool, bench: TransactionBench) -> int:
    return await db.fetchval(
        "SELECT count(*) FROM transactions WHERE name = $1 AND ended_at IS NULL", bench.name
    )
