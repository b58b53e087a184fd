"""What the supervisor of a stack and the manager of a pool can be asked for, and where."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from ops.processes.control_socket import ControlSocket, NotListening, Reply
from seckill.errors import SeckillError

#: Needs no store, so it is answered at once, or not at all.
AT_ONCE_S = 3.0


class StackRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a supervisor is asked for."""

    op: Literal["status", "start_pool", "stop_pool"]
    #: For start_pool: begin with so many processes of each role; None: go on as it was.
    consumers: int | None = None


class PoolRequest(msgspec.Struct, forbid_unknown_fields=True):
    """What a pool manager is asked for."""

    op: Literal["status", "overview", "scale", "pause", "resume", "drain", "restart", "stop"]
    #: For pause and resume; none means all.
    roles: list[str] = []
    #: For scale: role -> lower and upper bound, equal for a fixed count.
    counts: dict[str, tuple[int, int]] = {}


def stack_socket(home: Path) -> ControlSocket:
    """Return where the supervisor of a home takes requests."""
    absent = f"nothing runs in {home}; start it: seckill up"
    return ControlSocket(home / "run" / "stack", "supervisor", absent)


def pool_socket(home: Path) -> ControlSocket:
    """Return where the pool manager of a home takes requests."""
    absent = f"no pool runs in {home}; start it: seckill pool start, or all: seckill up"
    return ControlSocket(home / "run" / "pool", "pool manager", absent)


def running_stack(home: Path) -> Reply | None:
    """Return what runs of the stack of a home; None when there is none, or it is not ready."""
    with suppress(NotListening):
        state = stack_socket(home).ask(StackRequest("status"), timeout_s=AT_ONCE_S)
        return state if state["ready"] else None
    return None


def pool_overview(home: Path) -> Reply | None:
    """Return the pid of the pool manager of a home and its workers; None when it is silent."""
    with suppress(SeckillError):
        return pool_socket(home).ask(PoolRequest("overview"), timeout_s=AT_ONCE_S)
    return None
