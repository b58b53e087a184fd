"""The log of a process: lines of JSON for machines or of text for people, without secrets.

A line has an event, one name for each kind. `order_id`, `sale_id` and `trace_id` are there where
one order, one sale or one trace is meant, and `request_id` (the answer's Request-Id) while a
request is handled. Batches are logged as batches, and ordinary ones for debugging only: at 20,000
orders a second, a line an order would be the most expensive thing.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Collection, Iterable, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import msgspec
from pydantic import SecretStr

from config.settings import STORES, Settings
from seckill.spans import current

#: Names of orders in one line of a batch, unless it is for debugging: a person reads no more.
IDS_MAX = 20
#: A shorter secret would be found in ordinary words.
SECRET_MIN = 6
HIDDEN = "***"
TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

#: The password of `user:password@`, and those of a query such as `sentinel_password=`.
_IN_ADDRESS = re.compile(r"(?:://[^:/@]*:|password=)([^&@#]+)(?=[@&#]|$)")
#: What a record has by itself. Anything else was given with `extra`, and belongs to the line.
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "event", "taskName"}
#: The id of the request that is being handled; "" where there is none.
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
_encode = msgspec.json.Encoder(enc_hook=str).encode


def set_up(settings: Settings) -> None:
    """Log to stderr as the settings say."""
    form = settings.log_format or ("text" if sys.stderr.isatty() else "json")
    handler = logging.StreamHandler()
    formatter = JsonFormatter() if form == "json" else logging.Formatter(TEXT_FORMAT)
    handler.setFormatter(WithoutSecrets(formatter, secrets_of(settings)))
    logging.basicConfig(level=settings.log_level.upper(), handlers=[handler])
    # Our own lines alone for debugging: the libraries log each byte that they send.
    logging.getLogger().setLevel(max(logging.INFO, logging.getLogger().level))
    for name in ("gateway", "consumers", "seckill", "ops"):
        logging.getLogger(name).setLevel(settings.log_level.upper())


def log_orders(
    logger: logging.Logger,
    level: int,
    event: str,
    text: str,
    order_ids: Collection[str],
    *,
    sale_id: str | None = None,
) -> None:
    """Log a batch of orders in one line: `text` (which says what), how many, and the first ids."""
    if not order_ids or not logger.isEnabledFor(level):
        return
    named = list(order_ids)[: None if level <= logging.DEBUG else IDS_MAX]
    more = f" and {len(order_ids) - len(named)} more" if len(named) < len(order_ids) else ""
    extra: dict[str, Any] = {"event": event, "orders": len(order_ids)}
    if len(order_ids) == 1:
        extra["order_id"] = named[0]
    else:
        extra["order_ids"] = named
    if sale_id is not None:
        extra["sale_id"] = sale_id
    logger.log(level, "%s: %s%s", text, ", ".join(named), more, extra=extra)


def secrets_of(settings: Settings) -> frozenset[str]:
    """Return what may never be in a line: keys, tokens, and passwords within addresses."""
    values = settings.model_dump()
    found: set[str] = set()
    for value in values.values():
        if isinstance(value, SecretStr):
            text = value.get_secret_value()
            found.add(text)
            found |= {pair.partition(":")[2] for pair in text.split(",")}  # of a ring of keys
    for name in (*STORES, "provider_url"):
        for secret in _IN_ADDRESS.findall(values[name]):
            found |= {secret, unquote(secret)}
    found |= {_encode(secret).decode()[1:-1] for secret in found}  # as a line of JSON shows it
    return frozenset(secret for secret in found if len(secret) >= SECRET_MIN)


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", None) or f"{record.module}.{record.funcName}",
            "message": record.getMessage(),
            "logger": record.name,
            "pid": record.process,
        }
        if (context := current()) is not None:
            line["trace_id"] = context.trace_id
        if request_id := REQUEST_ID.get():
            line["request_id"] = request_id
        line |= {name: value for name, value in vars(record).items() if name not in _OWN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return _encode(line).decode()


class WithoutSecrets(logging.Formatter):
    """Another formatter, whose lines show no secret."""

    def __init__(self, inner: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self._inner = inner
        # The longest first: one may be a part of another.
        self._secrets: Sequence[str] = sorted(secrets, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line with *** in place of each secret."""
        line = self._inner.format(record)
        for secret in self._secrets:
            if secret in line:
                line = line.replace(secret, HIDDEN)
        return line
