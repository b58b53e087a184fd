"""`seckill provider`: a card provider for development."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from config.settings import load_settings
from seckill.auth.key_ring import KeyRing


def provider(
    port: Annotated[int, typer.Option(help="On the loopback.", min=0, max=65535)] = 0,
    decline: Annotated[float, typer.Option(help="Share of declines.", min=0, max=1)] = 0,
    lose_replies: Annotated[
        float, typer.Option(help="Share of calls carried out and not answered.", min=0, max=1)
    ] = 0,
    lose_requests: Annotated[
        float, typer.Option(help="Share of calls that never arrive.", min=0, max=1)
    ] = 0,
    delay: Annotated[float, typer.Option(help="Seconds before each answer.", min=0)] = 0,
    late: Annotated[
        float, typer.Option(help="Share of charges that are pending first.", min=0, max=1)
    ] = 0,
    late_after: Annotated[float, typer.Option(help="Seconds until those are decided.", min=0)] = 5,
) -> None:
    """Play a card provider, in the foreground; GET /books shows what each key was charged."""
    from ops.processes.tasks import until_signal
    from ops.sandbox_provider import Sandbox, SandboxBehaviour

    settings = load_settings()
    behaviour = SandboxBehaviour(decline, lose_replies, lose_requests, delay, late, late_after)
    secret = settings.webhook_keys.get_secret_value()
    sandbox = Sandbox(
        behaviour,
        webhook_url=f"{settings.gateway_url}/v1/webhooks/payments" if settings.gateway_url else "",
        keys=KeyRing.parse(secret, setting="SECKILL_WEBHOOK_KEYS") if secret else None,
    )

    async def serve() -> None:
        async with sandbox.serving(port=port) as url:
            typer.echo(f"export SECKILL_PROVIDER_URL='{url}'")
            if not sandbox.sends_webhooks:
                typer.echo("no webhooks: no stack runs in SECKILL_HOME", err=True)
            await asyncio.Event().wait()

    asyncio.run(until_signal(serve()))
