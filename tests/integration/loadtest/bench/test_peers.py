"""The servers that benchmarks compare with do the work that they are measured by."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
from aiohttp import ClientSession
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from redis.asyncio import Redis

import lua
from config.settings import Settings
from gateway.http.problems import Problem, problem_body
from loadtest.bench.peers import servers
from loadtest.bench.peers.servers import HELLO, NGINX, SOURCES, Peer, running
from ops.processes.child import StartFailed
from seckill import order_ids
from seckill.adapters import redis_keys
from seckill.inventory import outbox
from seckill.inventory.outbox import OutboxEntry
from seckill.inventory.reservations import Grab, SaleTerms, Stock
from seckill.order_ids import new_order_id

NUMBER, EPOCH = 7, 3
HOUR_MS = 3_600_000
#: What grab.lua is given by a caller that traces nothing and does not count its calls.
NO_TRACES_NO_COUNT = ("", "", 0, 0)


class Twins:
    """Two equal sales: single grabs go to grab.lua in one and to one_grab.lua in the other."""

    def __init__(self, redis: Redis) -> None:
        self.redis = redis
        self.stock = Stock(redis)
        self._grab = lua.register(redis, "grab")
        self._one_grab = redis.register_script((SOURCES / "one_grab.lua").read_text())
        #: Entries that are not settled yet, of either sale.
        self.entries: list[tuple[str, str]] = []

    async def open(self, units: int, *, per_order_max: int = 1, **terms: int) -> None:
        for sale_id in ("first", "second"):
            sale = SaleTerms(NUMBER, units, per_order_max, EPOCH, **terms)
            assert await self.stock.open_sale(sale_id, sale)

    async def set(self, **fields: str | int) -> None:
        for sale_id in ("first", "second"):
            await self.redis.hset(redis_keys.sale(sale_id), mapping=fields)

    async def delete(self, key_of: Any) -> None:
        await self.redis.delete(*map(key_of, ("first", "second")))

    async def grab(
        self,
        buyer_id: str,
        quantity: int = 1,
        *,
        settle: bool = False,
        wait_ms: int = HOUR_MS,
        outbox_max: int = 100,
    ) -> str:
        """Grab in both, and return what both reply: the letter, or the word for the call."""
        order_id = new_order_id(NUMBER)
        deadline_ms = await self.stock.now_ms() + wait_ms
        settled = self.entries.pop(0) if settle and self.entries else ("", "")
        first: list[Any] = await self._grab(
            keys=key_names("first"),
            args=[
                msgspec.msgpack.encode([[order_id, buyer_id, quantity]]),
                deadline_ms,
                msgspec.msgpack.encode(list(filter(None, [settled[0]]))),
                outbox_max,
                *NO_TRACES_NO_COUNT,
            ],
        )
        second: list[Any] = await self._one_grab(
            keys=key_names("second"),
            args=[order_id, buyer_id, quantity, deadline_ms, settled[1], outbox_max],
        )
        assert comparable(second) == comparable(first)
        assert await self.state("second") == await self.state("first")
        if first[0] != b"OK":
            return str(first[0].decode())
        if first[4]:
            self.entries.append((first[4].decode(), second[4].decode()))
        return str(first[5].decode())

    async def state(self, sale_id: str) -> tuple[object, ...]:
        """Return all that the keys of a sale hold, except when its entries were written."""
        return (
            await self.redis.get(redis_keys.stock(sale_id)),
            await self.redis.hgetall(redis_keys.sale(sale_id)),
            await self.redis.hgetall(redis_keys.holders(sale_id)),
            [(entry.epoch, entry.grabs) for entry in await self.outbox(sale_id)],
        )

    async def outbox(self, sale_id: str) -> list[OutboxEntry]:
        far = await self.stock.now_ms() + HOUR_MS
        return (await outbox.read_older_than(self.redis, sale_id, far, limit=1000))[0]

    async def conserved(self, sale_id: str) -> int:
        """Return the units of stock and holders together."""
        held = await self.redis.hvals(redis_keys.holders(sale_id))
        stock = int(await self.redis.get(redis_keys.stock(sale_id)))
        assert stock >= 0
        return stock + sum(int(text.rpartition(b":")[2]) for text in held)


def key_names(sale_id: str) -> list[str]:
    return [
        key(sale_id)
        for key in (redis_keys.stock, redis_keys.sale, redis_keys.holders, redis_keys.outbox)
    ]


def comparable(reply: list[Any]) -> list[Any]:
    """Return a reply without its time, and with the entry's id as whether there is one."""
    word, _, *rest = reply
    return [word, *rest[:2], *(bool(item) for item in rest[2:3]), *rest[3:]]


