"""What a load run found: measured, promised, reached; as a table, as JSON, or in a file."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import platform
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, TimeElapsedColumn
from rich.table import Table

from seckill.consistency.verify import Ledger
from seckill.errors import SeckillError

#: Packages that are named beside the stores.
PACKAGES = {
    "aiohttp": "aiohttp",
    "uvloop": "uvloop",
    "redis-py": "redis",
    "aio-pika": "aio-pika",
    "asyncpg": "asyncpg",
}

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of a report; `reached` is None where nothing is promised."""

    name: str
    value: str
    promised: str = ""
    reached: bool | None = None
    #: What `value` says, where that is one number; several rounds are put in order by it.
    number: float | None = None


def counts_text(counts: Mapping[Any, int]) -> str:
    """Return how many there are of each."""
    return ", ".join(f"{count:,} x {name}" for name, count in sorted(counts.items()))


def medians(rounds: Sequence[Sequence[Finding]]) -> list[Finding]:
    """Return one finding for each name: where it is a number, the median of all rounds.

    Other findings have to be reached in each round.
    """
    if len(rounds) == 1:
        return list(rounds[0])
    by_name: dict[str, list[Finding]] = {}
    for finding in itertools.chain.from_iterable(rounds):
        by_name.setdefault(finding.name, []).append(finding)
    return [_median(findings) for findings in by_name.values()]


def _median(findings: list[Finding]) -> Finding:
    numbers = [finding.number for finding in findings if finding.number is not None]
    values = [finding.value for finding in findings]
    if len(numbers) == len(findings):
        middle = sorted(findings, key=lambda finding: finding.number or 0.0)[len(findings) // 2]
        return replace(middle, value=f"{middle.value} ({', '.join(values)})")
    reached = [finding.reached for finding in findings if finding.reached is not None]
    return replace(
        findings[0],
        value="; ".join(dict.fromkeys(values)),
        reached=all(reached) if reached else None,
    )


def none_of(name: str, found: int) -> Finding:
    """Return the finding that there is none of something that must not be."""
    return Finding(name, f"{found:,}", "0", not found)


def all_of(name: str, found: int, wanted: int) -> Finding:
    """Return the finding that there are as many of something as there must be."""
    return Finding(name, f"{found:,}", f"{wanted:,}", found == wanted)


def all_placed(name: str, placed: int, won: int) -> Finding:
    """Return the finding that some grabs were answered 202, and that each of them has a row.

    A 202 that was cut off on its way to the buyer has a row, too.
    """
    return Finding(name, f"{placed:,} for {won:,} x 202", "all", placed >= won > 0)


def ledger_finding(ledger: Ledger) -> Finding:
    """Return the finding that every invariant of a sale holds."""
    text = "balanced" if ledger.balanced else "; ".join(ledger.violations)
    return Finding("ledger", text, "balanced", ledger.balanced)


@contextmanager
def progress(*, hidden: bool = False) -> Iterator[Progress]:
    """Show what goes on, on stderr; an expected failure of the work is one line."""
    columns = *Progress.get_default_columns(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=hidden) as bars:
        try:
            yield bars
        except SeckillError as error:
            raise SystemExit(f"loadtest: {error}") from error


def measure(work: Coroutine[None, None, list[Finding]], as_json: bool = False) -> None:
    """Run a measurement, report what it found, and exit."""
    with progress(hidden=as_json) as bars:
        bars.add_task("measuring", total=None)
        findings = asyncio.run(work)
    report(findings, as_json)


def report(findings: Sequence[Finding], as_json: bool = False) -> None:
    """Print the findings, and exit: with 1 when something promised was not reached."""
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        table = Table("what", "measured", "promised", "reached")
        for f in findings:
            mark = "" if f.reached is None else "yes" if f.reached else "NO"
            table.add_row(f.name, f.value, f.promised, mark)
        console = Console()
        console.print(table)
        versions = ", ".join(f"{name} {number}" for name, number in _versions().items())
        console.print(f"{os.cpu_count()} cores of {_processor()}, {versions}", highlight=False)
    raise typer.Exit(0 if all(f.reached is not False for f in findings) else 1)


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
        "versions": {**_versions(), **stores},
    }


def check_output(path: Path | None) -> Path | None:
    """Refuse a file that cannot be written, before anything is measured; for typer."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise typer.BadParameter(f"{path} cannot be written: name a file in a folder that exists")
    return path


def write_json(
    path: Path | None,
    kind: str,
    stores: Mapping[str, str],
    options: Mapping[str, object],
    findings: Sequence[Finding],
    figures: Mapping[str, object],
) -> None:
    """Write a run to a file, if there is one; `stores` are versions by name."""
    if path is not None:
        found = {"options": options, "findings": [asdict(finding) for finding in findings]}
        path.write_text(json.dumps(origin(kind, stores) | found | figures, indent=1) + "\n")


def _versions() -> dict[str, str]:
    packages = {name: version(package) for name, package in PACKAGES.items()}
    return {"Python": platform.python_version(), **packages}


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
