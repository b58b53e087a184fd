"""survey: what all sales have in common is read off the stores, and unknown where one is away."""

from __future__ import annotations

import math

import pytest
from prometheus_client import Gauge

from consumers.roles.survey import Survey
from seckill import metrics
from seckill.adapters import redis_keys
from seckill.adapters.rabbitmq import Broker
from seckill.errors import Unavailable
from seckill.health.backlogs import Backlogs
from tests.external_payments import external_payments, report_of


def value(gauge: Gauge, *labels: str) -> float:
    (metric,) = gauge.collect()
    (found,) = [s.value for s in metric.samples if tuple(s.labels.values()) == labels]
    return found


@pytest.fixture
async def survey_of(settings, store, db, stock):
    backlogs = Backlogs(store, db, Broker(settings.amqp_url, "test", 2.0))

    def make(sales_named: int = 0) -> Survey:
        return Survey(backlogs, db, stock, sales_named=sales_named)

    yield make
    await backlogs.close()


async def test_units_and_backlogs_are_those_of_the_stores(survey_of, open_sale, shop):
    survey = survey_of()
    await survey.run_once()
    frozen, fewer = (
        value(metrics.UNITS, "frozen"),
        value(metrics.LEDGER_DIFFERENCE, "redis_fewer"),
    )
    sale = await open_sale()
    placed, on_its_way = await shop.grab(sale, "ann", "bob")
    await shop.place(placed)

    await survey.run_once()

    assert on_its_way.buyer_id == "bob"
    assert value(metrics.UNITS, "frozen") == frozen + 1
    assert value(metrics.LEDGER_DIFFERENCE, "redis_fewer") == fewer + 1
    assert value(metrics.SALES_LIVE, "open") >= 1
    assert value(metrics.BACKLOG, "relay") >= 0
    assert value(metrics.BACKLOG, "return_stock") >= 0


async def test_a_unit_too_many_in_redis_shows(survey_of, open_sale, store):
    survey = survey_of()
    await survey.run_once()
    before = value(metrics.LEDGER_DIFFERENCE, "redis_more")
    sale = await open_sale()
    await store.incr(redis_keys.stock(sale.sale_id))

    await survey.run_once()

    assert value(metrics.LEDGER_DIFFERENCE, "redis_more") == before + 1


async def test_the_largest_open_sales_are_named_if_that_was_asked_for(survey_of, open_sale):
    await open_sale(stock=10)
    most = 2**31 - 1  # other tests leave sales, too
    await open_sale(stock=most)
    large = await open_sale(stock=most)

    await survey_of(sales_named=1).run_once()
    assert value(metrics.SALE_UNITS_LEFT, large.sale_id) == most
    assert len(metrics.SALE_UNITS_LEFT.collect()[0].samples) == 1

    metrics.SALE_UNITS_LEFT.clear()
    await survey_of().run_once()
    assert metrics.SALE_UNITS_LEFT.collect()[0].samples == []


async def test_what_postgresql_keeps_to_itself_is_unknown_and_not_zero(survey_of, monkeypatch):
    survey = survey_of()
    await survey.run_once()

    async def away(_: object) -> None:
        raise Unavailable("PostgreSQL does not answer")

    monkeypatch.setattr("seckill.sales.listing.live_units", away)
    with pytest.raises(Unavailable):
        await survey.run_once()

    assert math.isnan(value(metrics.UNITS, "available"))
    assert math.isnan(value(metrics.LEDGER_DIFFERENCE, "redis_more"))


async def test_a_queue_that_is_not_made_yet_is_unknown_and_no_failure(survey_of, monkeypatch):
    missing = {"place_orders": "nowhere.1", "saga_steps": "nowhere.2"}
    monkeypatch.setattr("seckill.health.backlogs._QUEUES", missing)
    failures = metrics.STORE_FAILURES.labels("rabbitmq", "configuration")
    before = failures._value.get()

    await survey_of().run_once()

    assert all(math.isnan(value(metrics.BACKLOG, role)) for role in missing)
    assert failures._value.get() == before


async def test_money_that_must_go_back_is_counted(survey_of, open_sale, shop, db):
    survey, external = survey_of(), external_payments(db)
    await survey.run_once()
    before = value(metrics.EXTERNAL_DUE)
    report = report_of(shop.wish(await open_sale(), "ann"))
    await external.take(report, is_unknown=True)
    await survey.run_once()
    assert value(metrics.EXTERNAL_DUE) == before + 1
    assert value(metrics.EXTERNAL_DUE_OLDEST) > 0
    await external.send_back(report.reference, actor="shop")
    await survey.run_once()
    assert value(metrics.EXTERNAL_DUE) == before
