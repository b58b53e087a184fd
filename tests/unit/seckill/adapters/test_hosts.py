"""The order in which the hosts of a store are tried."""

from __future__ import annotations

import pytest

from config.addresses import Host
from seckill.adapters.failures import RABBITMQ
from seckill.adapters.hosts import Hosts

ONE, TWO, THREE = (Host(name, 5672) for name in ("one", "two", "three"))


@pytest.fixture
def url(request):
    """An address of the test's own: the order belongs to all links of a process."""
    return f"amqp://one,two,three/{request.node.name}"


async def tried(url, *dead):
    """Return the hosts that a new link tries, of which some are dead."""
    asked = []

    async def connect(host):
        asked.append(host)
        if host in dead:
            raise ConnectionRefusedError
        return host

    await Hosts(url, RABBITMQ).first(connect)
    return asked


async def test_a_link_begins_with_the_host_that_another_link_has_found(url):
    assert await tried(url, ONE) == [ONE, TWO]
    assert await tried(url) == [TWO]


async def test_a_host_that_does_no_work_is_tried_last(url):
    Hosts(url, RABBITMQ).try_last(ONE)
    Hosts(url, RABBITMQ).try_last(ONE)  # by another link that has failed
    assert await tried(url, TWO, THREE) == [TWO, THREE, ONE]
