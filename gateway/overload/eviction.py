"""Room for a newcomer when all places are taken: idle connections of whoever holds the most.

A client that opens connections and sends nothing would else keep everybody out for as long as the
keep-alive time. Connections with something under way are never closed, and those of our own proxies
are not either: a proxy would take a request that it just sends there for lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from ipaddress import ip_address
from typing import Protocol

from config.field_types import Network
from seckill import metrics

#: Closed at a time: enough for what comes until the next time.
EVICTED_MAX = 256
#: Time between two looks at all connections, of some 5 ms for 20,000 of them.
LOOK_S = 0.05


class Evictable(Protocol):
    """A connection as seen here."""

    @property
    def peer(self) -> str:
        """Its address, "" when it has none."""

    @property
    def idle_since(self) -> float | None:
        """When it last had something under way, in the loop's time; None if it has now."""

    def evict(self) -> None:
        """Close it at once."""


class Eviction:
    """Closes idle connections of the address that holds the most."""

    def __init__(self, connections: Collection[Evictable], trusted: Sequence[Network]) -> None:
        self._connections = connections
        self._trusted = trusted
        self._looked_at = float("-inf")

    def make_room(self, now: float) -> int:
        """Close up to EVICTED_MAX connections, those that have been idle for longest; count them.

        Looks at most once in LOOK_S, and finds nothing in between.
        """
        if now - self._looked_at < LOOK_S:
            return 0
        self._looked_at = now
        counts = Counter(connection.peer for connection in self._connections)
        peer = next((peer for peer, _ in counts.most_common() if not self._is_trusted(peer)), None)
        idle = [
            (since, connection)
            for connection in self._connections
            if connection.peer == peer and (since := connection.idle_since) is not None
        ]
        idle.sort(key=lambda pair: pair[0])
        for _, connection in idle[:EVICTED_MAX]:
            connection.evict()
        metrics.EVICTED.inc(min(len(idle), EVICTED_MAX))
        return min(len(idle), EVICTED_MAX)

    def _is_trusted(self, peer: str) -> bool:
        return bool(peer) and any(ip_address(peer) in network for network in self._trusted)
