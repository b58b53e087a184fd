"""`/admin/pool`: scale, pause, resume, drain and restart the consumers of this home.

The pool manager takes requests on a socket in its home. Whoever starts a gateway gives it the way
there, because a gateway knows nothing of managers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Protocol

import msgspec
from aiohttp import web

from gateway.admin.auth import actor_of, on_record
from gateway.admin.health import EDGE
from gateway.app_keys import DB
from gateway.http.problems import Problem, Refused
from gateway.http.requests import read_json
from gateway.http.responses import json_response
from seckill import audit
from seckill.adapters.postgres import transaction
from seckill.errors import SeckillError, UserMistake

#: A restart replaces one worker after the other; whoever asked for it is answered after this.
RESTART_SHOWN_S = 5.0

log = logging.getLogger(__name__)

Role = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class PoolControl(Protocol):
    """The way to the pool manager of this home."""

    async def ask(
        self,
        op: str,
        roles: Sequence[str] = (),
        counts: Mapping[str, tuple[int, int]] | None = None,
    ) -> dict[str, Any]:
        """Return the manager's reply; raise SeckillError if it objects or cannot be reached."""


class PoolChange(msgspec.Struct, forbid_unknown_fields=True):
    """What of the pool is to change."""

    #: For pause, resume and drain; none means all.
    roles: Annotated[list[Role], msgspec.Meta(max_length=64)] = []
    #: For scale: role -> lower and upper bound, equal for a fixed count.
    counts: Annotated[dict[Role, tuple[int, int]], msgspec.Meta(max_length=64)] = {}


POOL = web.AppKey[PoolControl | None]("pool")
#: Restarts under way.
RESTARTS = web.AppKey("restarts", set[asyncio.Task[Any]])

_change = msgspec.json.Decoder(PoolChange)


async def show_pool(request: web.Request) -> web.Response:
    """Answer as `seckill pool status --json` does."""
    return json_response(await _ask(request, "status"))


async def scale_pool(request: web.Request) -> web.Response:
    """Set how many processes run each of some roles."""
    change = await read_json(request, _change)
    if not change.counts:
        raise Refused(Problem.BAD_REQUEST, "name a role and its bounds", field="counts")
    return await _recorded(request, "scale", change)


async def pause_pool(request: web.Request) -> web.Response:
    """Let roles take no more work."""
    return await _recorded(request, "pause", await read_json(request, _change))


async def resume_pool(request: web.Request) -> web.Response:
    """Let paused roles work again."""
    return await _recorded(request, "resume", await read_json(request, _change))


async def drain_pool(request: web.Request) -> web.Response:
    """Let roles finish what they have taken, and take no more."""
    return await _recorded(request, "drain", await read_json(request, _change))


async def restart_pool(request: web.Request) -> web.Response:
    """Replace the workers one after the other; answer early if that takes long."""
    with on_record("pool restart", "all workers"):
        async with transaction(request.app[EDGE][DB]) as connection:
            await _write_down(connection, request, "restart", PoolChange())
        task = asyncio.create_task(_ask(request, "restart"), name="pool restart")
        under_way = request.app[RESTARTS]
        under_way.add(task)
        task.add_done_callback(under_way.discard)
        task.add_done_callback(_log_failure)
        done, _ = await asyncio.wait({task}, timeout=RESTART_SHOWN_S)
        if not done:
            return json_response({"ok": True, "under_way": True}, status=202)
        return json_response(task.result())


async def _recorded(request: web.Request, op: str, change: PoolChange) -> web.Response:
    """Change the pool; the audit row is committed if the manager has done it."""
    with on_record(f"pool {op}", str(change.counts or change.roles or "all roles")):
        async with transaction(request.app[EDGE][DB]) as connection:
            await _write_down(connection, request, op, change)
            reply = await _ask(request, op, change)
    return json_response(reply)


async def _write_down(
    connection: Any,  # noqa: ANN401 - untyped in asyncpg
    request: web.Request,
    op: str,
    change: PoolChange,
) -> None:
    await audit.record(
        connection,
        f"pool.{op}",
        actor=actor_of(request),
        reason="by hand",
        details=msgspec.to_builtins(change),
    )


async def _ask(request: web.Request, op: str, change: PoolChange | None = None) -> dict[str, Any]:
    pool = request.app[POOL]
    if pool is None:
        raise Refused(Problem.NO_POOL, "this gateway was started without a home for a pool")
    change = change or PoolChange()
    try:
        return await pool.ask(op, change.roles, change.counts)
    except UserMistake:
        raise
    except SeckillError as error:
        raise Refused(Problem.NO_POOL, str(error)) from error


def _log_failure(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.warning("pool restart: %s", error)
