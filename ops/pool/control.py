"""The way from a gateway to the pool manager of its home, for the admin port."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ops.processes.control_socket import ANSWER_S, Reply
from ops.processes.requests import PoolRequest, pool_socket


@dataclass(frozen=True, slots=True)
class PoolClient:
    """Asks the pool manager of a home."""

    home: Path

    async def ask(
        self,
        op: str,
        roles: Sequence[str] = (),
        counts: Mapping[str, tuple[int, int]] | None = None,
    ) -> Reply:
        """Return the manager's reply, or raise what it objects to."""
        wanted = {"op": op, "roles": list(roles), "counts": dict(counts or {})}
        request = msgspec.convert(wanted, PoolRequest)
        # A restart takes as long as each worker takes to finish its batch.
        timeout_s = None if op == "restart" else ANSWER_S
        return await asyncio.to_thread(pool_socket(self.home).ask, request, timeout_s=timeout_s)
