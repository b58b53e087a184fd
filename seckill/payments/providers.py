"""Which provider the settings name, if any."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from config.settings import Settings
from seckill.auth.key_ring import KeyRing
from seckill.payments.provider import Provider, WebhookReader
from seckill.payments.sandbox_client import SandboxClient, SandboxWebhooks
from seckill.payments.stripe_client import StripeClient
from seckill.payments.stripe_webhooks import StripeWebhooks

STRIPE = "stripe"


class ProviderAccess(msgspec.Struct, frozen=True):
    """How a provider is reached."""

    name: str
    url: str
    key: str
    timeout_s: float


def access_of(settings: Settings) -> ProviderAccess | None:
    """Return how the provider is reached; None in a shop that takes no cards."""
    timeout_s = settings.provider_timeout_s
    if settings.provider == STRIPE:
        key = settings.stripe_key.get_secret_value()
        return ProviderAccess(STRIPE, settings.stripe_url, key, timeout_s)
    if settings.provider_url:
        return ProviderAccess("sandbox", settings.provider_url, "", timeout_s)
    return None


@asynccontextmanager
async def open_provider(
    access: ProviderAccess | None, *, calls_max: int
) -> AsyncIterator[Provider | None]:
    """Open a pool of connections to a provider, if there is one."""
    if access is None:
        yield None
    elif access.name == STRIPE:
        async with StripeClient.open(
            access.url, access.key, timeout_s=access.timeout_s, calls_max=calls_max
        ) as stripe:
            yield stripe
    else:
        async with SandboxClient.open(
            access.url, timeout_s=access.timeout_s, calls_max=calls_max
        ) as sandbox:
            yield sandbox


def webhooks_of(settings: Settings, keys: KeyRing | None) -> WebhookReader:
    """Return what reads the provider's webhooks; `keys` are for the sandbox's."""
    if settings.provider == STRIPE:
        text = settings.stripe_webhook_secret.get_secret_value()
        return StripeWebhooks([secret.strip() for secret in text.split(",") if secret.strip()])
    return SandboxWebhooks(keys)
