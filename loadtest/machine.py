"""Where figures come from: a measurement without its machine and versions cannot be compared."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import typer

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
