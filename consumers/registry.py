"""The table of roles: a new role is a file in `roles/` and a line here."""

from __future__ import annotations

from collections.abc import Callable

from consumers.resources import Resources
from consumers.roles import (
    dead_letters,
    expire_orders,
    key_expiry,
    place_orders,
    publish_events,
    reconcile,
    recover,
    relay,
    return_stock,
    saga_steps,
    send_webhooks,
    settle_payments,
    sweep,
)
from consumers.runtime.role import Role

#: The name of a role -> how to build it.
BUILDERS: dict[str, Callable[[Resources], Role]] = {
    "place_orders": place_orders.build,
    "expire_orders": expire_orders.build,
    "key_expiry": key_expiry.build,
    "return_stock": return_stock.build,
    "relay": relay.build,
    "sweep": sweep.build,
    "publish_events": publish_events.build,
    "send_webhooks": send_webhooks.build,
    "settle_payments": settle_payments.build,
    "dead_letters": dead_letters.build,
    "reconcile": reconcile.build,
    "saga_steps": saga_steps.build,
    "recover": recover.build,
}
