"""A small form of the drill of payments of the shop's own checkout, on the stores of the tests."""

from __future__ import annotations

from loadtest.drills import external_payments
from loadtest.stack import bench_stack


async def test_every_cent_is_explained_whatever_is_killed(services, tmp_path):
    urls = {
        "redis": services.redis_url,
        "rabbitmq": services.amqp_url,
        "postgresql": services.postgres_dsn,
    }
    async with bench_stack(home=tmp_path, urls=urls) as stack:
        findings = await external_payments.play(stack, payments=60, kills=2)
    assert [f for f in findings if f.reached is False] == []
    assert len(findings) > 15
