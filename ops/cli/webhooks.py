"""`seckill webhook`: where the shop is sent its events, and what became of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated
from uuid import uuid4

import typer
from rich.table import Column

from config.settings import load_settings
from ops.cli.console import Json, check_reason, show, table
from ops.cli.stores import Stores, run
from ops.cli.webhook_tables import described, moment, row_of, state_of, text
from seckill import audit
from seckill.errors import UserMistake
from seckill.events import VERSION, EventMessage, encode_event
from seckill.webhooks import endpoints, replays
from seckill.webhooks.addresses import check_url
from seckill.webhooks.deliveries import public_id
from seckill.webhooks.endpoints import OLD_SECRET_HOURS, WaitingDeliveries, WebhookEndpoint
from seckill.webhooks.sender import EndpointAnswer, WebhookSender

_NOW_SENT = "the role send_webhooks sends them from now on"

webhook_app = typer.Typer(
    help="Send events to addresses of the shop; see, test, rotate and repair that.",
    no_args_is_help=True,
)


class DeliveryState(StrEnum):
    """What a delivery can be."""

    PENDING = "pending"
    DELIVERED = "delivered"
    DEAD = "dead"


EndpointId = Annotated[
    int, typer.Argument(metavar="ID", help="The webhook's number.", min=1, max=2**63 - 1)
]
EndpointOption = Annotated[
    int | None, typer.Option("--webhook", help="Those of this one.", min=1, max=2**63 - 1)
]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", help="Only these, once for each: order.paid, `order.*`; else all."),
]
Reason = Annotated[str, typer.Option(help="Why; it is kept in the audit trail.")]


@webhook_app.command("add")
def add_endpoint(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where the events are sent, by POST.")],
    event: Events = None,
    as_json: Json = False,
) -> None:
    """Add an endpoint, and print its secret: the shop checks the signatures with it."""
    url = check_url(url, private_allowed=load_settings().webhook_private)
    actor = audit.operator_name()
    made = run(lambda s: endpoints.add(s.db, url, event or (), actor=actor))
    what = ", ".join(made.topics) or "all events"
    show(
        described(made, with_secrets=True),
        as_json,
        f"webhook {made.endpoint_id}: {what} to {made.url}",
        f"secret: {made.secret}",
        f"try it: seckill webhook test {made.endpoint_id}",
    )


@webhook_app.command("list")
def list_endpoints(as_json: Json = False) -> None:
    """List the endpoints, and what waits for each."""

    async def look(stores: Stores) -> tuple[list[WebhookEndpoint], dict[int, WaitingDeliveries]]:
        return await endpoints.all_(stores.db), await endpoints.waiting(stores.db)

    found, waiting = run(look)
    nothing = WaitingDeliveries()
    left = {each.endpoint_id: waiting.get(each.endpoint_id, nothing) for each in found}
    rows = [
        (
            str(each.endpoint_id),
            each.url,
            " ".join(each.topics) or "all",
            state_of(each),
            str(left[each.endpoint_id].pending),
            moment(left[each.endpoint_id].oldest_pending),
            str(left[each.endpoint_id].dead),
        )
        for each in found
    ]
    columns = (
        *("webhook", Column("address", overflow="fold"), Column("events", overflow="fold")),
        *("state", "pending", "oldest", "dead"),
    )
    show(
        [described(each, left[each.endpoint_id]) for each in found],
        as_json,
        table(*columns, rows=rows, caption="times are UTC") if found else "no webhooks",
    )


@webhook_app.command("show")
def show_endpoint(
    endpoint_id: EndpointId,
    secret: Annotated[bool, typer.Option("--secret", help="Print what signs, too.")] = False,
    as_json: Json = False,
) -> None:
    """Show one endpoint."""

    async def look(stores: Stores) -> tuple[WebhookEndpoint, dict[int, WaitingDeliveries]]:
        return await endpoints.find(stores.db, endpoint_id), await endpoints.waiting(stores.db)

    found, waiting = run(look)
    left = waiting.get(endpoint_id, WaitingDeliveries())
    plain = described(found, left, with_secrets=secret)
    lines = [f"{name:<18}{text(value)}" for name, value in plain.items()]
    show(plain, as_json, *lines)


@webhook_app.command("change")
def change_endpoint(
    endpoint_id: EndpointId,
    url: Annotated[str | None, typer.Option(help="The new address.")] = None,
    event: Events = None,
    all_events: Annotated[bool, typer.Option("--all-events", help="Send all events.")] = False,
    as_json: Json = False,
) -> None:
    """Change the address or the events of an endpoint; what waits goes to the new address."""
    if event and all_events:
        raise UserMistake("--event and --all-events: give one of them")
    topics = [] if all_events else event
    if url is None and topics is None:
        raise UserMistake("give --url, --event or --all-events")
    if url is not None:
        url = check_url(url, private_allowed=load_settings().webhook_private)
    actor = audit.operator_name()
    made = run(lambda s: endpoints.change(s.db, endpoint_id, url=url, topics=topics, actor=actor))
    what = ", ".join(made.topics) or "all events"
    show(described(made), as_json, f"webhook {made.endpoint_id}: {what} to {made.url}")


@webhook_app.command("rotate")
def rotate_secret(
    endpoint_id: EndpointId,
    keep_hours: Annotated[
        float, typer.Option(help="So long the old one signs, too. 0: it leaked.", min=0, max=720)
    ] = OLD_SECRET_HOURS,
    as_json: Json = False,
) -> None:
    """Make a new secret, and print it. For a while requests carry signatures by both."""
    keep, actor = timedelta(hours=keep_hours), audit.operator_name()
    made = run(lambda s: endpoints.rotate(s.db, endpoint_id, keep_old=keep, actor=actor))
    old = f"the old one signs for {keep_hours:g} h more" if keep else "the old one signs no more"
    show(described(made, with_secrets=True), as_json, f"secret: {made.secret}", old)


@webhook_app.command("remove")
def remove_endpoint(
    endpoint_id: EndpointId,
    drop: Annotated[
        bool, typer.Option("--drop", help="Also deliveries that were not made yet.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove an endpoint: it is sent nothing any more."""
    actor = audit.operator_name()
    dropped = run(lambda s: endpoints.remove(s.db, endpoint_id, drop=drop, actor=actor))
    lost = f", with {dropped} deliveries that were not made" if dropped else ""
    show({"dropped": dropped}, as_json, f"webhook {endpoint_id} is removed{lost}")


