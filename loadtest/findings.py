"""What a load run found: measured, promised, reached; as a table or as JSON."""

from __future__ import annotations

import asyncio
import json
import os
import platform
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from seckill.consistency.verify import Ledger
from seckill.errors import SeckillError

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


#: What is named beside the stores, and its package.
PACKAGES = {
    "aiohttp": "aiohttp",
    "uvloop": "uvloop",
    "redis-py": "redis",
    "aio-pika": "aio-pika",
    "asyncpg": "asyncpg",
}


def origin(kind: str, stores: Mapping[str, str]) -> dict[str, object]:
    """Return what a JSON file of figures begins with; `stores` are versions by name."""
    return {
        "kind": kind,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "kernel": platform.release(),
        },
        "versions": {
            "Python": platform.python_version(),
            **{name: version(package) for name, package in PACKAGES.items()},
            **stores,
        },
    }


def check_output(path: Path | None) -> Path | None:
    """Refuse a file that cannot be written, before anything is measured; for typer."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise typer.BadParameter(f"{path} cannot be written: name a file in a folder that is there")
    return path


def write_json(path: Path, figures: Mapping[str, object]) -> None:
    """Write figures to a file."""
    path.write_text(json.dumps(figures, indent=1) + "\n")


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
