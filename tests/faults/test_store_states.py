"""A store lives and refuses: the work is held, the cause is logged once, and it goes on after.

One gateway and one process of all roles go through all states. docs/store-states.md has the table.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from aiohttp import ClientSession

from ops.stack.services import temporary_home
from seckill.adapters import redis_keys
from tests.pools import RunningPool
from tests.processes import Process, Processes, eventually
from tests.store_states import PostgresStates, RabbitStates, RedisStates

_buyers = itertools.count(1)

POSTGRESQL = {
    "read_only": "25006|cannot execute",
    "other_password": "password authentication failed",
    "no_login": "not permitted to log in",
    "renamed_database": "does not exist",
    "without_function": "function place.* does not exist",
    "without_table": 'relation "orders" does not exist',
    "locked_table": "lock timeout",
    "objecting 58030": "a trigger objects",
    "objecting XX000": "a trigger objects",
    "objecting 42501": "a trigger objects",
}
REDIS = {
    "demoted": "READONLY",
    "full": "OOM",
    "few replicas": "NOREPLICAS",
    "no evalsha": "NOPERM",
}
RABBITMQ = {
    "other_password": "Login was refused",
    "without_vhost_rights": "access to vhost",
    "alarmed": "publishing to",
}


class Stack:
    """A gateway and a consumer, with what they have logged."""

    def __init__(self, processes: Processes, gateway: Process, consumer: Process) -> None:
        self.gateway, self.consumer = gateway, consumer
        self.ask = processes.ask
        self.pids = gateway.child.pid, consumer.child.pid
        self._read = {process.child.name: 0 for process in (gateway, consumer)}

    def forget(self) -> None:
        """Begin to count lines anew."""
        for process in (self.gateway, self.consumer):
            self._read[process.child.name] = len(self._log(process).read_text())

    def lines(self, process: Process) -> list[str]:
        return self._log(process).read_text()[self._read[process.child.name] :].splitlines()

    def _log(self, process: Process) -> Path:
        assert process.child.spec.log is not None
        return process.child.spec.log

    def assert_undisturbed(self) -> None:
        """Nothing was restarted, nothing was retried by queues, and nothing is dead."""
        assert (self.gateway.child.pid, self.consumer.child.pid) == self.pids
        for process in (self.gateway, self.consumer):
            text = "\n".join(self.lines(process))
            assert "Traceback" not in text
            assert not re.search(r"attempt \d+ failed|dead letter", text)

    def assert_logged_once(self, process: Process, words: str) -> None:
        """One line has these words, and one more for each outage that ended meanwhile.

        On a busy machine a process may be asked so seldom that an outage seems to be over.
        """
        most = 1 + self.logged(process, "works again")
        assert 1 <= self.logged(process, words) <= most, self.lines(process)

    def logged(self, process: Process, words: str) -> int:
        """Return how many lines have these words."""
        return sum(bool(re.search(words, line)) for line in self.lines(process))


@pytest.fixture(scope="module")
async def stack(settings) -> AsyncIterator[Stack]:
    with temporary_home() as home:
        (home / "logs").mkdir(exist_ok=True)
        async with Processes(settings, home) as processes:
            gateway, consumer = [await processes.run(each) for each in ("gateway", "consumers")]
            yield Stack(processes, gateway, consumer)


async def is_held(process: Process, role: str) -> bool:
    async with ClientSession() as http, http.get(f"{process.admin_url}/metrics") as response:
        return f'seckill_role_held{{role="{role}"}} 1.0' in await response.text()


@pytest.fixture
def press(stack, ticket_for):
    """Grab as a new buyer; return the status and the body."""

    async def call(sale):
        buyer = f"buyer-{next(_buyers)}"
        async with (
            ClientSession(stack.gateway.url) as http,
            http.post(
                f"/v1/sales/{sale.sale_id}/grabs",
                headers={"Seckill-Ticket": ticket_for(sale, buyer)},
                json={"quantity": 1},
            ) as response,
        ):
            return response.status, await response.json(content_type=None)

    return call


@pytest.fixture
def postgresql_state(settings):
    states = PostgresStates(settings)

    def enter(name: str) -> AbstractAsyncContextManager[None]:
        verb, *code = name.split()
        return getattr(states, verb)(*code)

    return enter


@pytest.mark.parametrize("name", POSTGRESQL)
async def test_postgresql_refuses_and_what_is_accepted_is_placed_later(
    stack, press, open_sale, assert_balanced, postgresql_state, name
):
    sale = await open_sale()
    assert (await press(sale))[0] == 202
    await assert_balanced(sale)
    stack.forget()
    async with postgresql_state(name):
        for _ in range(3):
            assert (await press(sale))[0] == 202

        async def held_and_logged():
            held = await is_held(stack.consumer, "place_orders")
            return held and stack.logged(stack.consumer, POSTGRESQL[name])

        await eventually(held_and_logged, f"held by {name}")
    ledger = await assert_balanced(sale)
    assert ledger.lines["orders pending"] == 4
    stack.assert_logged_once(stack.consumer, f"PostgreSQL.*({POSTGRESQL[name]})")
    stack.assert_undisturbed()


@pytest.fixture
def redis_state(settings):
    states = RedisStates(settings)
    return {
        "demoted": states.demoted,
        "full": lambda: states.configured(maxmemory="1"),
        "few replicas": lambda: states.configured(min_replicas_to_write="1"),
        "no evalsha": lambda: states.without_right("evalsha"),
    }


@pytest.mark.parametrize("name", REDIS)
async def test_redis_refuses_and_buyers_read_why(
    stack, press, open_sale, assert_balanced, redis_state, name
):
    sale = await open_sale()
    assert (await press(sale))[0] == 202
    stack.forget()
    async with redis_state[name]():
        for _ in range(3):
            status, problem = await press(sale)
            assert (status, problem["code"]) == (503, "unavailable")
            assert problem["detail"] == f"Redis refuses: {REDIS[name]}"
        stack.assert_logged_once(stack.gateway, f"Redis refuses: {REDIS[name]}")

        async def held():
            return stack.logged(stack.consumer, f"Redis refuses: {REDIS[name]}")

        await eventually(held, f"roles are held by {name}")

    async def sells():
        return (await press(sale))[0] == 202

    await eventually(sells, "the sale goes on")
    await assert_balanced(sale)
    stack.assert_logged_once(stack.gateway, REDIS[name])
    stack.assert_logged_once(stack.consumer, REDIS[name])
    stack.assert_undisturbed()


@pytest.mark.parametrize("name", RABBITMQ)
async def test_rabbitmq_refuses_and_grabs_wait_in_the_outbox(
    stack, press, open_sale, assert_balanced, settings, services, name
):
    sale = await open_sale()
    assert (await press(sale))[0] == 202
    stack.forget()
    async with getattr(RabbitStates(settings, services), name)():

        async def logged():
            assert (await press(sale))[0] == 202
            return stack.logged(stack.gateway, RABBITMQ[name])

        await eventually(logged, f"the gateway says {name}")
    await assert_balanced(sale)
    stack.assert_logged_once(stack.gateway, RABBITMQ[name])
    stack.assert_undisturbed()


async def test_a_sale_whose_keys_are_broken_holds_no_other_sale_and_is_rebuilt(
    stack, press, open_sale, store, assert_balanced
):
    broken, other = await open_sale(), await open_sale(payment_window_s=1)
    assert (await press(broken))[0] == 202
    await assert_balanced(broken)
    stack.forget()
    key = redis_keys.stock(broken.sale_id)
    await store.delete(key)
    await store.lpush(key, "no number")
    for _ in range(3):
        status, problem = await press(broken)
        assert (status, problem["code"]) == (503, "unavailable")
        assert "of this sale" in problem["detail"]
    assert (await press(other))[0] == 202

    async def returned():
        ledger = await assert_balanced(other)
        return ledger.lines["orders cancelled"] == 1

    await eventually(returned, "the other sale places, expires and returns")
    stack.assert_logged_once(stack.gateway, f"sale {broken.sale_id} is broken: WRONGTYPE")
    code, _, complaints = await stack.ask("sale", "rebuild", broken.sale_id)
    assert code == 0, complaints
    assert (await press(broken))[0] == 202
    await assert_balanced(broken)
    stack.assert_undisturbed()


async def test_a_message_that_is_slow_by_itself_waits_in_a_retry_queue(
    stack, press, open_sale, settings, assert_balanced
):
    slow, other = await open_sale(), await open_sale()
    async with PostgresStates(settings).slow_for(slow.sale_id):
        for _ in range(2):
            assert (await press(slow))[0] == 202
            assert (await press(other))[0] == 202

        async def retried():
            return stack.logged(stack.consumer, "orders.place: attempt 1 failed.*TimedOut")

        await eventually(retried, "the slow message has failed", within_s=60)
        await assert_balanced(other)
    await assert_balanced(slow)
    assert (stack.gateway.child.pid, stack.consumer.child.pid) == stack.pids


async def test_the_pool_outlives_what_postgresql_says(
    stack, press, open_sale, assert_balanced, settings, postgresql_state
):
    sale = await open_sale()
    assert (await press(sale))[0] == 202
    stack.forget()
    with temporary_home() as home:
        async with RunningPool(settings, home) as pool:
            await pool.start(consumers=1)
            pids, log = await pool.pids(), home / "logs" / "consumers-1.log"
            for name in ("read_only", "other_password"):
                async with postgresql_state(name):
                    assert (await press(sale))[0] == 202

                    async def logged(words=POSTGRESQL[name]):
                        return re.search(words, log.read_text())

                    await eventually(logged, f"a worker says {name}")
                    assert await pool.pids() == pids
                await assert_balanced(sale)
            assert await pool.pids() == pids
            assert {worker["restarts"] for worker in (await pool.workers()).values()} == {0}
    stack.assert_undisturbed()
