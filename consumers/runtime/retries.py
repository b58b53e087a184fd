"""What becomes of a message whose handler failed: it is held, retried later, or dead-lettered.

| raised | action |
|---|---|
| a store's failure (`seckill.adapters.failures`) | HOLD: the role pauses (`batch_progress.py`) |
| Permanent | DEAD: the message can never succeed |
| anything else | RETRY: the message waits in the next retry queue; after the last one it is dead |

A message waits in a queue of RabbitMQ, so that no worker sleeps, and no message comes back at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto

from aio_pika.abc import AbstractIncomingMessage

from seckill import messages, metrics
from seckill.adapters import topology
from seckill.adapters.failures import store_failure
from seckill.adapters.publisher import Headers, Publisher
from seckill.adapters.topology import RETRY_DELAYS_S
from seckill.backoff import jittered
from seckill.clock import now_ms
from seckill.dead_letters.parser import CUT_HEADER
from seckill.errors import Permanent
from seckill.messages import BODY_BYTES_MAX
from seckill.spans import SPANS, SpanKind, queue_attributes

#: Each message waits this share of the retry delay, so that messages that failed together do not
#: come back together. No smaller share: RabbitMQ expires messages at the head of a queue only, so
#: a short wait would end behind a long one.
JITTER = (0.9, 1.0)
#: An operator reads both; RabbitMQ sends all headers in one frame.
REASON_MAX, STACK_MAX = 1000, 8000
#: No count or time of ours is larger (a time in milliseconds of the year 5138). A number that does
#: not fit AMQP could not be published again.
NUMBER_MAX = 10**14

log = logging.getLogger(__name__)


class FailureAction(Enum):
    """What becomes of a message whose handler raised."""

    HOLD = auto()
    DEAD = auto()
    RETRY = auto()


def failure_action(error: Exception) -> FailureAction:
    """Return what becomes of a message whose handler raised this."""
    if store_failure(error):
        return FailureAction.HOLD
    return FailureAction.DEAD if isinstance(error, Permanent) else FailureAction.RETRY


class RetrySchedule:
    """The retries of the messages of one queue."""

    def __init__(self, publisher: Publisher, queue: str) -> None:
        self._publisher = publisher
        self._queue = queue

    async def handle_failure(self, message: AbstractIncomingMessage, error: Exception) -> None:
        """Publish a failed message to its next retry queue, or dead-letter it.

        Return when the broker has confirmed, so that the message may be acknowledged. Raise
        Unavailable if it has not. The copy may have arrived all the same: then both are handled,
        and every handler takes a second copy for the first one.
        """
        attempts = attempts_of(message) + 1
        first_failed_ms = _number(message, "x-first-failed-ms") or now_ms()
        reason = f"{type(error).__name__}: {error}"
        if failure_action(error) is FailureAction.DEAD or attempts > len(RETRY_DELAYS_S):
            stack = "".join(traceback.format_exception(error))
            dead = FailedMessage(message.body, reason, stack, attempts, first_failed_ms)
            await dead_letter(self._publisher, self._queue, [dead])
            return
        delay_s = RETRY_DELAYS_S[attempts - 1]
        metrics.RETRIES.labels(self._queue).inc()
        record_failure(f"retry {self._queue}", self._queue, message.body, reason, attempts)
        log.warning(
            "%s: attempt %d failed, again in %d s: %s",
            self._queue,
            attempts,
            delay_s,
            reason,
            extra={"event": "message_retried", "queue": self._queue, "attempts": attempts},
        )
        # No other header is kept: x-death would grow with every retry.
        headers = {"x-attempts": attempts, "x-first-failed-ms": first_failed_ms}
        wait_s = jittered(delay_s, JITTER)
        await self._publisher.publish_later(delay_s, wait_s, self._queue, message, headers)


@dataclass(frozen=True, slots=True)
class FailedMessage:
    """The body of a message that can never succeed, and the reason.

    Of a body that is too large to be decoded only the beginning is kept: the rest would take longer
    to publish than there is time, again and again. Units of grabs in it, if there were any, are
    found by `reconcile`.
    """

    body: bytes
    reason: str
    #: The end of the traceback, if there is one.
    stack: str = ""
    attempts: int = 1
    #: Unix milliseconds; 0 for now.
    first_failed_ms: int = 0

    def headers(self) -> Headers:
        """Return the headers of the message in the dead queue."""
        now = now_ms()
        cut = {CUT_HEADER: len(self.body)} if len(self.body) > BODY_BYTES_MAX else {}
        return cut | {
            "x-reason": self.reason[:REASON_MAX],
            "x-stack": self.stack[-STACK_MAX:],
            "x-attempts": self.attempts,
            "x-first-failed-ms": self.first_failed_ms or now,
            "x-last-failed-ms": now,
        }


async def dead_letter(publisher: Publisher, queue: str, dead: Iterable[FailedMessage]) -> None:
    """Publish messages to the dead queue of `queue` at once, and return when all are confirmed.

    A handler calls this last. While a store is unavailable a batch is handled again and again, and
    each time would dead-letter one more copy.
    """
    name = topology.dead(queue)

    async def publish(each: FailedMessage) -> None:
        log.error("dead letter on %s: %s", name, each.reason)
        record_failure(f"dead letter {queue}", queue, each.body, each.reason, each.attempts)
        metrics.DEAD.labels(name).inc()
        await publisher.publish(name, each.body[:BODY_BYTES_MAX], each.headers())

    for error in await asyncio.gather(*map(publish, dead), return_exceptions=True):
        if error is not None:
            raise error


def record_failure(name: str, queue: str, body: bytes, reason: str, attempts: int) -> None:
    """Record that a message failed in the traces of the orders that it carries."""
    if not SPANS.on or len(body) > BODY_BYTES_MAX:
        return
    members = messages.traces_of(body)
    SPANS.record_batch(
        name,
        members,
        time.time_ns(),
        size=1,
        kind=SpanKind.PRODUCER,
        attributes={**queue_attributes(queue, "publish"), "seckill.attempts": attempts},
        errors=dict.fromkeys(members, reason[:REASON_MAX]),
    )


def attempts_of(message: AbstractIncomingMessage) -> int:
    """Return how often a message has failed; 0 for one that has never been in a retry queue."""
    return _number(message, "x-attempts")


def _number(message: AbstractIncomingMessage, header: str) -> int:
    """Return a count or a time that an earlier attempt wrote, or 0."""
    value = message.headers.get(header)
    return value if isinstance(value, int) and 0 < value <= NUMBER_MAX else 0
