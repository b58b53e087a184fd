"""`seckill dead`: look at the messages that could not succeed, and end them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from ops.cli.console import Json, check_optional_id, check_reason, open_output, show, to_json
from ops.cli.dead_letter_batch import Batch, End, end_letters
from ops.cli.dead_letter_tables import describe, details, summary
from ops.cli.stores import Stores, run
from seckill import audit
from seckill.adapters import topology
from seckill.adapters.publisher import Publisher
from seckill.consistency import snapshots
from seckill.dead_letters import resolution, store
from seckill.dead_letters.store import DeadLetter, LetterFilter
from seckill.errors import Unavailable, UserMistake
from seckill.inventory.holders import find_holdings

#: Messages a second that a replay adds to the work of a running sale.
RATE = 50.0
#: A mistake in the selection stays a small one; the command prints how many are left.
LIMIT = 100
#: A message that can never succeed dies within a second; on a busy pool it waits before.
WAIT_S = 10.0
#: Letters in memory, with their bodies.
LIMIT_MAX = 10_000

dead_app = typer.Typer(
    help="Dead letters: messages that could not succeed, and what to do with them.",
    no_args_is_help=True,
)


def _queue(name: str | None) -> str | None:
    """Return the queue that a name, also that of its dead queue, means."""
    queue = name and name.removesuffix(topology.dead(""))
    if queue is not None and queue not in topology.WORK_QUEUES:
        names = ", ".join(topology.WORK_QUEUES)
        raise UserMistake(f"--queue: there is no queue {queue!r}; there are: {names}")
    return queue


def _state(name: str) -> str:
    if name not in ("open", "replayed", "discarded", "all"):
        raise UserMistake(f"--state {name!r}: give open, replayed, discarded or all")
    return name


def _text(param: typer.CallbackParam, text: str | None) -> str | None:
    try:
        (text or "").encode()
    except UnicodeEncodeError as error:
        raise UserMistake(f"{param.opts[0]}: give text in UTF-8") from error
    return text


LetterId = Annotated[int, typer.Argument(metavar="ID", min=1, max=2**63 - 1)]
Ids = Annotated[
    list[int] | None, typer.Argument(metavar="ID", min=1, max=2**63 - 1, help="Letters.")
]
Queue = Annotated[str | None, typer.Option(help="Those that died on this queue.", callback=_queue)]
SaleOption = Annotated[
    str | None, typer.Option("--sale", help="Those of this sale.", callback=check_optional_id)
]
_MATCH = "Those whose reason has this text."
#: `discard --reason` is why a letter is discarded, so there only --match selects by reason.
Match = Annotated[str | None, typer.Option("--match", help=_MATCH, callback=_text)]
Reason = Annotated[str | None, typer.Option("--match", "--reason", help=_MATCH, callback=_text)]
All = Annotated[bool, typer.Option("--all", help="All open letters.")]
State = Annotated[str, typer.Option(help="open, replayed, discarded or all.", callback=_state)]
Limit = Annotated[
    int, typer.Option(help="At most this many letters, oldest first.", min=1, max=LIMIT_MAX)
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show which letters are meant.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


@dead_app.command("list")
def list_letters(
    queue: Queue = None,
    sale: SaleOption = None,
    match: Reason = None,
    state: State = "open",
    limit: Annotated[
        int, typer.Option(help="Show so many, newest first.", min=1, max=LIMIT_MAX)
    ] = 50,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first."""
    meant = _filter(None, queue, sale, match, state)

    async def look(stores: Stores) -> tuple[list[DeadLetter], int]:
        found = await store.page(stores.db, meant, limit=limit, newest_first=True)
        return found, await store.count(stores.db, meant)

    found, total = run(look)
    older = f", {total - len(found)} older" if total > len(found) else ""
    plain = [describe(letter) for letter in found]
    show(plain, as_json, *map(summary, found), f"{total} dead letters{older}")


@dead_app.command("show")
def show_letter(letter_id: LetterId, as_json: Json = False) -> None:
    """Show all of a letter, and how the orders that it names stand now."""

    async def look(stores: Stores) -> tuple[DeadLetter, list[dict[str, Any]], str]:
        letter = await store.find(stores.db, letter_id)
        return letter, *await _standing(stores, letter)

    letter, standing, trouble = run(look)
    plain = {**describe(letter, whole=True), "orders": standing}
    show(plain, as_json, *details(letter, standing))
    if trouble:
        typer.echo(f"seckill: holders are not known: {trouble}", err=True)


