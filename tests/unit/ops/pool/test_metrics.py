"""Figures of roles, added up over workers that come and go; what is unknown stays unknown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from io import StringIO

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer
from rich.console import Console

from ops.cli.pool import not_in_force
from ops.cli.pool_tables import tables
from ops.pool.metrics import Figures, parse, running_roles
from ops.pool.plan import WorkerDuty
from seckill.health.backlogs import Backlog

METRICS = """\
# TYPE seckill_role_in_hand gauge
seckill_role_in_hand{{role="place_orders"}} {in_hand}
# TYPE seckill_role_done counter
seckill_role_done_total{{role="place_orders"}} {done}
seckill_role_done_created{{role="place_orders"}} 1.7e+09
# TYPE seckill_role_oldest_age_seconds gauge
seckill_role_oldest_age_seconds{{role="place_orders"}} {age}
# TYPE seckill_role_errors counter
seckill_role_errors_total{{role="place_orders"}} {errors}
# TYPE seckill_role_running gauge
seckill_role_running{{role="place_orders"}} 1.0
seckill_role_running{{role="sweep"}} 0.0
# TYPE seckill_grabs counter
seckill_grabs_total{{verdict="accepted"}} 3.0
"""


def metrics(in_hand: int = 0, done: int = 0, age: float = 0, errors: int = 0) -> str:
    return METRICS.format(in_hand=in_hand, done=done, age=age, errors=errors)


def test_only_the_figures_of_roles_are_picked() -> None:
    scraped = parse(metrics(in_hand=3, done=7))
    assert scraped.keys() == {"place_orders", "sweep"}
    assert scraped["place_orders"]["in_hand"] == 3
    assert scraped["place_orders"]["done_total"] == 7
    assert running_roles(scraped) == ["place_orders"]
    assert running_roles(None) == []


def test_the_parts_of_a_role_are_added_up() -> None:
    """But of their ages the oldest counts."""
    text = metrics(in_hand=3, done=7, age=5)
    part = text.replace('role="place_orders"', 'role="place_orders other"').replace(" 5", " 4")
    lines = [line for line in part.splitlines() if "other" in line and "_created" not in line]
    both = parse(f"{text}{chr(10).join(lines)}\n")["place_orders"]
    assert (both["in_hand"], both["done_total"], both["oldest_age_seconds"]) == (6, 14, 5)


class FakeWorker:
    """Answers /metrics with whatever it has."""

    def __init__(self) -> None:
        self.text = metrics()

    async def answer(self, _: web.Request) -> web.Response:
        return web.Response(text=self.text)


@pytest.fixture
async def worker() -> AsyncIterator[tuple[FakeWorker, str]]:
    fake, app = FakeWorker(), web.Application()
    app.router.add_get("/metrics", fake.answer)
    async with TestServer(app) as server:
        yield fake, str(server.make_url("")).rstrip("/")


@pytest.fixture
async def figures() -> AsyncIterator[Figures]:
    async with ClientSession() as session:
        yield Figures(session)


def row(
    figures: Figures, workers: dict, backlog: Backlog | None = None, duty: WorkerDuty | None = None
):
    return figures.of_role("place_orders", duty or WorkerDuty(2), workers.values(), backlog, 0)


async def test_figures_of_workers_are_added_up(figures: Figures, worker) -> None:
    fake, url = worker
    fake.text = metrics(in_hand=2, age=1.5)
    scraped = await figures.scrape({1: url, 2: url, 3: "http://127.0.0.1:1"})
    found = row(figures, scraped, Backlog(9, 4.0, consumers=2))
    assert scraped[3] is None
    assert (found["running"], found["in_hand"], found["backlog"]) == (2, 4, 9)
    assert found["oldest_age_s"] == 1.5, "what is in flight is known; the queue's is an upper bound"


async def test_counts_survive_their_workers(figures: Figures, worker) -> None:
    fake, url = worker
    for pids, errors in (({1: url}, 3), ({1: url}, 5), ({2: url}, 1), ({2: url}, 1)):
        fake.text = metrics(errors=errors)
        scraped = await figures.scrape(pids)
    assert row(figures, scraped)["errors"] == 5 + 1


async def test_what_is_not_known_is_null_with_a_note(figures: Figures) -> None:
    found = row(figures, {1: None}, Backlog(None, note="RabbitMQ does not answer"))
    assert (found["backlog"], found["oldest_age_s"], found["consumers"]) == (None, None, None)
    assert found["note"] == "RabbitMQ does not answer"
    assert row(figures, {})["rate_per_s"] == 0


def status(*roles: dict[str, object]) -> dict[str, object]:
    worker = {"name": "consumers-1", "pid": 7, "admin_url": "http://h:1", "roles": ["place_orders"]}
    return {
        "manager": {"pid": 1, "since": "2026-01-01T00:00:00+00:00", "uptime_s": 5.0},
        "roles": list(roles),
        "workers": [
            {**worker, "age_s": 4.2, "restarts": 1, "answers": True},
            {**worker, "age_s": None, "pid": None, "restarts": 2, "answers": False, "roles": []},
        ],
    }


async def a_role(figures: Figures, **changes: object) -> dict[str, object]:
    return {**row(figures, await figures.scrape({}), Backlog(0, 0.0, consumers=1)), **changes}


@pytest.mark.parametrize(
    ("changes", "late"),
    [
        ({"wanted": 1, "running": 1}, False),
        ({"wanted": 2, "running": 1}, True),
        ({"wanted": 1, "running": 2}, True),
        ({"wanted": 2, "running": 2, "consumers": 1}, True),
        ({"wanted": 2, "running": 2, "consumers": None}, False),
        ({"wanted": 2, "running": 0, "paused": True, "consumers": 0}, False),
        ({"wanted": 2, "running": 1, "paused": True}, True),
        ({"role": "sweep", "wanted": 2, "running": 0}, False),  # not asked about
    ],
)
async def test_a_change_is_in_force_when_workers_and_broker_agree(figures, changes, late) -> None:
    assert bool(not_in_force(status(await a_role(figures, **changes)), ["place_orders"])) is late


async def test_the_table_shows_what_is_odd(figures: Figures) -> None:
    now = status(
        await a_role(figures, note="RabbitMQ does not answer", backlog=None),
        await a_role(figures, role="sweep", paused=True, min=1, max=4),
    )
    text = StringIO()
    Console(file=text, width=200).print(tables(now))
    shown = text.getvalue()
    for word in ("RabbitMQ does not answer", "paused", "1..4", "does not answer", "4 s"):
        assert word in shown
