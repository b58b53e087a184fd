"""The hosts of one store: tried in turn, the one that answered last first."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from config.addresses import Host, parse_address
from seckill.adapters.failures import store_failure
from seckill.errors import FailureKind, Unavailable
from seckill.outages import STORE_NAMES

log = logging.getLogger(__name__)

T = TypeVar("T")

#: The hosts of each URL in the order in which this process tries them: what one link finds out, the
#: others need not. None stands for what the client library takes if the URL names no host.
_IN_TURN: dict[str, list[Host | None]] = {}


class Hosts:
    """The hosts in a URL."""

    def __init__(self, url: str, store: str) -> None:
        self.address, self._store = parse_address(url), store
        self._in_turn = _IN_TURN.setdefault(url, [*self.address.hosts] or [None])

    async def first(self, connect: Callable[[Host | None], Awaitable[T]]) -> T:
        """Return the connection to the first host that has one.

        Raise Unavailable, which names each host and its reason, if none has. Each has the whole
        time limit of a connection: a host that was cut off must not use up that of the next.
        """
        failures: list[Unavailable] = []
        for host in list(self._in_turn):
            try:
                connection = await connect(host)
            except Exception as error:
                failure = store_failure(error, self._store)
                if failure is None:
                    raise
                failures.append(failure.at(str(host or self.address)))
                continue
            if self._in_turn[0] != host:
                reasons = "; ".join(map(str, failures))
                log.warning("%s is now at %s: %s", STORE_NAMES[self._store], host, reasons)
                self._in_turn.sort(key=lambda other: other != host)
            return connection
        raise _of_all(failures)

    def try_last(self, host: Host) -> None:
        """Try a host after all others from now on: it takes connections, and does no work.

        Only the one that comes first is moved: of many links to it that fail, one is enough.
        """
        if len(self._in_turn) > 1 and self._in_turn[0] == host:
            self._in_turn.append(self._in_turn.pop(0))


def _of_all(failures: list[Unavailable]) -> Unavailable:
    """Return the failures of all hosts as one: an operator has to act if one of them says so."""
    if len(failures) == 1:
        return failures[0]
    named = [failure for failure in failures if failure.kind is FailureKind.CONFIGURATION]
    first = (named or failures)[0]
    text = "; ".join(map(str, failures))
    return type(first)(text, kind=first.kind, store=first.store, code=first.code)
