"""How the stores and the processes fare: one line a store, in the store's own words."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence

from gateway.admin.console.rates import Rates
from seckill.adapters.failures import POSTGRESQL, RABBITMQ, REDIS
from seckill.outages import STORE_NAMES
from seckill.registry.processes import SILENT_S, ProcessState, Reason

#: In the order in which a grab meets them.
STORES = (REDIS, RABBITMQ, POSTGRESQL)
#: What each does for buyers: what an operator wants to know first when it does not work.
WITHOUT = {
    REDIS: "Without it no buyer can grab.",
    RABBITMQ: "Without it accepted grabs wait in Redis; buyers notice nothing for a while.",
    POSTGRESQL: "Without it orders are not placed or paid; grabs go on.",
}


def shown_stores(states: Sequence[ProcessState]) -> list[dict[str, object]]:
    """Return each store: whether all processes find it well, and the words of those that do not.

    A process that is silent is left out: what it said last may be over.
    """
    heard = [state for state in states if not is_silent(state)]
    return [_store(name, heard) for name in STORES]


def shown_processes(states: Iterable[ProcessState], rates: Rates) -> list[dict[str, object]]:
    """Return a row for each process, gateways first."""
    order = {"gateway": 0, "pool": 1, "consumers": 2}
    rows = [_process(state, rates.cpu_of(state.process_id)) for state in states]
    return sorted(rows, key=lambda row: (order.get(str(row["kind"]), 9), row["host"], row["pid"]))


def is_silent(state: ProcessState) -> bool:
    """Return whether a process has not reported for some time."""
    return time.time() - state.at > SILENT_S


def _store(name: str, states: Sequence[ProcessState]) -> dict[str, object]:
    by_words: dict[str, list[str]] = {}
    for_s = 0.0
    for state in states:
        if reason := state.reasons.get(name):
            by_words.setdefault(reason.words, []).append(f"{state.kind} {state.pid}")
            for_s = max(for_s, reason.for_s)
    return {
        "store": name,
        "name": STORE_NAMES[name],
        "well": not by_words,
        "for_s": round(for_s),
        "without": WITHOUT[name],
        "says": [{"words": words, "by": by} for words, by in by_words.items()],
        "asked": len(states),
    }


def _process(state: ProcessState, cpu: float | None) -> dict[str, object]:
    return {
        "id": state.process_id,
        "kind": state.kind,
        "host": state.host,
        "pid": state.pid,
        "version": state.version,
        "admin_url": state.admin_url,
        "started_at": int(state.started_at),
        "cpu": None if cpu is None else round(cpu, 3),
        "memory_mb": round(state.memory_bytes / 2**20),
        "restarts": state.restarts,
        "roles": state.roles,
        "paused": state.paused,
        "silent_s": round(time.time() - state.at) if is_silent(state) else 0,
        "reasons": _plain(state.reasons),
    }


def _plain(reasons: Mapping[str, Reason]) -> dict[str, str]:
    return {name: reason.words for name, reason in reasons.items()}
