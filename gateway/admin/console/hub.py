"""One snapshot a second for all who watch, and none when no one does.

A snapshot is sent as what has changed since the last one. Who comes new, or has missed one, gets
all of it; that is put together once a second as well, however many need it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from aiohttp import web

from gateway.admin.console.invariants import InvariantLights
from gateway.admin.console.rates import Rates
from gateway.admin.console.sections import Sections
from gateway.admin.console.store_view import shown_processes, shown_stores
from gateway.admin.heartbeat import OWN_STATE
from gateway.http.problems import Problem, Refused
from seckill.registry.processes import ProcessState

#: Between two snapshots.
EVERY_S = 1.0
#: Pages that watch at once: a few operators with a screen each, of the 40 connections of the port.
WATCHERS_MAX = 12
#: Points of the charts of rates: ten minutes.
POINTS = 600

log = logging.getLogger(__name__)

_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class Snapshot:
    """One second's state."""

    number: int = 0
    #: Part -> its JSON.
    parts: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, bytes] = field(default_factory=dict)
    #: The JSON of what has changed since the one before, and of all of it, if it was needed.
    changes: bytes = b""
    whole: bytes = b""


class Hub:
    """Makes the snapshots while someone watches."""

    def __init__(
        self, app: web.Application, edge: web.Application, lights: InvariantLights
    ) -> None:
        self._app, self._edge, self._lights = app, edge, lights
        self._rates = Rates()
        self._sections = Sections(edge, lights, self._rates.grabs_per_s)
        self._points: list[list[float | None]] = []
        self._watchers = 0
        self._task: asyncio.Task[None] | None = None
        self._last = Snapshot()
        self._made = asyncio.Condition()
        #: Snapshots made since this process started.
        self.made = 0

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Be one of those who watch; raise Refused if there are too many."""
        if self._watchers >= WATCHERS_MAX:
            detail = f"{WATCHERS_MAX} pages watch already; close one"
            raise Refused(Problem.OVERLOADED, detail)
        self._watchers += 1
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="console")
            self._task.add_done_callback(_report)
        try:
            yield
        finally:
            self._watchers -= 1
            if not self._watchers:
                await self.end()

    async def end(self) -> None:
        """Stop reading."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            # Whoever comes next waits for a new one; its first event has all of it.
            self._last = Snapshot(self._last.number)
            await asyncio.wait([task])

    async def events(self) -> AsyncIterator[bytes]:
        """Yield a server-sent event for each snapshot: all of it, then what changes."""
        seen: Snapshot | None = None
        while True:
            async with self._made:
                while self._last is seen or not self._last.parts:
                    await self._made.wait()
                snapshot = self._last
            is_next = seen is not None and snapshot.number == seen.number + 1
            seen = snapshot
            yield b"data: %b\n\n" % (snapshot.changes if is_next else self._whole(snapshot))

    async def _run(self) -> None:
        async with self._sections.reading():
            await asyncio.sleep(EVERY_S / 4)  # most of it is read by then
            while True:
                snapshot = self._make()
                async with self._made:
                    self._last = snapshot
                    self.made += 1
                    self._made.notify_all()
                await asyncio.sleep(EVERY_S)

    def _make(self) -> Snapshot:
        last, sections = self._last, self._sections
        parts = {name: _encode(part) for name, part in self._parts().items()}
        rows = dict(sections.sales.rows)
        changed = [
            f'"{name}":'.encode() + p for name, p in parts.items() if p != last.parts.get(name)
        ]
        new_rows = [row for name, row in rows.items() if row != last.rows.get(name)]
        gone = _encode([name for name in last.rows if name not in rows])
        sales = b'"rows":[%b],"gone":%b' % (b",".join(new_rows), gone)
        number = last.number + 1
        return Snapshot(number, parts, rows, _event(b"false", [*changed, sales]))

    def _whole(self, snapshot: Snapshot) -> bytes:
        if not snapshot.whole:
            fields = [f'"{name}":'.encode() + part for name, part in snapshot.parts.items()]
            fields.append(b'"rows":[%b]' % b",".join(snapshot.rows.values()))
            fields.append(b'"curves":' + _encode(self._sections.sales.shown_curves()))
            fields.append(b'"points":' + _encode(self._points))
            snapshot.whole = _event(b"true", fields)
        return snapshot.whole

    def _parts(self) -> dict[str, Any]:
        own: ProcessState = self._app[OWN_STATE]()
        others = [s for s in self._sections.states if s.process_id != own.process_id]
        states = [own, *others]
        self._rates.learn(states)
        rates = self._rates.shown()
        self._remember(rates)
        pools = [
            {"id": s.process_id, "host": s.host, "home": s.home, "pid": s.pid, "roles": s.pool}
            for s in states
            if s.kind == "pool"
        ]
        return {
            "me": {"host": own.host, "pid": own.pid, "home": own.home, "version": own.version},
            "stores": shown_stores(states),
            "processes": shown_processes(states, self._rates),
            "rates": rates,
            "pools": pools,
            "troubles": dict(self._sections.troubles),
            **self._sections.parts,
        }

    def _remember(self, rates: dict[str, Any]) -> None:
        grabs = rates["grabs"]
        won = grabs.get("accepted", 0.0)
        point = [round(time.time()), won, sum(grabs.values()) - won, rates["shed_per_s"]]
        self._points.append([*point, rates["p50_ms"], rates["p99_ms"]])
        del self._points[:-POINTS]


def _event(whole: bytes, fields: list[bytes]) -> bytes:
    return b'{"whole":%b,"at":%.1f,%b}' % (whole, time.time(), b",".join(fields))


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("the console has a bug", exc_info=error)


HUB = web.AppKey("hub", Hub)
