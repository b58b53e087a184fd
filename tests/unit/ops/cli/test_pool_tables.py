"""What a person sees of a pool fits a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from typing import Any

from rich.console import Console

from consumers.main import ROLES
from ops.cli.pool_tables import tables

WORKER = {
    "name": "consumers-20",
    "pid": 4194304,
    "age_s": 86400.0,
    "restarts": 120,
    "admin_url": "http://127.0.0.1:65535",
    "answers": True,
}


def role(name: str, **figures: object) -> dict[str, Any]:
    """A role whose every figure is as long as can be."""
    long = {
        "running": 20,
        "wanted": 20,
        "min": 10,
        "max": 20,
        "in_hand": 40000,
        "rate_per_s": 12345.6,
        "backlog": 1234567,
        "oldest_age_s": 86400.1,
        "errors": 100000,
        "restarts": 100000,
        "paused": True,
        "held": False,
        "note": None,
    }
    return {"role": name, **long, **figures}


def shown(roles: list[dict[str, Any]], runs: Sequence[str] = ROLES) -> list[str]:
    manager = {"pid": 4194303, "uptime_s": 86400.0}
    screen = StringIO()
    console = Console(file=screen, width=80)
    console.print(
        tables({"manager": manager, "roles": roles, "workers": [{**WORKER, "roles": runs}]})
    )
    return screen.getvalue().splitlines()


def test_each_role_is_one_line_with_all_its_figures() -> None:
    lines = shown([role(name) for name in ROLES])

    for name in ROLES:
        (line,) = [line for line in lines if line.startswith(name)]
        assert line.split() == [
            *(name, "20", "of", "20", "10..20", "40000", "12345.6", "1234567"),
            *("86400.1", "s", "100000", "paused"),
        ]


def test_what_is_odd_is_shown_below_and_a_worker_of_all_roles_is_one_line() -> None:
    lines = shown([role(n, note="PostgreSQL [down]" if n == "sweep" else None) for n in ROLES])

    assert "sweep: PostgreSQL [down]" in lines
    assert any(line.startswith("consumers-20") and line.endswith("all roles") for line in lines)


def test_a_worker_of_some_roles_names_them() -> None:
    lines = shown([role(name) for name in ROLES], runs=["sweep", "relay"])

    assert any(line.startswith("consumers-20") and line.endswith("sweep relay") for line in lines)
