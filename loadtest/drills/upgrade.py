"""`python -m loadtest.drills.upgrade --old REVISION`: an upgrade in mid-sale, in both orders.

A gateway and a consumer of an older version serve a steady crowd. In mid-sale the schema is
migrated, and then both are replaced by those of this version: the consumer first, and in a second
run the gateway first. Old and new work together for a while. Orders also expire meanwhile, by
timers of either version. Afterwards each 202 has to have its row, and `verify` has to find all
invariants kept.

With `--back` the older processes then replace the newer ones again, gateways first, if they start
on the new schema.

The older version runs in a worktree of its own, with the packages of this interpreter.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from config.settings import PROJECT_ROOT
from loadtest.crowd.grab_http import HttpForm, grab_bytes
from loadtest.crowd.offer import offer
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import PlannedRequest
from loadtest.crowd.schedule import Schedule
from loadtest.findings import (
    AsJson,
    Finding,
    all_placed,
    counts_text,
    ledger_finding,
    measure,
)
from loadtest.stack import VALID_S, BenchStack, Process, bench_stack
from ops.processes.child import StartFailed
from ops.stack.services import temporary_home
from seckill.adapters import migrations
from seckill.auth import tickets
from seckill.errors import SeckillError
from seckill.sales import sales

SALE = "upgrade"
#: More than come.
STOCK = 1_000_000
#: Orders expire while the upgrade goes on.
PAYMENT_WINDOW_S = 10
CONNECTIONS = 100
#: How long each mixture of versions works.
STEP_S = 6.0
#: Makes the tables as an older version does; the first release had the function elsewhere.
_MIGRATE = """
import asyncio, sys
try:
    from seckill.adapters.migrations import migrate
except ImportError:
    from seckill.database import migrate
asyncio.run(migrate(sys.argv[1]))
"""


def main(
    old: Annotated[str, typer.Option(help="The older version: a tag or a commit.")],
    rate: Annotated[int, typer.Option(help="Grabs a second.", min=10)] = 300,
    seconds: Annotated[int, typer.Option(help="Length of the load.", min=20)] = 60,
    back: Annotated[bool, typer.Option(help="Go back to the older version in the end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Replace a consumer and a gateway of an older version, in both orders."""
    logging.disable()  # links of the drill itself break, too
    measure(_upgrade(old, rate, seconds, back), as_json)


async def _upgrade(old: str, rate: int, seconds: int, back: bool) -> list[Finding]:
    found: list[Finding] = []
    with _worktree(old) as checkout:
        for order in (("consumers", "gateway"), ("gateway", "consumers")):
            found += await _run(checkout, order, rate, seconds, back)
    return found


@contextmanager
def _worktree(revision: str) -> Iterator[Path]:
    """Check a revision out beside this one, and take it away again."""
    git = "git", "-C", str(PROJECT_ROOT), "worktree"
    with temporary_home() as home:
        checkout = home / "old"
        added = [*git, "add", "--detach", str(checkout), revision]
        made = subprocess.run(added, capture_output=True, text=True, check=False)
        if made.returncode:
            raise SeckillError(f"--old {revision}: {made.stderr.strip()}")
        try:
            yield checkout
        finally:
            subprocess.run([*git, "remove", "--force", str(checkout)], check=False)


async def _run(
    checkout: Path, order: tuple[str, str], rate: int, seconds: int, back: bool
) -> list[Finding]:
    """Upgrade in one order; return what is to be reported."""
    name, say = f"{order[0]} first", Console(stderr=True).print

    async def migrate_as_before(dsn: str) -> None:
        await _python(checkout, {}, "-c", _MIGRATE, dsn)

    with temporary_home() as home:
        async with bench_stack(home=home, migrate=migrate_as_before) as stack:
            running = {c: await stack.run(c, checkout=checkout) for c in ("consumers", "gateway")}
            await _sell(stack, checkout)
            url, refusal = running["gateway"].url, ""
            offered = asyncio.create_task(_offer(stack, url, rate, seconds))
            await asyncio.sleep(STEP_S)
            say(f"{name}: migrate")
            await migrations.migrate(stack.services.postgres_dsn)
            await asyncio.sleep(STEP_S)
            for command in order:
                say(f"{name}: {command}")
                await _replace(stack, running, command, PROJECT_ROOT)
            for command in ("gateway", "consumers") if back else ():
                say(f"{name}: {command} back")
                try:
                    await _replace(stack, running, command, checkout)
                except StartFailed as error:
                    refusal = str(error).splitlines()[-1].strip()
            still_came = not offered.done()
            report = await offered
            found = [*await _findings(stack, name, report), _came_finding(name, still_came)]
            if back:
                found.append(Finding(f"{name}: the way back", refusal or "the older version works"))
            return found


