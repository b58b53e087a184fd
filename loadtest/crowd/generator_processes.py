"""Runs the generator of `connection_each.py` in processes of its own, which share the requests.

report = await offer_each(url, requests, seconds, patience_s=2.0)

A process takes every n-th request. All begin at the same moment of the clock, when the last of them
is ready.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import resource
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

from loadtest.crowd.connection_each import FILES_RESERVED, ConnectionEach
from loadtest.crowd.generator import Crowd, without_garbage_collection
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import NoAnswer, PlannedRequest
from loadtest.stack import Cores, pinned
from seckill.errors import SeckillError, UserMistake

#: The time from "all are ready" until all know it.
START_S = 0.1

#: What goes to a process and comes back: no more than that, for there may be 500,000 of them.
_Planned = list[tuple[float, bytes]]
_Ended = list[tuple[float, float, int, int, NoAnswer]]


async def offer_each(
    url: str,
    requests: Sequence[PlannedRequest],
    seconds: float,
    *,
    patience_s: float,
    sale_ids: Iterable[str] = (),
    gateways: int = 1,
    processes: int = 1,
    cores: Cores = None,
) -> CrowdReport:
    """Open a connection for each request when it is due, and report on so many seconds.

    Beforehand each of so many gateways reads the sales.
    """
    address = _address_of(url)
    crowd = Crowd(*address, connections_max=1)
    try:
        for sale_id in sale_ids:
            await crowd.warm_up(sale_id, gateways)
    except OSError as error:
        raise SeckillError(f"{url} cannot be reached: {error}") from error
    with _more_files():
        return await asyncio.to_thread(
            _offer, address, requests, seconds, patience_s, processes, cores
        )


def _offer(
    address: tuple[str, int],
    requests: Sequence[PlannedRequest],
    seconds: float,
    patience_s: float,
    processes: int,
    cores: Cores,
) -> CrowdReport:
    shares = [requests[n::processes] for n in range(processes)]
    notes = []
    with pinned(cores), _running([(address, seconds, patience_s)] * processes) as links:
        for link, share in zip(links, shares, strict=True):
            link.send([(request.due_s, request.payload) for request in share])
        for link in links:
            _receive(link)  # it is ready
        start = time.monotonic() + START_S
        for link in links:
            link.send(start)
        for link, share in zip(links, shares, strict=True):
            ended, cpu_notes = _receive(link)
            notes.append(CrowdReport(seconds, cpu_notes=cpu_notes))
            for request, end in zip(share, ended, strict=True):
                request.sent_s, request.answered_s, request.status = end[:3]
                request.retry_after_s, request.no_answer = end[3:]
    # The busiest is the first that may be too late.
    busiest = max(notes, key=CrowdReport.busiest_cpu_share)
    return CrowdReport(seconds, list(requests), busiest.cpu_notes)


@contextmanager
def _running(jobs: list[tuple[tuple[str, int], float, float]]) -> Iterator[list[Connection]]:
    """Start a process for each job; yield the links to them, and end them."""
    spawning = multiprocessing.get_context("spawn")  # a fork would have our threads' locks
    links, started = [], []
    try:
        for job in jobs:
            link, other = spawning.Pipe()
            process = spawning.Process(target=_generate, args=(other, *job), daemon=True)
            process.start()
            other.close()
            links.append(link)
            started.append(process)
        yield links
    finally:
        for process in started:
            process.terminate()
            process.join()


def _receive(link: Connection) -> tuple[_Ended, list[tuple[float, float]]]:
    try:
        said: tuple[_Ended, list[tuple[float, float]]] | str = link.recv()
    except EOFError as error:
        raise SeckillError("the generator's process has died") from error
    if isinstance(said, str):
        raise SeckillError(f"the generator failed: {said}")
    return said


def _generate(
    link: Connection, address: tuple[str, int], seconds: float, patience_s: float
) -> None:
    """Take requests and a start from the link, and send what became of them."""
    with without_garbage_collection():
        planned: _Planned = link.recv()
        requests = [PlannedRequest(due_s, payload) for due_s, payload in planned]
        link.send(([], []))
        start: float = link.recv()
        try:
            report = ConnectionEach(address, patience_s).run(requests, seconds, start)
        except OSError as error:  # no port left, for example: nothing of the gateway's
            link.send(str(error))
            return
        ended = [(r.sent_s, r.answered_s, r.status, r.retry_after_s, r.no_answer) for r in requests]
        link.send((ended, report.cpu_notes))


def _address_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise UserMistake(f"--url {url}: give an address like http://127.0.0.1:8080")
    try:
        return socket.gethostbyname(parts.hostname), parts.port or 80
    except OSError as error:
        raise SeckillError(f"{url} cannot be reached: {error}") from error


@contextmanager
def _more_files() -> Iterator[None]:
    """Let processes that are started meanwhile open as many files as this user may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard <= FILES_RESERVED:
        raise UserMistake(f"this user may open {hard} files; type: ulimit -Hn 20000")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
