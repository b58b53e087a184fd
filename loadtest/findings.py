"""What a load run found: measured, promised, reached; as a table or as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import platform
from collections import Counter
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from loadtest.open_loop import Report
from seckill.errors import SeckillError
from seckill.ledger import Ledger

#: A run whose generator is later than this (99 of 100 shots) says nothing about the gateway.
LATE_MAX_MS = 50.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report; `reached` is None where nothing is promised."""

    name: str
    value: str
    promised: str = ""
    reached: bool | None = None


def told_text(told: Counter[int]) -> str:
    """Return how many were told what."""
    return ", ".join(
        f"{count:,} x {status or 'no answer'}" for status, count in sorted(told.items())
    )


def generator(report: Report) -> Finding:
    """Tell whether the generator kept its own schedule."""
    late = report.late_ms(0.99)
    return Finding(
        "generator", f"p99 {late:.1f} ms late", f"under {LATE_MAX_MS:g} ms", late < LATE_MAX_MS
    )


def ledger_finding(books: Ledger) -> Finding:
    """Tell whether every invariant of a sale holds."""
    text = "balanced" if books.balanced else "; ".join(books.violations)
    return Finding("ledger", text, "balanced", books.balanced)


def measure(work: Coroutine[None, None, list[Finding]], as_json: bool) -> list[Finding]:
    """Run a measurement with a sign of life; an expected failure is one line."""
    columns = (SpinnerColumn(), TextColumn("measuring"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=as_json) as bar:
        bar.add_task("measuring", total=None)
        try:
            findings = asyncio.run(work)
        except SeckillError as error:
            raise SystemExit(f"loadtest: {error}") from error
    return findings


def show(findings: list[Finding], as_json: bool) -> None:
    """Print the findings; exit 1 when something promised was not reached."""
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table("what", "measured", "promised", "reached")
        for f in findings:
            mark = "" if f.reached is None else "yes" if f.reached else "NO"
            table.add_row(f.name, f.value, f.promised, mark)
        console = Console()
        console.print(table)
        packages = ", ".join(f"{name} {version(name)}" for name in ("aiohttp", "uvloop", "redis"))
        console.print(
            f"{os.cpu_count()} cores, Python {platform.python_version()}, {packages}",
            highlight=False,
        )
    raise typer.Exit(0 if all(f.reached is not False for f in findings) else 1)