async def _replace(
    stack: BenchStack, running: dict[str, Process], command: str, checkout: Path
) -> None:
    """Start a process of a version, then stop the one that did the same."""
    before = running[command]
    # Gateways share the port while both are there.
    port = int(before.url.rpartition(":")[2])
    running[command] = await stack.run(command, port=port, checkout=checkout)
    await before.child.stop()
    await asyncio.sleep(STEP_S)


async def _sell(stack: BenchStack, checkout: Path) -> None:
    """Make and open the sale as the older version does."""
    words = "-m", "ops.cli", "sale"
    terms = "--stock", str(STOCK), "--price-cents", "1999", "--payment-window"
    environment = stack.environment
    await _python(checkout, environment, *words, "create", SALE, *terms, str(PAYMENT_WINDOW_S))
    await _python(checkout, environment, *words, "open", SALE)


async def _python(checkout: Path, environment: Mapping[str, str], *words: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *words,
        cwd=checkout,
        env={"PATH": os.pathsep.join(os.get_exec_path()), **environment},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaint = await process.communicate()
    if process.returncode:
        raise SeckillError(f"the older version fails: {complaint.decode().strip()[-500:]}")


async def _offer(stack: BenchStack, url: str, rate: int, seconds: int) -> CrowdReport:
    ring, until = stack.key_ring("ticket_keys"), int(time.time()) + VALID_S
    requests = [
        PlannedRequest(due_s, grab_bytes(SALE, ticket, HttpForm.KEEP_ALIVE))
        for n, due_s in enumerate(Schedule(rate=rate, seconds=seconds).due_times())
        for ticket in [tickets.issue(ring, sale_id=SALE, buyer_id=f"b{n}", expires_at_s=until)]
    ]
    return await offer(url, requests, seconds, sale_ids=[SALE], connections=CONNECTIONS)


async def _findings(stack: BenchStack, name: str, report: CrowdReport) -> list[Finding]:
    sale = await sales.find(stack.db, SALE)
    ledger = await stack.verify(sale)
    rows = "SELECT count(*), count(DISTINCT buyer_id) FROM orders WHERE sale_id = $1"
    placed, buyers = await stack.db.fetchrow(rows, SALE)
    states = await stack.db.fetch(
        "SELECT coalesce(state || ' ' || reason, state) AS state, count(*) FROM orders"
        " WHERE sale_id = $1 GROUP BY 1 ORDER BY 1",
        SALE,
    )
    won, dead = len(report.answered(202)), ledger.lines["dead letters"]
    return [
        Finding(f"{name}: answers", counts_text(report.endings())),
        all_placed(f"{name}: orders", placed, won),
        Finding(f"{name}: doubled", f"{placed - buyers:,}", "0", placed == buyers),
        Finding(f"{name}: states", counts_text(dict(states))),
        Finding(f"{name}: dead letters", f"{dead:,}", "0", not dead),
        Finding(f"{name}: errors in the logs", *_errors(stack)),
        ledger_finding(ledger),
    ]


def _errors(stack: BenchStack) -> tuple[str, str, bool]:
    """Count what processes of both versions logged as an error."""
    lines = [
        line
        for child in stack.children
        if child.spec.log and child.spec.log.exists()
        for line in child.spec.log.read_text(errors="replace").splitlines()
        if " ERROR " in line or line.startswith("Traceback")
    ]
    text = f"{len(lines):,}" + (f", the first: {lines[0][:200]}" if lines else "")
    return text, "0", not lines


def _came_finding(name: str, still_came: bool) -> Finding:
    advice = "yes" if still_came else "no: give more --seconds"
    return Finding(f"{name}: the crowd came to the end", advice, "yes", still_came)


if __name__ == "__main__":
    typer.run(main)
