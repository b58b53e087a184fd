"""Typed keys of what several wings of the gateway use; other keys stand beside their types."""

from __future__ import annotations

import asyncio

import asyncpg
from aiohttp import web
from redis.asyncio import Redis

from config.limits import Limits
from config.settings import Settings
from seckill.adapters.publisher import Publisher
from seckill.inventory.reservations import Stock
from seckill.payments.card_payment_store import CardPaymentStore
from seckill.payments.external_payments import ExternalPayments
from seckill.sales.directory import SaleDirectory

SETTINGS = web.AppKey("settings", Settings)
#: Set once the process was told to stop.
STOPPING = web.AppKey("stopping", asyncio.Event)
LIMITS = web.AppKey("limits", Limits)
REDIS = web.AppKey("redis", Redis)
#: The id of the installation that the stores must belong to.
INSTALLATION_ID = web.AppKey("installation_id", str)
STOCK = web.AppKey("stock", Stock)
DB = web.AppKey("db", asyncpg.Pool)
PUBLISHER = web.AppKey("publisher", Publisher)
SALES = web.AppKey("sales", SaleDirectory)
CARD_PAYMENTS = web.AppKey("card_payments", CardPaymentStore)
EXTERNAL_PAYMENTS = web.AppKey("external_payments", ExternalPayments)
