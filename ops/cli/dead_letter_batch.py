"""Ending many dead letters: show what will be done, ask, keep a rate, and print what was done."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import asyncpg
import typer
from rich.console import Console
from rich.progress import Progress

from ops.cli.console import show
from ops.cli.dead_letter_tables import describe, outcome_lines, summary
from ops.cli.stores import Stores, run
from seckill.dead_letters import replays, store
from seckill.dead_letters.parser import first_line
from seckill.dead_letters.replays import ReplayOutcome
from seckill.dead_letters.resolution import Resolution
from seckill.dead_letters.store import DeadLetter, LetterFilter
from seckill.errors import Permanent, Transient, UserMistake

#: Between two looks at what became of replayed messages: a person does not notice it.
LOOK_S = 0.2
_ENDED = (
    Resolution.REPLAYED,
    Resolution.DISCARDED,
    ReplayOutcome.HANDLED,
    ReplayOutcome.NOT_DEAD,
)

#: Ends one letter and returns what became of it.
End = Callable[[int], Awaitable[dict[str, Any]]]
#: Opens what ending letters needs.
Opening = Callable[[Stores], AbstractAsyncContextManager[End]]


@dataclass(frozen=True, slots=True)
class Batch:
    """Which letters a command ends, at most how many, how many a second, and what was typed.

    After a replay it waits up to `wait_s` for what becomes of the messages.
    """

    meant: LetterFilter
    verb: str
    limit: int
    rate: float | None
    dry_run: bool
    yes: bool
    as_json: bool
    wait_s: float = 0.0


def end_letters(batch: Batch, opening: Opening) -> None:
    """Show, ask, end one letter after another, and print; exit 1 unless all of them are ended."""
    ids, total, shown = run(lambda stores: _choose(stores, batch))
    plan = f"{len(ids)} of {total} letters to {batch.verb}"
    if batch.dry_run:
        plain = [describe(letter) for letter in shown]
        return show(plain, batch.as_json, *map(summary, shown), plan)
    if ids and batch.meant.ids is None:  # a person who names letters has looked at them
        _ask(plan, batch)
    outcomes, outage = run(lambda stores: _end_all(stores, ids, batch, opening))
    left = total - len(outcomes)
    show({"letters": outcomes, "left": left}, batch.as_json, *outcome_lines(outcomes, left))
    if outage:
        raise outage
    if any(outcome["outcome"] not in _ENDED for outcome in outcomes):
        raise typer.Exit(1)
    return None


async def _choose(stores: Stores, batch: Batch) -> tuple[list[int], int, list[DeadLetter]]:
    """Return the ids to end, how many are meant, and the letters that are open."""
    shown = await store.page(stores.db, batch.meant, limit=batch.limit)
    if batch.meant.ids is not None:
        ids = sorted(set(batch.meant.ids))
        return ids[: batch.limit], len(ids), shown
    return [each.letter_id for each in shown], await store.count(stores.db, batch.meant), shown


async def _end_all(
    stores: Stores, ids: list[int], batch: Batch, opening: Opening
) -> tuple[list[dict[str, Any]], Transient | None]:
    """Return what became of the letters, and the outage because of which the rest was not tried."""
    outcomes: list[dict[str, Any]] = []
    console, clock = Console(stderr=True), asyncio.get_running_loop().time
    with Progress(console=console, disable=batch.as_json or not console.is_terminal) as bar:
        async with opening(stores) as end:
            start = clock()
            for number, letter_id in enumerate(bar.track(ids, description="letters")):
                if batch.rate:
                    await asyncio.sleep(max(0.0, start + number / batch.rate - clock()))
                try:
                    outcomes.append(await end(letter_id))
                except Permanent as error:  # this one; the next may be all right
                    outcomes.append({"letter_id": letter_id, "outcome": str(error)})
                except Transient as outage:
                    return outcomes, outage
            if batch.wait_s:
                bar.add_task("outcomes", total=None)
                await _await_replays(stores.db, outcomes, batch.wait_s)
    return outcomes, None


async def _await_replays(db: asyncpg.Pool, outcomes: list[dict[str, Any]], wait_s: float) -> None:
    """Wait until each replayed message was handled or has died again, and note which."""
    open_ = {o["letter_id"]: o for o in outcomes if o["outcome"] == Resolution.REPLAYED}
    clock = asyncio.get_running_loop().time
    deadline = clock() + wait_s
    while open_:
        for letter_id, found in (await replays.outcomes(db, open_)).items():
            open_[letter_id]["outcome"] = found.outcome
            if found.outcome is ReplayOutcome.DIED_AGAIN:
                open_[letter_id]["reason"] = first_line(found.reason)
            if found.outcome in (ReplayOutcome.DIED_AGAIN, ReplayOutcome.HANDLED):
                del open_[letter_id]
        if clock() >= deadline:
            break
        await asyncio.sleep(LOOK_S)


def _ask(plan: str, batch: Batch) -> None:
    if batch.yes:
        return
    if batch.as_json or not sys.stdin.isatty():
        raise UserMistake(f"{plan}: add --yes to do it, or --dry-run to see them")
    typer.confirm(f"{plan}. Go on?", abort=True)
