"""send_webhooks: brings the queued deliveries to their endpoints.

At least once: an attempt whose outcome was not written, because the process was killed, is made
again after its lease. Any number of processes may run it: each delivery is leased to one of them.
Requests to each endpoint are bounded by themselves, so that a slow one holds up no other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter

import asyncpg

from consumers.resources import Resources
from consumers.runtime.activity import ACTIVITY, REST_S
from consumers.runtime.role import Role, pause, until_available
from seckill import metrics
from seckill.webhooks import deliveries, endpoints
from seckill.webhooks.deliveries import ClaimedDelivery
from seckill.webhooks.endpoints import WebhookEndpoint
from seckill.webhooks.sender import WebhookSender

NAME = "send_webhooks"
#: Requests under way at a time, for each endpoint and process: at 100 ms each that is 80 a second,
#: and each may hold a hundred orders. An endpoint that fails gets one at a time.
IN_FLIGHT_MAX, IN_FLIGHT_FAILING = 8, 1
#: Between two looks: while something was found, and while nothing was.
BUSY_S, IDLE_S = 0.02, 0.2
#: Without any endpoint, in a shop that uses none.
NO_ENDPOINT_S = 10.0
#: Beyond the time limit of a request: a process that is so late is taken to be dead.
LEASE_BEYOND_S = 30.0
#: Between two passes that give up and delete.
UPKEEP_S = 60.0
#: At the end of the process, for requests under way. Those that take longer are made again.
DRAIN_S = 5.0

log = logging.getLogger(__name__)


class SendWebhooks:
    """Claims deliveries, and makes attempts, some at a time for each endpoint."""

    def __init__(self, db: asyncpg.Pool, sender: WebhookSender, *, timeout_s: float) -> None:
        self._db = db
        self._sender = sender
        self._lease_s = timeout_s + LEASE_BEYOND_S
        self._in_flight: Counter[int] = Counter()
        self._has_endpoints = True
        self._upkeep_at = 0.0
        #: Set when an attempt has ended: there is room for another.
        self._room = asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set; then wait a little for what is under way."""
        async with asyncio.TaskGroup() as group:
            tasks: set[asyncio.Task[None]] = set()
            found = 0

            async def look() -> None:
                nonlocal found
                found = 0  # also where the look fails
                for endpoint, claimed in await self.begin():
                    found += 1
                    task = group.create_task(self.attempt(endpoint, claimed, stop))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)

            while not stop.is_set():
                await until_available(look, NAME, stop)
                if found:
                    ACTIVITY.worked()
                await self._rest(stop, found)
            if tasks:
                await asyncio.wait(tasks, timeout=DRAIN_S)
                for task in tasks:
                    task.cancel()

    async def begin(self) -> list[tuple[WebhookEndpoint, ClaimedDelivery]]:
        """Claim what may be attempted now, and keep room for it."""
        self._room.clear()
        known = {each.endpoint_id: each for each in await endpoints.all_(self._db)}
        self._has_endpoints = bool(known)
        # Also without any endpoint: the messages of one that was removed are still kept.
        if time.monotonic() > self._upkeep_at:
            metrics.WEBHOOK_DELIVERIES.labels("dead").inc(await deliveries.upkeep(self._db))
            self._upkeep_at = time.monotonic() + UPKEEP_S
        if not known:
            return []
        free = {id_: self._room_for(each) for id_, each in known.items()}
        wanted = {id_: room for id_, room in free.items() if room > 0}
        if not wanted:
            return []
        claimed = await deliveries.claim(self._db, wanted, self._lease_s)
        self._in_flight.update(each.endpoint_id for each in claimed)
        metrics.ROLE_IN_FLIGHT.labels(NAME).inc(len(claimed))
        return [(known[each.endpoint_id], each) for each in claimed]

    async def attempt(
        self, endpoint: WebhookEndpoint, claimed: ClaimedDelivery, stop: asyncio.Event
    ) -> None:
        """Send one delivery, and write down what came of it."""
        try:
            message_id = deliveries.public_id(claimed.message_id)
            answer = await self._sender.send(endpoint, message_id, claimed.body)
            outcome = ""

            async def record() -> None:
                nonlocal outcome
                outcome = await deliveries.record(self._db, endpoint, claimed, answer)

            if await until_available(record, NAME, stop):
                metrics.WEBHOOK_DELIVERIES.labels(outcome).inc()
                metrics.ROLE_DONE.labels(NAME).inc()
            if outcome != "delivered":
                log.info(
                    "webhook %d: attempt %d of %s %s: %s %s",
                    endpoint.endpoint_id,
                    claimed.attempts,
                    message_id,
                    outcome,
                    answer.status or "",
                    answer.words,
                )
        finally:
            self._in_flight[endpoint.endpoint_id] -= 1
            metrics.ROLE_IN_FLIGHT.labels(NAME).dec()
            self._room.set()

    def _room_for(self, endpoint: WebhookEndpoint) -> int:
        if not endpoint.enabled or endpoint.rests:
            return 0
        most = IN_FLIGHT_FAILING if endpoint.failing_since else IN_FLIGHT_MAX
        return most - self._in_flight[endpoint.endpoint_id]

    async def _rest(self, stop: asyncio.Event, found: int) -> None:
        if found:
            await pause(stop, BUSY_S)
        elif not self._has_endpoints:
            await pause(stop, NO_ENDPOINT_S)
        else:
            await self._until_room(stop, REST_S if ACTIVITY.is_at_rest() else IDLE_S)

    async def _until_room(self, stop: asyncio.Event, longest_s: float) -> None:
        """Wait until an attempt has ended, or `stop` is set, or for `longest_s`."""
        waits = [asyncio.create_task(event.wait()) for event in (stop, self._room)]
        try:
            await asyncio.wait(waits, timeout=longest_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


class SendWebhooksRole:
    """The role with its connections, which are opened when it begins."""

    def __init__(self, stores: Resources) -> None:
        self._stores = stores

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop` is set."""
        settings = self._stores.settings
        async with WebhookSender.open(
            timeout_s=settings.webhook_timeout_s, private_allowed=settings.webhook_private
        ) as sender:
            role = SendWebhooks(self._stores.db, sender, timeout_s=settings.webhook_timeout_s)
            await role.run(stop)


def build(stores: Resources) -> Role:
    """Return the role over the stores of this process."""
    return SendWebhooksRole(stores)