@pytest.fixture
def twins(redis: Redis) -> Twins:
    return Twins(redis)


# one_grab.lua.


async def test_an_accepted_grab_is_a_holder_an_outbox_entry_and_less_stock(twins: Twins) -> None:
    await twins.open(10, per_order_max=3)
    assert await twins.grab("ann", 3) == "A"
    assert await twins.redis.get(redis_keys.stock("second")) == b"7"
    (holder,) = (await twins.redis.hgetall(redis_keys.holders("second"))).items()
    assert holder[0] == b"ann"
    order_id, _, quantity = holder[1].decode().partition(":")
    (entry,) = await twins.outbox("second")
    assert (entry.epoch, entry.grabs) == (EPOCH, [Grab(order_id, "ann", int(quantity))])


async def test_a_repeat_gets_the_first_order_whatever_the_sale_says(twins: Twins) -> None:
    await twins.open(1)
    replies = [await twins.grab("ann") for _ in range(2)]
    for state in ("paused", "closed"):
        await twins.set(state=state)
        replies.append(await twins.grab("ann", 9))
    assert replies == ["A", "D", "D", "D"]


async def test_exactly_as_many_units_are_sold_as_there_are(twins: Twins) -> None:
    await twins.open(2)
    assert [await twins.grab(name) for name in ("ann", "bob", "cid", "ann")] == list("AASD")
    assert await twins.conserved("second") == 2


NOT_OPEN: dict[str, tuple[Mapping[str, str | int], str]] = {
    "created": ({"state": "created"}, "N"),
    "before its window": ({"opens_at_ms": 2**52}, "N"),
    "closed": ({"state": "closed"}, "C"),
    "after its window": ({"closes_at_ms": 1}, "C"),
    "paused after its window": ({"closes_at_ms": 1, "state": "paused"}, "C"),
    "paused": ({"state": "paused"}, "P"),
    "fenced": ({"state": "fenced"}, "FENCED"),
}


@pytest.mark.parametrize(("change", "reply"), NOT_OPEN.values(), ids=NOT_OPEN)
@pytest.mark.parametrize("units", [0, 5])
async def test_a_sale_that_is_not_open_refuses_before_quantity_and_stock(
    twins: Twins, change: Mapping[str, str | int], reply: str, units: int
) -> None:
    await twins.open(units)
    await twins.set(**change)
    assert await twins.grab("ann", 9) == reply


async def test_quantity_then_stock_then_outbox(twins: Twins) -> None:
    await twins.open(3, per_order_max=2)
    assert [await twins.grab("ann", n) for n in (0, 3, 2)] == list("QQA")
    assert [await twins.grab("bob", n, outbox_max=1) for n in (3, 2, 1)] == list("QSF")
    assert await twins.grab("bob", outbox_max=2) == "A"


async def test_a_grab_drops_the_entry_that_it_names_and_no_other(twins: Twins) -> None:
    await twins.open(9)
    for name in ("ann", "bob"):
        assert await twins.grab(name) == "A"
    assert await twins.grab("cid", settle=True) == "A"
    assert [entry.grabs[0].buyer_id for entry in await twins.outbox("second")] == ["bob", "cid"]


async def test_a_call_that_is_late_or_finds_no_sale_touches_nothing(twins: Twins) -> None:
    assert await twins.grab("ann") == "MISSING"
    await twins.open(9)
    assert await twins.grab("old") == "A"
    assert await twins.grab("ann", settle=True, wait_ms=-1) == "LATE"
    await twins.delete(redis_keys.stock)
    assert await twins.grab("ann") == "MISSING"


names = st.sampled_from([f"b{n}" for n in range(5)])
steps = st.one_of(
    st.tuples(names, st.integers(0, 4), st.booleans()),
    st.sampled_from(["open", "paused", "closed"]),
)


@hypothesis.settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(units=st.integers(0, 8), history=st.lists(steps, max_size=10))
async def test_both_scripts_agree_in_any_history(redis: Redis, units: int, history: list) -> None:
    await redis.flushdb()
    twins = Twins(redis)
    await twins.open(units, per_order_max=3)
    for step in history:
        if isinstance(step, str):
            await twins.set(state=step)
        else:
            buyer_id, quantity, settle = step
            await twins.grab(buyer_id, quantity, settle=settle, outbox_max=3)
        assert await twins.conserved("second") == units


