"""Burying what can never succeed: into the dead queue, with its story, before the ack."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from seckill import telemetry, topology
from seckill.broker import Headers, Publisher
from seckill.clock import now_ms

log = logging.getLogger(__name__)

#: Both are read by a person; RabbitMQ sends headers in one frame.
REASON_MAX = 1000
STACK_MAX = 8000


@dataclass(frozen=True, slots=True)
class Dead:
    """The body of a message that can never succeed, and why."""

    body: bytes
    reason: str
    #: The end of the traceback, where there is one.
    stack: str = ""
    #: How often it was tried.
    attempts: int = 1
    #: When it failed first, in Unix milliseconds; 0 for just now.
    first_failed_ms: int = 0

    def headers(self) -> Headers:
        """Return what goes with the body to the dead queue."""
        now = now_ms()
        return {
            "x-reason": self.reason[:REASON_MAX],
            "x-stack": self.stack[-STACK_MAX:],
            "x-attempts": self.attempts,
            "x-first-failed-ms": self.first_failed_ms or now,
            "x-last-failed-ms": now,
        }


async def bury(publisher: Publisher, queue: str, dead: Iterable[Dead]) -> None:
    """Move messages to the dead queue of `queue`, each confirmed.

    Called last, after the living are done: while a store is away a batch is run again and again,
    and must not leave another copy each time.
    """
    name = topology.dead(queue)
    for each in dead:
        log.error("dead letter on %s: %s", name, each.reason)
        telemetry.DEAD.labels(name).inc()
        await publisher.publish(name, each.body, each.headers())
