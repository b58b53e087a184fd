"""Whether a store answers: asked once if it was given, and until it does if it is our own."""

from __future__ import annotations

from redis.exceptions import RedisError

from config.addresses import parse_address
from ops.stack.servers.server import Server, until_answers
from seckill.adapters import postgres
from seckill.adapters import redis as redis_client
from seckill.adapters.rabbitmq import Broker
from seckill.errors import Unavailable

#: A store that is up answers at once; a person who typed a wrong address should not wait.
GREETING_S = 5.0


async def greet(name: str, url: str) -> Server:
    """Return the store; raise Unavailable if it does not answer."""
    address = str(parse_address(url))
    if name == "rabbitmq":
        async with Broker(url, "seckill-up", GREETING_S).channel():
            pass
    elif name == "postgresql":
        async with postgres.connect(url, size=1, timeout_s=GREETING_S):
            pass
    else:
        try:
            async with redis_client.connect(url, timeout_s=GREETING_S) as client:
                await client.ping()
        except (RedisError, OSError) as error:
            raise Unavailable(f"Redis at {address} does not answer: {error}") from error
    return Server(name, url, address, [])


async def until_greeted(name: str, url: str) -> None:
    """Return when a store of our own answers: while Redis loads its data, it only says so."""
    await until_answers(lambda: greet(name, url), (Unavailable,))