# The servers.


@pytest.fixture
def nginx() -> Peer:
    if line := NGINX.missing():
        pytest.skip(line)
    return NGINX


@pytest.fixture
def redis_url(settings: Settings) -> str:
    """The database of the `redis` fixture."""
    return settings.redis_url.removesuffix("/0") + "/9"


def problem(kind: Problem) -> Any:
    return msgspec.json.decode(problem_body(kind))


async def grab(client: ClientSession, buyer_id: str) -> tuple[int, dict[str, Any]]:
    """Grab with a ticket whose MAC is not checked."""
    ticket = {"Seckill-Ticket": f"k1~4102444800~{buyer_id}~mac"}
    path = "/v1/sales/first/grabs"
    async with client.post(path, json={"quantity": 1}, headers=ticket) as answer:
        return answer.status, msgspec.json.decode(await answer.read())


async def test_nginx_sells_as_the_gateway_does(
    nginx: Peer, home: Path, redis_url: str, twins: Twins
) -> None:
    await twins.open(20)
    names = [f"b{n}" for n in range(30)]
    async with running(nginx, home, redis_url) as process, ClientSession(process.url) as client:
        answers = await asyncio.gather(*(grab(client, name) for name in names))
        await twins.redis.script_flush()
        again = {name: await grab(client, name) for name in names}
        assert await grab(client, "") == (401, problem(Problem.BAD_TICKET))

    got = dict(zip(names, answers, strict=True))
    assert Counter(status for status, _ in answers) == {202: 20, 409: 10}
    sold = {name: body["order_id"] for name, (status, body) in got.items() if status == 202}
    assert all(map(order_ids.PATTERN.match, sold.values()))
    for name in names:
        if order_id := sold.get(name):
            queued = {"order_id": order_id, "status": "queued", "next_poll_ms": 500}
            assert got[name] == (202, queued)
            assert again[name] == (200, {"order_id": order_id, "status": "yours"})
        else:
            assert got[name] == again[name] == (409, problem(Problem.SOLD_OUT))
    held = await twins.redis.hgetall(redis_keys.holders("first"))
    assert held == {name.encode(): f"{id_}:1".encode() for name, id_ in sold.items()}
    assert await twins.conserved("first") == 20
    assert await twins.outbox("first") == []  # each later grab, also a repeat, dropped one


async def test_nginx_refuses_with_our_constant(nginx: Peer, home: Path, redis_url: str) -> None:
    async with running(nginx, home, redis_url) as process, ClientSession(process.url) as client:
        for method in ("GET", "POST"):
            async with client.request(method, "/constant") as answer:
                assert (answer.status, answer.content_type) == (409, "application/problem+json")
                assert await answer.read() == problem_body(Problem.SOLD_OUT)


async def test_hello_says_hello_from_its_core(home: Path, redis_url: str) -> None:
    everywhere = os.sched_getaffinity(0)
    core = max(everywhere)
    assert HELLO.missing() == ""
    async with (
        running(HELLO, home, redis_url, core) as process,
        ClientSession(process.url) as client,
    ):
        assert os.sched_getaffinity(process.child.pid) == {core}
        assert os.sched_getaffinity(0) == everywhere
        for method in ("GET", "POST"):
            async with client.request(method, "/") as answer:
                assert (answer.status, await answer.text()) == (200, "hello")


async def test_a_peer_is_stopped_whatever_happens_beside_it(home: Path, redis_url: str) -> None:
    processes = []

    async def fail() -> None:
        async with running(HELLO, home, redis_url) as process:
            processes.append(process)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert [process.child.describe_end() for process in processes] == ["exited with 0"]


async def test_a_peer_that_does_not_start_raises_with_its_log(home: Path, redis_url: str) -> None:
    def prepare(*_: object) -> list[str | Path]:
        return ["sh", "-c", "echo it is broken; exit 3"]

    with pytest.raises(StartFailed, match=r"(?s)peer-broken exited with 3; .*it is broken"):
        async with running(Peer("broken", lambda: "", prepare), home, redis_url):
            pass


def test_what_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "NGINX_MODULES", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert NGINX.missing().startswith("nginx with Lua is missing; type: sudo apt-get install ")
    assert "\n" not in NGINX.missing()
