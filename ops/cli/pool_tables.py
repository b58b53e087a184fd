"""What a person sees of a pool, in 80 columns: a table of roles and one of workers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from ops.processes.control_socket import Reply


def tables(now: Reply, *, chosen: str = "") -> Group:
    """Lay out what `status` shows; the chosen role is marked, also where there are no colours."""
    manager = now["manager"]
    head = f"pool manager {manager['pid']}, up {manager['uptime_s']:.0f} s"
    roles = _table("role", "runs", "bounds", "in hand", "per s", "backlog", "oldest", "errors", "")
    for role in now["roles"]:
        roles.add_row(
            role["role"],
            f"{role['running']} of {role['wanted']}",
            "" if role["min"] is None else f"{role['min']}..{role['max']}",
            str(role["in_hand"]),
            f"{role['rate_per_s']:.1f}",
            _known(role["backlog"], str),
            _known(role["oldest_age_s"], lambda age: f"{age:.1f} s"),
            str(role["errors"]),
            f"{'paused' if role['paused'] else ''}{'<' if role['role'] == chosen else ''}",
            style="reverse" if role["role"] == chosen else None,
        )
    oddities = [escape(f"{role['role']}: {word}") for role in now["roles"] if (word := _word(role))]
    everything = {role["role"] for role in now["roles"]}
    workers = _table("worker", "pid", "age", "restarts", "admin port", "does")
    for worker in now["workers"]:
        workers.add_row(
            worker["name"],
            _known(worker["pid"], str),
            _known(worker["age_s"], lambda age: f"{age:.0f} s"),
            str(worker["restarts"]),
            worker["admin_url"],
            _runs(worker, everything),
        )
    return Group(head, "", roles, *oddities, "", workers)


def _word(role: dict[str, Any]) -> str:
    """Return what is odd about a role, if anything is."""
    if role["note"]:
        return str(role["note"])
    return "waits for a store" if role["held"] else ""


def _runs(worker: dict[str, Any], everything: set[str]) -> str:
    if not worker["answers"]:
        return "does not answer"
    return "all roles" if set(worker["roles"]) == everything else " ".join(worker["roles"])


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, no_wrap=column != "does")
    return table


def _known(value: Any, spell: Callable[[Any], str]) -> str:  # noqa: ANN401 - of a JSON object
    return "-" if value is None else spell(value)