@dead_app.command("export")
def export(
    ids: Ids = None,
    queue: Queue = None,
    sale: SaleOption = None,
    match: Reason = None,
    state: State = "open",
    out: Annotated[Path | None, typer.Option(help="File to write; else the terminal.")] = None,
) -> None:
    """Write letters as JSON lines, each with its body decoded (where possible) and in base64."""
    meant = _filter(ids, queue, sale, match, state)
    file = open_output(out)

    async def write(stores: Stores) -> int:
        written = 0
        async for letter in store.every(stores.db, meant):
            file.write(to_json(describe(letter, whole=True)) + "\n")
            written += 1
        return written

    with file:
        written = run(write)
    typer.echo(f"seckill: {written} dead letters written", err=True)


@dead_app.command("replay")
def replay(
    ids: Ids = None,
    queue: Queue = None,
    sale: SaleOption = None,
    match: Reason = None,
    everything: All = False,
    limit: Limit = LIMIT,
    rate: Annotated[float, typer.Option(help="Messages a second.", min=0.1, max=10_000)] = RATE,
    force: Annotated[
        bool,
        typer.Option("--force", help=f"Also those replayed {resolution.REPLAYS_MAX} times before."),
    ] = False,
    wait: Annotated[
        float, typer.Option(help="Seconds to wait for what becomes of them.", min=0, max=3600)
    ] = WAIT_S,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Send letters to their queues again, once the cause is mended. An order never exists twice.

    Exit 1 if one of them dies again, or is not handled within --wait.
    """
    meant = _meant(ids, queue, sale, match, everything)
    actor = audit.operator_name()

    @asynccontextmanager
    async def opening(stores: Stores) -> AsyncIterator[End]:
        timeout_s = stores.settings.confirm_timeout_s
        async with Publisher.open(stores.broker("seckill-dead"), timeout_s=timeout_s) as publisher:

            async def one(letter_id: int) -> dict[str, Any]:
                ending = await resolution.replay(
                    stores.db, publisher, letter_id, actor=actor, force=force
                )
                return {"letter_id": letter_id, "outcome": ending}

            yield one

    end_letters(Batch(meant, "replay", limit, rate, dry_run, yes, as_json, wait), opening)


@dead_app.command("discard")
def discard(
    reason: Annotated[str, typer.Option(help="Why, for the audit trail.", callback=_text)],
    ids: Ids = None,
    queue: Queue = None,
    sale: SaleOption = None,
    match: Match = None,
    everything: All = False,
    limit: Limit = LIMIT,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Give letters up: cancel the orders they name that have no row, and return their units."""
    check_reason(reason, "; it goes into the audit trail")
    meant = _meant(ids, queue, sale, match, everything)
    actor = audit.operator_name()

    @asynccontextmanager
    async def opening(stores: Stores) -> AsyncIterator[End]:
        async def one(letter_id: int) -> dict[str, Any]:
            done = await resolution.discard(
                stores.db, stores.redis, letter_id, actor=actor, reason=reason
            )
            outcome = {"letter_id": letter_id, "outcome": done.resolution, "units": done.units}
            return outcome | ({"orders": dict(done.effects)} if done.effects is not None else {})

        yield one

    end_letters(Batch(meant, "discard", limit, None, dry_run, yes, as_json), opening)


async def _standing(stores: Stores, letter: DeadLetter) -> tuple[list[dict[str, Any]], str]:
    """Return each named order with its row's state and holder now, and why a holder is unknown."""
    rows = await snapshots.states_of(stores.db, {order.order_id for order in letter.orders})
    held, trouble = {}, ""
    if letter.sale_id is not None:
        try:
            wanted = {order.order_id: order.buyer_id for order in letter.orders}
            held = await find_holdings(stores.redis, letter.sale_id, wanted)
        except Unavailable as error:
            trouble = str(error)
    standing = []
    for order in letter.orders:
        buyer_id, holding = held.get(order.order_id, (None, None))
        holder = {"buyer_id": buyer_id, "quantity": holding.quantity} if holding else None
        standing.append({**order._asdict(), "row": rows.get(order.order_id), "holder": holder})
    return standing, trouble


def _meant(
    ids: list[int] | None,
    queue: str | None,
    sale: str | None,
    match: str | None,
    everything: bool,
) -> LetterFilter:
    """Return which open letters a command is to end; no selection at all is a mistake."""
    filtered = any(given is not None for given in (queue, sale, match))
    if bool(ids) + filtered + everything != 1:
        raise UserMistake("which letters? give ids, or --queue, --sale, --match, or else --all")
    return _filter(ids, queue, sale, match, "open")


def _filter(
    ids: list[int] | None, queue: str | None, sale: str | None, match: str | None, state: str
) -> LetterFilter:
    return LetterFilter(ids or None, queue, sale, match, None if state == "all" else state)
