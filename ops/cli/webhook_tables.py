"""What `seckill webhook` prints: endpoints and deliveries, for people and for machines."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from seckill.webhooks.endpoints import WaitingDeliveries, WebhookEndpoint
from seckill.webhooks.replays import ListedDelivery


def described(
    endpoint: WebhookEndpoint,
    left: WaitingDeliveries | None = None,
    *,
    with_secrets: bool = False,
) -> dict[str, Any]:
    """Return an endpoint as `--json` prints it."""
    plain: dict[str, Any] = {
        "webhook": endpoint.endpoint_id,
        "url": endpoint.url,
        "events": list(endpoint.topics),
        "enabled": endpoint.enabled,
        "disabled_because": endpoint.disabled_because,
        "failing_since": endpoint.failing_since,
        "resumes_at": endpoint.resume_at if endpoint.rests else None,
        "created_at": endpoint.created_at,
    }
    if left is not None:
        plain["pending"], plain["dead"] = left.pending, left.dead
        plain["oldest_pending"] = left.oldest_pending
    if with_secrets:
        plain["secret"], plain["old_secret"] = endpoint.secret, endpoint.old_secret
    return plain


def state_of(endpoint: WebhookEndpoint) -> str:
    """Return the state of an endpoint in words."""
    if not endpoint.enabled:
        return f"disabled: {endpoint.disabled_because}"
    if endpoint.failing_since:
        return f"failing since {moment(endpoint.failing_since)}"
    return "well"


def row_of(each: ListedDelivery) -> tuple[str, ...]:
    """Return a delivery as a row of the table."""
    return (
        str(each.delivery_id),
        str(each.endpoint_id),
        each.topic,
        each.state,
        str(each.attempts),
        moment(each.queued_at),
        moment(each.next_attempt_at) if each.state == "pending" else "",
        f"{each.last_status or ''} {each.last_words or ''}".strip(),
    )


def moment(at: datetime | None) -> str:
    """Return a time in UTC, or nothing for none."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if at else ""


def text(value: object) -> str:
    """Return a value of an endpoint in words."""
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, list):
        return " ".join(value) or "all"
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: "-"}[value]
    return str(value)
