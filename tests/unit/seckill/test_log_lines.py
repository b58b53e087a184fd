"""Lines of the log: JSON that a machine reads, with names of orders, without secrets."""

from __future__ import annotations

import json
import logging
import sys

import pytest
from pydantic import SecretStr

from config.settings import Settings
from seckill.log_lines import HIDDEN, JsonFormatter, WithoutSecrets, log_orders, secrets_of

SETTINGS = Settings(
    redis_url="redis://:redis-password@127.0.0.1:6379/0",
    amqp_url="amqp://shop:amqp%2Fpassword@127.0.0.1/",
    postgres_dsn="postgresql://shop:pg-password@one,two/shop",
    ticket_keys=SecretStr("a:0123456789abcdef0123456789abcdef,b:fedcba9876543210fedcba9876543210"),
    jwt_keys=SecretStr("j:00112233445566778899aabbccddeeff"),
    admin_token=SecretStr("admin-token-of-thirty-two-letters"),
    provider_url="https://shop:provider-password@bank.example/v1",
)


@pytest.fixture
def logger() -> logging.Logger:
    return logging.getLogger("seckill.test_log_lines")


def line_of(record: logging.LogRecord) -> dict[str, object]:
    text = WithoutSecrets(JsonFormatter(), secrets_of(SETTINGS)).format(record)
    assert "\n" not in text
    return json.loads(text)


def record_of(message: str, *args: object, **fields: object) -> logging.LogRecord:
    record = logging.getLogger("seckill.x").makeRecord(
        "seckill.x", logging.INFO, "/x/retries.py", 1, message, args, None, "handle"
    )
    vars(record).update(fields)
    return record


def test_a_line_has_its_event_and_the_names_that_it_was_given() -> None:
    line = line_of(record_of("order %s ended", "o-1", event="order_ended", order_id="o-1"))
    assert line["event"] == "order_ended"
    assert line["order_id"] == "o-1"
    assert (line["level"], line["message"]) == ("info", "order o-1 ended")
    assert str(line["time"]).endswith("Z")


def test_a_line_without_an_event_is_named_by_where_it_comes_from() -> None:
    assert line_of(record_of("x"))["event"] == "retries.handle"


def test_a_traceback_is_one_line() -> None:
    record = record_of("failed")
    try:
        raise ValueError("bad\nvalue")
    except ValueError:
        record.exc_info = sys.exc_info()
    assert "ValueError: bad\nvalue" in str(line_of(record)["exception"])


@pytest.mark.parametrize(
    "secret",
    [
        "redis-password",
        "amqp/password",
        "amqp%2Fpassword",
        "pg-password",
        "0123456789abcdef0123456789abcdef",
        "fedcba9876543210fedcba9876543210",
        "00112233445566778899aabbccddeeff",
        "admin-token-of-thirty-two-letters",
        "provider-password",
    ],
)
@pytest.mark.parametrize("formatter", [JsonFormatter(), logging.Formatter("%(message)s")])
def test_no_secret_of_the_settings_is_in_a_line(secret: str, formatter: logging.Formatter) -> None:
    hiding = WithoutSecrets(formatter, secrets_of(SETTINGS))
    text = hiding.format(record_of("connect to %s failed", f"x://u:{secret}@h", detail=secret))
    assert secret not in text
    assert HIDDEN in text


def test_a_batch_is_one_line_with_some_of_its_orders(logger, caplog) -> None:
    ids = [f"order-{n}" for n in range(30)]
    with caplog.at_level(logging.INFO, logger.name):
        log_orders(logger, logging.INFO, "orders_expired", "expired", ids, sale_id="spring")
        log_orders(logger, logging.INFO, "orders_expired", "expired", ids[:1])
        log_orders(logger, logging.INFO, "orders_expired", "expired", [])
        log_orders(logger, logging.DEBUG, "orders_placed", "placed", ids)
    many, one = caplog.records
    assert (many.orders, many.order_ids, many.sale_id) == (30, ids[:20], "spring")
    assert many.getMessage().endswith("order-19 and 10 more")
    assert (one.order_id, one.getMessage()) == ("order-0", "expired: order-0")
