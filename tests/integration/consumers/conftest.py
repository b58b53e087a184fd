"""What the tests of several roles share: grabs on their way to a consumer."""

from __future__ import annotations

import pytest

from seckill import messages
from seckill.adapters.topology import ORDERS_PLACE


@pytest.fixture
def send_grabs(publisher, queues):
    """Publish placements of one sale and epoch as the gateway does, bad entries last."""

    async def send(*placements, bad=()):
        first = placements[0]
        grabs = [*([p.order_id, p.buyer_id, p.quantity] for p in placements), *bad]
        body = messages.encode_place(first.sale_id, first.epoch, ["1-0"], grabs)
        await publisher.publish(ORDERS_PLACE, body)

    return send
