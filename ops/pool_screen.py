"""What a person sees of a pool: a table of roles and one of workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

#: What the manager answers to `status`.
Status = dict[str, Any]


def tables(now: Status) -> Group:
    """Lay out what `status` shows."""
    manager = now["manager"]
    head = f"pool manager {manager['pid']}, up {manager['uptime_s']:.0f} s"
    roles = _table(
        "role", "runs", "in hand", "per s", "backlog", "oldest", "errors", "restarts", ""
    )
    for role in now["roles"]:
        bounds = "" if role["min"] is None else f" ({role['min']}..{role['max']})"
        roles.add_row(
            role["role"],
            f"{role['running']} of {role['wanted']}{bounds}",
            str(role["in_hand"]),
            f"{role['rate_per_s']:.1f}",
            _known(role["backlog"], str),
            _known(role["oldest_age_s"], lambda age: f"{age:.1f} s"),
            str(role["errors"]),
            str(role["restarts"]),
            escape(_word(role)),
        )
    workers = _table("worker", "pid", "age", "restarts", "admin port", "runs")
    for worker in now["workers"]:
        workers.add_row(
            worker["name"],
            _known(worker["pid"], str),
            _known(worker["age_s"], lambda age: f"{age:.0f} s"),
            str(worker["restarts"]),
            worker["admin_url"],
            " ".join(worker["roles"]) if worker["answers"] else "does not answer",
        )
    return Group(head, "", roles, "", workers)


def _word(role: dict[str, Any]) -> str:
    """Say what is odd about a role, if anything is."""
    if role["note"]:
        return str(role["note"])
    return "paused" if role["paused"] else "waits for a store" if role["held"] else ""


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=column not in ("", "runs"))
    return table


def _known(value: Any, spell: Callable[[Any], str]) -> str:  # noqa: ANN401 - of a JSON object
    return "-" if value is None else spell(value)
