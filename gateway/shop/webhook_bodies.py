"""The bodies of `/shop/v1/webhooks`: what programs send, and what they are answered."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec

from gateway.http.responses import Moment
from gateway.sales.changes import Reason
from seckill.webhooks.endpoints import OLD_SECRET_HOURS, WaitingDeliveries, WebhookEndpoint

#: So long an old secret may go on signing.
KEEP_MAX_S = 30 * 86_400

#: Names of events, or families of them; which there are is checked where they are kept.
Events = Annotated[list[Annotated[str, msgspec.Meta(max_length=64)]], msgspec.Meta(max_length=50)]
Url = Annotated[str, msgspec.Meta(min_length=1)]


class WebhookView(msgspec.Struct):
    """An endpoint, and what waits for it. Without `events` it is sent all of them.

    `failing`: the last attempt failed, and others follow. `paused`: nothing is sent, events wait.
    """

    webhook_id: int
    url: str
    events: Sequence[str]
    state: Literal["active", "failing", "paused"]
    paused_because: str | None
    failing_since: Moment | None
    created_at: Moment
    pending: int
    dead: int
    oldest_pending: Moment | None


class WebhookSecret(msgspec.Struct):
    """An endpoint with the secret that was made for it, which no other call shows."""

    webhook: WebhookView
    secret: str


class WebhookList(msgspec.Struct):
    """A page of endpoints, newest first. `next` is the next page's cursor."""

    webhooks: Sequence[WebhookView]
    next: str | None


class NewWebhook(msgspec.Struct, forbid_unknown_fields=True):
    """An endpoint to be added: its address, and the events that it wants; without them all."""

    url: Url
    events: Events = []


class WebhookChange(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is to be changed; an empty list of `events` is all of them."""

    url: Url | msgspec.UnsetType = msgspec.UNSET
    events: Events | msgspec.UnsetType = msgspec.UNSET


class WebhookPause(msgspec.Struct, forbid_unknown_fields=True):
    """Why nothing is to be sent."""

    reason: Reason


class NewSecret(msgspec.Struct, forbid_unknown_fields=True):
    """For how long the secret before it signs, too. 0: it leaked."""

    keep_old_s: Annotated[int, msgspec.Meta(ge=0, le=KEEP_MAX_S)] = int(OLD_SECRET_HOURS * 3600)


class RemovedWebhook(msgspec.Struct):
    """How many deliveries went with the endpoint that were never made."""

    dropped: int


#: For the documentation.
WEBHOOK = WebhookView(
    7,
    "https://shop.example/seckill-events",
    ["order.paid", "sale.*"],
    "active",
    None,
    None,
    datetime(2026, 11, 27, 12, tzinfo=UTC),
    0,
    0,
    None,
)
SECRET = WebhookSecret(WEBHOOK, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=")


def view_of(endpoint: WebhookEndpoint, left: WaitingDeliveries | None = None) -> WebhookView:
    """Return an endpoint as programs are shown it."""
    left = left or WaitingDeliveries()
    failing = "failing" if endpoint.failing_since else "active"
    return msgspec.convert(
        {
            "webhook_id": endpoint.endpoint_id,
            "url": endpoint.url,
            "events": endpoint.topics,
            "state": failing if endpoint.enabled else "paused",
            "paused_because": endpoint.disabled_because,
            "failing_since": endpoint.failing_since,
            "created_at": endpoint.created_at,
            "pending": left.pending,
            "dead": left.dead,
            "oldest_pending": left.oldest_pending,
        },
        WebhookView,
    )
