"""`python -m loadtest.crowd.ceiling`: the most that the open-loop generator can offer, by itself.

It offers to a server that answers every grab at once with the same bytes, at higher and higher
rates, until the run is no longer valid. What a gateway is offered should stay well below. With
`--connection-each` each grab opens a connection.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Annotated, cast

import typer
import uvloop

from loadtest.crowd.generator_processes import offer_each
from loadtest.crowd.grab_http import grab_bytes
from loadtest.crowd.offer import offer
from loadtest.crowd.report import CPU_SHARE_MAX, CrowdReport
from loadtest.crowd.requests import PlannedRequest
from loadtest.crowd.schedule import Schedule
from loadtest.findings import Finding, measure
from loadtest.stack import OTHER_CORE, TESTED_CORE, pinned, require_two_cores

FIRST_RATE = 5_000
#: Each rate is so many times the one before.
STEP = 1.4
#: A run that answers less than this share in time has met the server's ceiling, or the machine's.
ANSWERED_LEAST = 0.99
CONNECTIONS = 1_000
#: With a connection each: more than wait to be accepted at any valid rate.
BACKLOG = 4_096
PATIENCE_S = 2.0
#: As long as a real ticket.
TICKET = "k1~1764000000~b%d~0123456789abcdef0123456789abcdef"

_BODY = b'{"order_id":"0193652c-7d80-8000-8000-0123456789ab","status":"queued","next_poll_ms":500}'
_ANSWER = (
    b"HTTP/1.1 202 Accepted\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n"
    b"Referrer-Policy: no-referrer\r\n"
    b"Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n"
    b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nServer: seckill\r\n\r\n%b"
) % (len(_BODY), _BODY)


class _Accepting(asyncio.Protocol):
    """Answers 202 to whatever comes: over loopback a grab comes in one piece."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_ANSWER)


def _serve(port_to: Connection) -> None:
    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Accepting, "127.0.0.1", 0, backlog=BACKLOG)
        port_to.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    with pinned(TESTED_CORE):
        uvloop.run(serve())


@contextmanager
def _server() -> Iterator[str]:
    """Run the server in a process of its own; yield its address."""
    spawning = multiprocessing.get_context("spawn")
    port_from, port_to = spawning.Pipe()
    process = spawning.Process(target=_serve, args=(port_to,), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{port_from.recv()}"
    finally:
        process.terminate()
        process.join()


Offered = Callable[[Sequence[PlannedRequest]], Awaitable[CrowdReport]]


async def _climb(offered: Offered, seconds: float) -> list[CrowdReport]:
    """Offer more and more; return the runs, the last of which was too much."""
    reports: list[CrowdReport] = []
    rate = float(FIRST_RATE)
    while not reports or _kept_up(reports[-1]):
        dues = Schedule(rate=rate, seconds=seconds).due_times()
        grabs = [PlannedRequest(s, grab_bytes("demo", TICKET % n)) for n, s in enumerate(dues)]
        reports.append(await offered(grabs))
        rate *= STEP
    return reports


def _kept_up(report: CrowdReport) -> bool:
    return report.valid and report.answered_per_s() >= ANSWERED_LEAST * report.offered_per_s


async def _ceiling(seconds: float, connection_each: bool) -> list[Finding]:
    with _server() as url:

        async def offered(grabs: Sequence[PlannedRequest]) -> CrowdReport:
            if connection_each:
                return await offer_each(
                    url, grabs, seconds, patience_s=PATIENCE_S, cores=OTHER_CORE
                )
            return await offer(url, grabs, seconds, connections=CONNECTIONS, cores=OTHER_CORE)

        *good, too_much = await _climb(offered, seconds)
    findings = []
    for report in (*good, too_much):
        rate, share = report.offered_per_s, report.cpu_share()
        text = (
            f"{share:.0%} of a core, {1e6 * share / rate:.1f} us each; "
            f"p99 {report.latency_ms(0.99, 202):.1f} ms, {report.late_ms(0.99):.1f} ms late"
        )
        reached = None if report is too_much else True
        findings.append(Finding(f"{rate:,.0f}/s", text, "valid, and answered in time", reached))
    text = f"{good[-1].offered_per_s:,.0f}/s on one core" if good else "below the first rate"
    name = f"ceiling, at most {CPU_SHARE_MAX:.0%} of a core"
    return [*findings, Finding(name, text, "", bool(good))]


def main(
    seconds: Annotated[float, typer.Option(help="Length of each run.", min=1)] = 3,
    connection_each: Annotated[
        bool, typer.Option("--connection-each", help="Each grab opens one.")
    ] = False,
) -> None:
    """Find out how many grabs a second the generator can offer."""
    require_two_cores()
    measure(_ceiling(seconds, connection_each))


if __name__ == "__main__":
    typer.run(main)