@webhook_app.command("enable")
def enable_endpoint(endpoint_id: EndpointId, as_json: Json = False) -> None:
    """Send to an endpoint again, beginning with what waits for it."""
    actor = audit.operator_name()
    made = run(lambda s: endpoints.switch(s.db, endpoint_id, on=True, actor=actor, reason=""))
    show(described(made), as_json, f"webhook {endpoint_id} is enabled; {_NOW_SENT}")


@webhook_app.command("disable")
def disable_endpoint(endpoint_id: EndpointId, reason: Reason, as_json: Json = False) -> None:
    """Send nothing to an endpoint; its events wait for three days, and are dead then."""
    check_reason(reason)
    actor = audit.operator_name()
    made = run(lambda s: endpoints.switch(s.db, endpoint_id, on=False, actor=actor, reason=reason))
    show(described(made), as_json, f"webhook {endpoint_id} is disabled; its events wait")


@webhook_app.command("deliveries")
def list_deliveries(
    webhook: EndpointOption = None,
    state: Annotated[DeliveryState | None, typer.Option(help="Only in this state.")] = None,
    dead: Annotated[bool, typer.Option("--dead", help="As --state dead.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1, max=10_000)] = 50,
    as_json: Json = False,
) -> None:
    """List deliveries, newest first."""
    wanted = DeliveryState.DEAD if dead else state
    found = run(lambda s: replays.newest(s.db, endpoint_id=webhook, state=wanted, limit=limit))
    columns = ("delivery", "webhook", "event", "state", "attempts", "queued", "next attempt")
    shown = table(
        *columns,
        Column("last answer", overflow="fold"),
        rows=map(row_of, found),
        caption="times are UTC",
    )
    show(found, as_json, shown if found else "no deliveries")


@webhook_app.command("replay")
def replay(
    delivery: Annotated[
        list[int] | None, typer.Argument(metavar="ID", help="Deliveries.", min=1, max=2**63 - 1)
    ] = None,
    webhook: EndpointOption = None,
    since: Annotated[
        str | None, typer.Option(help="With --webhook: events since then, an ISO time.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Send deliveries again, by their numbers; or all dead ones of a webhook."""
    if bool(delivery) == (webhook is not None) or (since and webhook is None):
        raise UserMistake("give the numbers of deliveries, or --webhook ID (and --since TIME)")
    start, actor = _since(since), audit.operator_name()

    async def again(stores: Stores) -> int:
        if webhook is None:
            return await replays.replay(stores.db, delivery or [], actor=actor)
        await endpoints.find(stores.db, webhook)
        return await replays.replay_dead(stores.db, webhook, start, actor=actor)

    count = run(again)
    show({"replayed": count}, as_json, f"{count} deliveries wait; {_NOW_SENT}")


@webhook_app.command("test")
def try_endpoint(endpoint_id: EndpointId, as_json: Json = False) -> None:
    """Send a test event now, from this host; exit 1 unless the endpoint takes it."""

    async def send(stores: Stores) -> EndpointAnswer:
        endpoint = await endpoints.find(stores.db, endpoint_id)
        event = EventMessage(VERSION, 0, "webhook.test", datetime.now(UTC))
        settings = stores.settings
        async with WebhookSender.open(
            timeout_s=settings.webhook_timeout_s, private_allowed=settings.webhook_private
        ) as sender:
            return await sender.send(endpoint, public_id(uuid4()), encode_event(event))

    answer = run(send)
    said = f"{answer.status or 'no answer'}: {answer.words}".removesuffix(": ")
    show(answer, as_json, said)
    if not answer.is_taken:
        raise typer.Exit(1)


def _since(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserMistake(
            f"--since {text!r}: give an ISO time such as 2030-11-11T20:00:00+08:00"
        ) from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)
