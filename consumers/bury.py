"""Burying what can never succeed: into the dead queue, with its reason, before the ack."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from seckill import telemetry, topology
from seckill.broker import Publisher

log = logging.getLogger(__name__)

#: A reason is read by a person; RabbitMQ sends headers in one frame.
REASON_MAX = 1000


@dataclass(frozen=True, slots=True)
class Dead:
    """The body of a message that can never succeed, and why."""

    body: bytes
    reason: str


async def bury(publisher: Publisher, queue: str, dead: Iterable[Dead]) -> None:
    """Move messages to the dead queue of `queue`, each confirmed.

    Called last, after the living are done: while a store is away a batch is run again and again,
    and must not leave another copy each time.
    """
    name = topology.dead(queue)
    for each in dead:
        log.error("dead letter on %s: %s", name, each.reason)
        telemetry.DEAD.labels(name).inc()
        await publisher.publish(name, each.body, {"x-reason": each.reason[:REASON_MAX]})
