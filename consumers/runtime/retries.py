"""What becomes of a message whose handler failed: one table, and the retry ladder.

| raised | fate |
|---|---|
| Unavailable | hold: a store is down, which is not the message's fault; the role pauses |
| Permanent | dead: it can never succeed |
| anything else | retry: it goes up the ladder, and after the last rung to the dead queue |

A message waits on a rung in a queue of the broker, so no worker sleeps and nothing is requeued hot.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from aio_pika.abc import AbstractIncomingMessage

from seckill import metrics
from seckill.adapters import topology
from seckill.adapters.rabbitmq import Headers, Publisher
from seckill.adapters.topology import RETRY_DELAYS_S
from seckill.backoff import jittered
from seckill.clock import now_ms
from seckill.errors import Permanent, Unavailable

log = logging.getLogger(__name__)

#: Those that failed together must not come back together: each waits this share of its rung. No
#: less, because RabbitMQ expires messages at the head only, so a shorter wait ends behind a longer.
JITTER = (0.9, 1.0)


class FailureAction(Enum):
    """What becomes of a message; without an exception it is acknowledged."""

    HOLD = auto()
    DEAD = auto()
    RETRY = auto()


#: The first that fits counts.
FAILURE_ACTIONS: tuple[tuple[type[Exception], FailureAction], ...] = (
    (Unavailable, FailureAction.HOLD),
    (Permanent, FailureAction.DEAD),
    (Exception, FailureAction.RETRY),
)


def failure_action(error: Exception) -> FailureAction:
    """Look an exception up in the table."""
    return next(fate for kind, fate in FAILURE_ACTIONS if isinstance(error, kind))


class RetrySchedule:
    """The way up from one queue."""

    def __init__(self, publisher: Publisher, queue: str) -> None:
        self._publisher = publisher
        self._queue = queue

    async def take(self, message: AbstractIncomingMessage, error: Exception) -> None:
        """Put a failed message on its next rung, or bury it; confirmed, so it may be acknowledged.

        Unavailable when the broker did not confirm. Should a copy have arrived all the same, both
        are worked on: handlers take a second copy for the first one.
        """
        attempts = _number(message, "x-attempts") + 1
        first_failed_ms = _number(message, "x-first-failed-ms") or now_ms()
        reason = f"{type(error).__name__}: {error}"
        if failure_action(error) is FailureAction.DEAD or attempts > len(RETRY_DELAYS_S):
            stack = "".join(traceback.format_exception(error))
            dead = FailedMessage(message.body, reason, stack, attempts, first_failed_ms)
            await dead_letter(self._publisher, self._queue, [dead])
            return
        retry_delay_s = RETRY_DELAYS_S[attempts - 1]
        log.warning(
            "%s: attempt %d failed, again in %d s: %s", self._queue, attempts, retry_delay_s, reason
        )
        # Nothing else of the old headers: x-death would grow with every rung.
        headers = {"x-attempts": attempts, "x-first-failed-ms": first_failed_ms}
        wait_s = jittered(retry_delay_s, JITTER)
        await self._publisher.publish_later(retry_delay_s, wait_s, self._queue, message, headers)


def _number(message: AbstractIncomingMessage, header: str) -> int:
    """Read a count or a time that an earlier rung wrote; 0 when there is none."""
    value = message.headers.get(header)
    return value if isinstance(value, int) and value > 0 else 0


#: Both are read by a person; RabbitMQ sends headers in one frame.
REASON_MAX = 1000
STACK_MAX = 8000


@dataclass(frozen=True, slots=True)
class FailedMessage:
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


async def dead_letter(publisher: Publisher, queue: str, dead: Iterable[FailedMessage]) -> None:
    """Move messages to the dead queue of `queue`, each confirmed.

    Called last, after the living are done: while a store is away a batch is run again and again,
    and must not leave another copy each time.
    """
    name = topology.dead(queue)
    for each in dead:
        log.error("dead letter on %s: %s", name, each.reason)
        metrics.DEAD.labels(name).inc()
        await publisher.publish(name, each.body, each.headers())
