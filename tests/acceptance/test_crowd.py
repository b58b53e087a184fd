"""The crowd command at a gateway that runs: what it writes down is what happened."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from dataclasses import dataclass

import pytest

from config.settings import PROJECT_ROOT
from loadtest.crowd.grab_http import grab_bytes
from loadtest.crowd.offer import offer
from loadtest.crowd.requests import PlannedRequest
from loadtest.crowd.schedule import Schedule


@dataclass
class CommandResult:
    code: int
    output: str
    figures: dict


@pytest.fixture
def crowd(tmp_path):
    """Run the command: `await crowd("--rate", "100", …)`."""

    async def run(*options) -> CommandResult:
        file = tmp_path / "crowd.json"
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "loadtest.crowd", "--json", file, *options),
            cwd=PROJECT_ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output = (await process.communicate())[0].decode()
        figures = json.loads(file.read_text()) if file.exists() else {}
        return CommandResult(process.returncode, output, figures)

    return run


@pytest.fixture
def tickets_of(tmp_path, ticket_for):
    """Write a file as `seckill ticket SALE --count N --out FILE` does."""

    def write(sale, count):
        file = tmp_path / "tickets.tsv"
        buyers = [f"buyer-{n:07d}" for n in range(1, count + 1)]
        file.write_text("".join(f"{buyer}\t{ticket_for(sale, buyer)}\n" for buyer in buyers))
        return file

    return write


async def test_a_crowd_at_a_running_gateway_is_written_down_as_it_was(
    gateway, consumers, open_sale, crowd, tickets_of, assert_balanced
):
    sale = await open_sale(stock=120)
    where = ("--url", gateway.url, "--sale", sale.sale_id, "--tickets", tickets_of(sale, 200))
    terms = ("--rate", "100", "--seconds", "2", "--arrivals", "spike", "--connections", "50")
    result = await crowd(*where, *terms)
    figures = result.figures

    told = Counter(figures["told"])
    # A gateway that stood still for 0.1 s on a busy machine refuses what waited meanwhile.
    assert (told["202"], told["409"] + told["503"]) == (120, 80), result.output
    ledger = await assert_balanced(sale)
    assert ledger.lines["orders pending"] == 120
    # Whether this machine was quick enough is the run's own finding.
    assert (result.code == 0) is figures["valid"]
    assert figures["offered"] == 200
    assert figures["offered_per_s"] == 100
    assert set(figures["latency_ms"]) == set(figures["told"])
    # The time series has each of them once, in the tenth of a second that it was due in.
    series = figures["buckets"]
    assert len(series) == 20
    assert [sum(b["offered"] for b in part) for part in (series[:4], series[4:6])] == [10, 100]
    assert sum(bucket["offered"] for bucket in series) == 200
    for status, count in figures["told"].items():
        counts = [bucket["classes"].get(status, {"count": 0})["count"] for bucket in series]
        assert sum(counts) == count
    assert "ledger" not in result.output, "the stores are not the run's own"


@pytest.mark.parametrize("http", ["keep-alive", "close", "1.0"])
async def test_each_buyer_may_open_a_connection(
    gateway, consumers, open_sale, crowd, tickets_of, assert_balanced, http
):
    sale = await open_sale(stock=30)
    where = ("--url", gateway.url, "--sale", sale.sale_id, "--tickets", tickets_of(sale, 50))
    terms = ("--rate", "50", "--seconds", "1", "--http", http, "--processes", "2")
    result = await crowd(*where, *terms, "--connection-each", "--patience", "20")

    assert result.figures["endings"] == {"202": 30, "409": 20}, result.output
    assert (result.code == 0) is result.figures["valid"]
    assert (await assert_balanced(sale)).lines["orders pending"] == 30


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--url", "http://127.0.0.1:1"), "go together"),
        (("--gateway-cores", "999"), "give some of the cores"),
        (("--http", "close"), "need --connection-each"),
        (("--json", "/nowhere/to/be/found.json"), "cannot be written"),
    ],
)
async def test_a_mistake_in_the_options_is_reported_first(crowd, options, complaint):
    result = await crowd("--rate", "1", "--seconds", "1", *options)
    assert result.code == 2
    assert complaint in " ".join(result.output.replace("│", " ").split())


async def test_a_file_with_too_few_tickets_is_refused_before_anything_is_sent(
    gateway, open_sale, crowd, tickets_of, assert_balanced
):
    sale = await open_sale(stock=10)
    where = ("--url", gateway.url, "--sale", sale.sale_id, "--tickets", tickets_of(sale, 5))
    result = await crowd(*where, "--rate", "10", "--seconds", "1")
    assert result.code == 1
    assert "5 tickets, 10 are needed; type: seckill ticket" in result.output
    assert (await assert_balanced(sale)).lines["redis holders"] == 0


async def test_an_offer_can_be_made_from_a_program(gateway, consumers, open_sale, ticket_for):
    sale = await open_sale(stock=30)
    dues = Schedule(rate=100, seconds=0.5).due_times()
    requests = [
        PlannedRequest(due_s, grab_bytes(sale.sale_id, ticket_for(sale, f"b{n}")))
        for n, due_s in enumerate(dues)
    ]
    report = await offer(
        gateway.url, requests, 0.5, sale_ids=[sale.sale_id], gateways=2, connections=20
    )
    assert report.answers() == {202: 30, 409: 20}
    assert 0 < report.latency_ms(0.5, 202) <= report.latency_ms(0.99, 202, 409)
    assert 0 < report.cpu_share() <= report.busiest_cpu_share()
