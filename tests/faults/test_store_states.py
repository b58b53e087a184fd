"""A store lives and refuses: the work is held, the cause is logged once, and it goes on after.

One gateway and one process of all roles go through all states. docs/store-states.md has the table.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import ClientSession

from loadtest.store_states.postgresql import PostgresStates
from loadtest.store_states.states import STATES, StoreState
from ops.stack.services import temporary_home
from seckill.adapters import redis_keys
from seckill.outages import RELAPSE_S
from tests.pools import RunningPool
from tests.processes import Process, Processes, eventually

_buyers = itertools.count(1)

#: Longest wait for a look, a reconnect and an answer on a machine that does other things, too.
PATIENCE_S = 60.0
#: A cause that comes back counts as the same outage for RELAPSE_S: that is waited for, too.
CALM_S = RELAPSE_S + PATIENCE_S
TITLES = {"postgresql": "PostgreSQL", "redis": "Redis", "rabbitmq": "RabbitMQ"}


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
        """The cause of an outage is one line, however long it lasts."""
        assert self.logged(process, words) == 1, self.lines(process)

    def outage_of(self, store: str) -> str:
        """Return the log since an outage of a store that is not over; "" if it is."""
        for process in (self.gateway, self.consumer):
            text = self._log(process).read_text()
            _, _, since = text.rpartition(f"{TITLES[store]} works again")
            if f"seckill.outages: {TITLES[store]}" in since:
                return f"{process.child.name}: {since}"
        return ""

    def logged(self, process: Process, words: str) -> int:
        """Return how many lines have these words."""
        return sum(bool(re.search(words, line)) for line in self.lines(process))


async def troubles(process: Process) -> set[str]:
    """Return what a process counts of failures and of roles that wait."""
    counts = re.compile("seckill_(store_failures_total|role_errors_total|role_held)")
    async with ClientSession() as http, http.get(f"{process.admin_url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return {f"{process.child.name}: {line}" for line in lines if counts.match(line)}


@pytest.fixture(scope="module")
async def stack(settings) -> AsyncIterator[Stack]:
    with temporary_home() as home:
        (home / "logs").mkdir(exist_ok=True)
        async with Processes(settings, home) as processes:
            gateway, consumer = [await processes.run(each) for each in ("gateway", "consumers")]
            yield Stack(processes, gateway, consumer)


async def holds(process: Process, role: str) -> bool:
    async with ClientSession() as http, http.get(f"{process.admin_url}/metrics") as response:
        return f'seckill_role_held{{role="{role}"}} 1.0' in await response.text()


async def probe(process: Process) -> tuple[int, str, dict[str, str]]:
    """Return what a process answers to probes."""
    async with ClientSession(process.admin_url) as http:
        async with http.get("/livez") as alive:
            assert alive.status == 200
        async with http.get("/readyz") as ready:
            body = await ready.json()
            return ready.status, body["status"], body["reasons"]


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


#: What `/readyz` says of a state that a look meets: of a gateway, and of a consumer.
REPORTS = {
    "redis": ((503, "unready"), (503, "unready")),
    "postgresql": ((200, "degraded"), (503, "unready")),
    "rabbitmq": ((200, "degraded"), (503, "unready")),
}


async def until_reported(stack: Stack, state: StoreState) -> None:
    """Wait until both processes report a state as it is; they answer while it lasts."""
    whole = (200, "ready"), (200, "degraded")  # a consumer says which roles wait
    wanted = REPORTS[state.store] if state.is_seen else whole
    for process, report in zip((stack.gateway, stack.consumer), wanted, strict=True):
        found = None

        async def says(process=process, report=report):
            nonlocal found
            *found, reasons = await probe(process)
            found.append(reasons)
            if not state.is_seen:
                return (*found[:2],) == report and state.store not in reasons
            return (*found[:2],) == report and re.search(state.words, reasons.get(state.store, ""))

        try:
            await eventually(says, "", within_s=PATIENCE_S)
        except AssertionError:
            raise AssertionError(f"{process.child.name} says {found}, not {report}") from None


async def until_placing_is_held(stack: Stack) -> None:
    async def held():
        return await holds(stack.consumer, "place_orders")

    await eventually(held, "orders wait", within_s=PATIENCE_S)


async def until_calm(stack: Stack, store: str) -> None:
    """Wait until the last outage of a store is over in both processes."""

    async def is_calm():
        return not stack.outage_of(store)

    async def all_troubles():
        return await troubles(stack.gateway) | await troubles(stack.consumer)

    before = await all_troubles()
    try:
        await eventually(is_calm, "", within_s=CALM_S)
    except AssertionError:
        later = await all_troubles()
        waits = (line for line in later if "role_held" in line and line.endswith(" 1.0"))
        found = "\n".join([*sorted(before - later), "became", *sorted(later - before), *waits])
        raise AssertionError(f"{stack.outage_of(store)}\nwhile it should end:\n{found}") from None


@pytest.mark.timeout(300)
@pytest.mark.parametrize("state", STATES, ids=lambda state: f"{state.store} {state.name}")
async def test_a_store_refuses_all_is_held_and_goes_on_after_the_cure(
    stack, press, open_sale, assert_balanced, services, state
):
    async def sells():
        return (await press(sale))[0] == 202

    await until_calm(stack, state.store)
    sale = await open_sale()
    await eventually(sells, "the gateway sells", within_s=PATIENCE_S)
    await assert_balanced(sale, wait_s=PATIENCE_S)
    stack.forget()
    async with state.enter(services):
        for _ in range(2):
            status, problem = await press(sale)
            if state.store == "redis":
                assert (status, problem["code"]) == (503, "unavailable")
                assert problem["detail"].startswith("Redis ")
            else:
                assert status == 202
        if state.store == "postgresql":
            await until_placing_is_held(stack)
        await until_reported(stack, state)
    await eventually(sells, "the gateway sells again", within_s=PATIENCE_S)
    ledger = await assert_balanced(sale, wait_s=PATIENCE_S)
    assert ledger.lines["orders pending"] == (2 if state.store == "redis" else 4)
    for process in (stack.gateway, stack.consumer):

        async def is_ready(process=process):
            return (await probe(process))[:2] == (200, "ready")

        await eventually(is_ready, "it is ready again", within_s=PATIENCE_S)
        if state.is_seen or process is stack.consumer:
            stack.assert_logged_once(process, f"{TITLES[state.store]}.*({state.words})")
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
    stack, press, open_sale, services, assert_balanced
):
    slow, other = await open_sale(), await open_sale()
    async with PostgresStates(services).slow_for(slow.sale_id):
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
    stack, press, open_sale, assert_balanced, settings, services
):
    sale = await open_sale()
    assert (await press(sale))[0] == 202
    stack.forget()
    with temporary_home() as home:
        async with RunningPool(settings, home) as pool:
            await pool.start(consumers=1)
            pids, log = await pool.pids(), home / "logs" / "consumers-1.log"
            states = PostgresStates(services)
            for state, words in (
                (states.read_only, "25006|cannot execute|read_only is on"),
                (states.other_password, "password authentication failed"),
            ):
                async with state():
                    assert (await press(sale))[0] == 202

                    async def logged(words=words):
                        return re.search(words, log.read_text())

                    await eventually(logged, f"a worker says {words}")
                    assert await pool.pids() == pids
                await assert_balanced(sale)
            assert await pool.pids() == pids
            assert {worker["restarts"] for worker in (await pool.workers()).values()} == {0}
    stack.assert_undisturbed()
