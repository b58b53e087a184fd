"""Ending many dead letters: show what will be done, ask, keep a pace, and tell what was done."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any

import typer
from rich.console import Console
from rich.progress import Progress

from config.settings import load_settings
from ops.cli.dead_letter_tables import describe, print_letters, print_outcomes
from ops.cli.stores import Stores, open_stores
from seckill.dead_letters import store
from seckill.dead_letters.resolution import Resolution
from seckill.dead_letters.store import DeadLetter, LetterFilter
from seckill.errors import Permanent, Transient, UserMistake

#: Ends one letter and says what became of it.
End = Callable[[int], Awaitable[dict[str, Any]]]
#: Opens what ending letters needs.
Working = Callable[[Stores], AbstractAsyncContextManager[End]]


@dataclass(frozen=True, slots=True)
class BatchRate:
    """How many letters a command ends, and how many a second."""

    limit: int
    rate: float | None


@dataclass(frozen=True, slots=True)
class Interaction:
    """How a command deals with its user."""

    dry_run: bool
    yes: bool
    as_json: bool


@dataclass(slots=True)
class BatchResult:
    """What was done, letter by letter, and what was not come to."""

    outcomes: list[dict[str, Any]] = field(default_factory=list)
    left: int = 0
    #: A store went away in the middle: the rest was not tried.
    trouble: Transient | None = None

    @property
    def all_ended(self) -> bool:
        """Tell whether every letter that was tried is ended now."""
        return all(
            o["outcome"] in (Resolution.REPLAYED, Resolution.DISCARDED) for o in self.outcomes
        )


def end_letters(
    meant: LetterFilter,
    verb: str,
    pace: BatchRate,
    working: Working,
    manners: Interaction,
) -> None:
    """Show, ask, end one letter after another, and tell; exit 1 unless all of them are ended."""

    async def choose(stores: Stores) -> tuple[list[int], int, list[DeadLetter]]:
        if meant.ids is not None:
            ids = sorted(set(meant.ids))
            shown = await store.page(stores.db, meant, limit=pace.limit)
            return ids[: pace.limit], len(ids), shown
        shown = await store.page(stores.db, meant, limit=pace.limit)
        total = await store.count(stores.db, meant)
        return [letter.letter_id for letter in shown], total, shown

    ids, total, shown = run(choose)
    plan = f"{len(ids)} of {total} letters to {verb}"
    if manners.dry_run:
        if manners.as_json:
            typer.echo(json.dumps([describe(letter) for letter in shown]))
        else:
            print_letters(Console(), shown)
            typer.echo(plan)
        return
    if ids and meant.ids is None:  # whoever names letters has looked at them
        _ask(plan, manners)
    endings: BatchResult = run(lambda stores: _end_all(stores, ids, pace, working, manners))
    endings.left = total - len(endings.outcomes)
    print_outcomes(endings.outcomes, endings.left, as_json=manners.as_json)
    if endings.trouble:
        raise endings.trouble
    if not endings.all_ended:
        raise typer.Exit(1)


async def _end_all(
    stores: Stores,
    ids: list[int],
    pace: BatchRate,
    working: Working,
    manners: Interaction,
) -> BatchResult:
    endings = BatchResult()
    console = Console(stderr=True)
    clock = asyncio.get_running_loop().time
    with Progress(console=console, disable=manners.as_json or not console.is_terminal) as bar:
        async with working(stores) as end:
            start = clock()
            for number, letter_id in enumerate(bar.track(ids, description="letters")):
                if pace.rate:
                    await asyncio.sleep(max(0.0, start + number / pace.rate - clock()))
                try:
                    endings.outcomes.append(await end(letter_id))
                except Permanent as error:  # this one; the next may be all right
                    endings.outcomes.append({"letter_id": letter_id, "outcome": str(error)})
                except Transient as error:
                    endings.trouble = error
                    break
    return endings


def _ask(plan: str, manners: Interaction) -> None:
    if manners.yes:
        return
    if manners.as_json or not sys.stdin.isatty():
        raise UserMistake(f"{plan}: add --yes to do it, or --dry-run to see them")
    typer.confirm(f"{plan}. Go on?", abort=True)


def run(work: Callable[[Stores], Awaitable[Any]]) -> Any:  # noqa: ANN401 - typed by its caller
    """Open the stores for one command and do its work."""

    async def go() -> Any:  # noqa: ANN401
        async with open_stores(load_settings()) as stores:
            return await work(stores)

    return asyncio.run(go())
