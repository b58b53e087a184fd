"""The process that sends webhooks is killed in mid-delivery: the event comes again, with its id."""

from __future__ import annotations

import os
import signal

from tests.processes import eventually
from tests.webhook_receiver import Receiver, documented_check
from tests.webhooks import WebhookBench

PRIVATE = {"SECKILL_WEBHOOK_PRIVATE": "true"}


async def test_what_a_killed_process_was_sending_is_sent_by_another(processes, db):
    bench = WebhookBench(db)
    await bench.clear()
    async with Receiver() as shop:
        endpoint = await bench.add(shop.url)
        await bench.queue(count=3)
        shop.hang()
        first = await processes.run("consumers", **PRIVATE)

        async def under_way():
            return len(shop.ids) == 3

        await eventually(under_way, "all three are under way")
        os.kill(first.child.pid, signal.SIGKILL)
        await first.child.wait()

        shop.handler = None
        await bench.let_time_pass(hours=0.02)  # the leases are over
        await processes.run("consumers", **PRIVATE)

        async def delivered():
            return await bench.count("delivered") == 3

        await eventually(delivered, "all three are delivered")
        check = documented_check()
        assert all(check(endpoint.secret, each.headers, each.raw) for each in shop.requests)
        assert sorted(shop.ids[:3]) == sorted(shop.ids[3:])
    await bench.clear()
