"""`python -m loadtest.bench.tracing_costs`: CPU time of a gateway's code for a won grab, traced.

In one process, without sockets and stores: from the bytes of a request through parser, pipeline,
batch and message to the bytes of the answer, with answers of Redis and RabbitMQ that cost nothing.
So the share of tracing is larger here than in a gateway, whose system calls come on top. Rounds are
interleaved, and CPU time (with that of the exporting thread) is what other work disturbs least.

What is promised is promised of whole gateways (`tracing_gateways`); this shows small changes.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from types import SimpleNamespace
from typing import Annotated, Any, cast

import typer
from aiohttp import web

from config.settings import Settings
from gateway.grabs.parser import PlainGrab, read_plain_grab
from gateway.grabs.pipeline import GrabPipeline
from gateway.grabs.publisher import Breaker, GrabPublisher
from gateway.grabs.reservations import (
    RESERVATIONS,
    RedisClock,
    ReservationsBySale,
    SaleReservations,
)
from gateway.grabs.responses import RawResponses
from gateway.http.auth import TICKET_KEYS
from gateway.http.client_address import TRUSTED_PROXIES
from gateway.http.problems import Refused
from gateway.overload.concurrency_limit import GRABS_IN_FLIGHT, ConcurrencyLimit
from gateway.overload.poll_schedule import POLL_SCHEDULE, PollSchedule
from gateway.overload.rate_limiter import LIMITER
from loadtest.findings import AsJson, Finding, measure
from seckill.auth import tickets
from seckill.auth.key_ring import KeyRing
from seckill.inventory.reservations import Grab, GrabReply, Verdict
from seckill.spans import SPANS
from seckill.tracing.starting import tracing

#: Setting -> whether it traces, rate, bound in seconds.
SETTINGS = {
    "off": (False, 0.0, 60.0),
    "on, none is traced": (True, 0.0, 60.0),
    "1 % of all": (True, 0.01, 60.0),
    "all are slow": (True, 0.0, 0.0),
}
KEYS = KeyRing.parse("k:0123456789abcdef0123456789abcdef", setting="bench")
SALE = SimpleNamespace(sale_id="spring", number=1, per_order_max=2, total=10**9)
#: Grabs that come together, as in a busy sale.
TOGETHER = 128


class InstantStores:
    """Redis that accepts every grab, and RabbitMQ that confirms every message, for nothing."""

    async def grab(self, _sale_id: str, grabs: Sequence[Grab], **_: object) -> GrabReply:
        """Accept."""
        return GrabReply(0, [Verdict.ACCEPTED] * len(grabs), 1, 10**9, "1-0")

    async def publish(self, _body: bytes) -> None:
        """Confirm."""

    async def ack_outbox(self, _sale_id: str, _ids: Sequence[str]) -> None:
        """Drop."""


class Answered:
    """Renders its answer, as a connection does."""

    responses = RawResponses({})

    def __init__(self) -> None:
        self.answer = b""

    def respond(self, verdict: Verdict, body: bytes) -> None:
        """Render a verdict."""
        self.answer = self.responses.of(verdict, body)

    def refuse(self, refused: Refused) -> None:
        """Fail: no grab of this measurement is refused."""
        raise AssertionError(f"bug: {refused}")

    def shed(self) -> None:
        """Fail: no grab of this measurement is refused."""
        raise AssertionError("bug: shed")


def main(
    rounds: Annotated[int, typer.Option(help="Rounds of each setting.", min=4)] = 40,
    grabs: Annotated[int, typer.Option(help="Grabs of a round.", min=TOGETHER)] = 2_048,
    only: Annotated[str, typer.Option(help="Measure this setting alone.")] = "",
    as_json: AsJson = False,
) -> None:
    """Measure what tracing costs a grab."""
    measure(_costs(rounds, grabs, only), as_json)


async def _costs(rounds: int, grabs: int, only: str) -> list[Finding]:
    wanted = {name: each for name, each in SETTINGS.items() if only in ("", name)}
    costs: dict[str, list[float]] = {name: [] for name in wanted}
    pipeline, requests = _pipeline(), _requests(grabs)
    gc.freeze()  # as a gateway does
    gc.set_threshold(20_000)
    with _tracing():
        for number in range(rounds + 1):
            for name, values in wanted.items():
                SPANS.on, SPANS.rate, SPANS.slow_s = values
                cost_us = await _round(pipeline, requests)
                if number:  # whatever is slow the first time
                    costs[name].append(cost_us)
    # Other work on the machine makes rounds dearer, by what it throws out of the caches, and none
    # cheaper: the cheap quarter of the rounds says most.
    typical = {name: quantiles(each, n=4)[0] for name, each in costs.items()}
    findings = []
    for name in wanted:
        text = f"{typical[name]:.2f} us (median {median(costs[name]):.2f})"
        if "off" in typical:
            text += f", grabs a CPU second x {typical['off'] / typical[name]:.3f}"
        findings.append(Finding(f"a grab, tracing: {name}", text))
    return findings


@contextmanager
def _tracing() -> Iterator[None]:
    """Trace into a file for the whole measurement; the settings are switched in between."""
    with (
        tempfile.TemporaryDirectory() as home,
        tracing(Settings(home=Path(home), trace_rate=0), "bench"),
    ):
        yield


async def _round(pipeline: GrabPipeline, requests: Sequence[bytes]) -> float:
    """Return the CPU microseconds of a won grab."""
    begun = time.process_time()
    for at in range(0, len(requests), TOGETHER):
        clients = [Answered() for _ in requests[at : at + TOGETHER]]
        for client, data in zip(clients, requests[at:], strict=False):
            plain = cast(PlainGrab, read_plain_grab(data))
            pipeline.begin_grab(
                client,
                cast(Any, SALE),
                plain.ticket,
                plain.quantity or 1,
                "10.0.0.1",
                (plain.forwarded,),
                traceparent=plain.traceparent,
            )
        while not all(client.answer for client in clients):  # noqa: ASYNC110 - no wait: turns
            await asyncio.sleep(0)
    return 1e6 * (time.process_time() - begun) / len(requests)


def _pipeline() -> GrabPipeline:
    stores, clock = cast(Any, InstantStores()), RedisClock()

    def make(sale: Any) -> SaleReservations:  # noqa: ANN401 - a stand-in of a sale
        return SaleReservations(
            sale,
            stores,
            clock,
            lambda sale_id, done: GrabPublisher(sale_id, stores, Breaker(), done),
            cast(Any, None),
            batch_max=512,
            calls_max=2,
            spacing_s=0.0,
            call_timeout_s=1.0,
            outbox_max=10_000,
        )

    app = web.Application()
    app[TICKET_KEYS], app[TRUSTED_PROXIES] = KEYS, ()
    app[RESERVATIONS] = ReservationsBySale(make)
    app[GRABS_IN_FLIGHT], app[POLL_SCHEDULE] = ConcurrencyLimit(10**6, 60.0), PollSchedule(1_000)
    app[LIMITER] = cast(
        Any, SimpleNamespace(local_refusal=lambda *_: None, take=lambda *_: True, put=None)
    )
    app[RESERVATIONS].of(cast(Any, SALE)).selling = True
    return GrabPipeline(app)


def _requests(count: int) -> list[bytes]:
    until = int(time.time()) + 3600
    return [
        b"POST /v1/sales/spring/grabs HTTP/1.1\r\nHost: shop.example\r\n"
        b"Content-Type: application/json\r\nContent-Length: 14\r\nSeckill-Ticket: %b\r\n\r\n"
        b'{"quantity":1}'
        % tickets.issue(KEYS, sale_id="spring", buyer_id=f"b{n}", expires_at_s=until).encode()
        for n in range(count)
    ]


if __name__ == "__main__":
    typer.run(main)
