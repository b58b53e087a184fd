"""`python -m loadtest.drills.bad_clients`: an honest buyer's wait beside clients that misbehave.

A gateway has a core to itself. Beside one kind of misbehaviour after the other, honest buyers come
at a gentle rate, each with a connection of their own, and grab.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import trustme
import typer

from loadtest.crowd.latencies import percentile
from loadtest.drills.misbehaviour import ALL, Misbehaviour, misbehaving
from loadtest.drills.overload import resident_mb
from loadtest.findings import AsJson, Finding, counts_text, ledger_finding, measure, none_of
from loadtest.stack import (
    OTHER_CORE,
    TESTED_CORE,
    BenchStack,
    Process,
    require_two_cores,
    temporary_stack,
)
from ops.processes.ports import LOOPBACK
from seckill.sales.sales import Sale

#: Honest buyers a second: so few that they are no load, and enough for a p99 in ten seconds.
HONEST_RATE = 40
#: How long one waits, and what is promised to 99 of 100.
PATIENCE_S, PROMISED_MS = 5.0, 150
#: Between two looks at the gateway's memory.
LOOK_S = 0.2


@dataclass(slots=True)
class Honest:
    """What became of the honest buyers."""

    waits_ms: list[float] = field(default_factory=list)
    #: By status, or by what happened instead of an answer.
    otherwise: Counter[str] = field(default_factory=Counter)


def main(
    seconds: Annotated[int, typer.Option(help="Beside each misbehaviour.", min=3)] = 10,
    as_json: AsJson = False,
) -> None:
    """Let clients misbehave, and honest buyers grab beside them."""
    require_two_cores()
    measure(_drill(seconds), as_json)


async def _drill(seconds: int) -> list[Finding]:
    findings, sales = [], dict[str, Sale]()
    async with temporary_stack(OTHER_CORE) as stack:
        authority = trustme.CA()
        certificate = _certificate(authority, stack.home)
        for kind in (Misbehaviour("none", 0), *ALL):
            gateway = await stack.run("gateway", TESTED_CORE, **(certificate if kind.tls else {}))
            sale = sales[kind.name] = await stack.open_sale()
            tls = ssl.create_default_context() if kind.tls else None
            if tls is not None:
                authority.configure_trust(tls)
            findings += await _beside(stack, gateway, kind, sale, seconds, tls)
            await gateway.child.stop()
        await stack.run("consumers")
        for name, sale in sales.items():
            findings.append(
                replace(ledger_finding(await stack.verify(sale)), name=f"beside {name}: ledger")
            )
    return findings


def _certificate(authority: trustme.CA, home: Path) -> dict[str, str]:
    """Write a certificate and its key; return the settings that name them."""
    issued = authority.issue_cert(LOOPBACK)
    cert, key = home / "cert.pem", home / "key.pem"
    cert.write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    return {"SECKILL_TLS_CERT": str(cert), "SECKILL_TLS_KEY": str(key)}


async def _beside(
    stack: BenchStack,
    gateway: Process,
    kind: Misbehaviour,
    sale: Sale,
    seconds: int,
    tls: ssl.SSLContext | None,
) -> list[Finding]:
    port, pid = int(gateway.url.rpartition(":")[2]), gateway.child.pid or 0
    before_mb = peak_mb = resident_mb(pid)
    cpu_s = gateway.cpu_s()
    async with misbehaving(kind, (LOOPBACK, port), sale.sale_id):
        grabbing = asyncio.create_task(_grab(stack, port, sale, seconds, tls))
        while not grabbing.done():
            peak_mb = max(peak_mb, resident_mb(pid))
            await asyncio.wait({grabbing}, timeout=LOOK_S)
        honest = await grabbing
        cpu_s = gateway.cpu_s() - cpu_s
    waits = sorted(honest.waits_ms)
    p50, p99 = (percentile(waits, share) if waits else 0.0 for share in (0.5, 0.99))
    name = f"beside {kind.name}"
    return [
        Finding(
            f"{name}: an honest 202",
            f"{len(waits)} of them, p50 {p50:,.0f} ms, p99 {p99:,.0f} ms",
            f"p99 at most {PROMISED_MS} ms",
            bool(waits) and p99 <= PROMISED_MS,
        ),
        replace(
            none_of(f"{name}: answered otherwise", honest.otherwise.total()),
            value=counts_text(honest.otherwise) or "0",
        ),
        Finding(f"{name}: memory", f"{before_mb:.0f} MB before, {peak_mb:.0f} MB at most"),
        Finding(f"{name}: CPU of the gateway", f"{cpu_s:.1f} s"),
    ]


async def _grab(
    stack: BenchStack, port: int, sale: Sale, seconds: int, tls: ssl.SSLContext | None
) -> Honest:
    """Let honest buyers come, each when it is their time."""
    honest, start = Honest(), time.monotonic()
    async with asyncio.TaskGroup() as buyers:
        for n, (_, _, ticket) in enumerate(stack.tickets([sale], HONEST_RATE * seconds)):
            due = start + n / HONEST_RATE
            await asyncio.sleep(due - time.monotonic())
            buyers.create_task(_buy(honest, port, sale.sale_id, ticket, due, tls))
    return honest


async def _buy(
    honest: Honest, port: int, sale_id: str, ticket: str, due: float, tls: ssl.SSLContext | None
) -> None:
    """Connect, grab, and read the answer; the wait counts from when it was due."""
    head = (
        f"POST /v1/sales/{sale_id}/grabs HTTP/1.1\r\nHost: x\r\nSeckill-Ticket: {ticket}\r\n"
        "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
    )
    writer = None
    try:
        async with asyncio.timeout(PATIENCE_S):
            reader, writer = await asyncio.open_connection(LOOPBACK, port, ssl=tls)
            writer.write(head.encode())
            line = await reader.readline()
        status = line[9:12].decode() or "no answer"
    except (OSError, TimeoutError) as error:
        status = type(error).__name__
    finally:
        if writer is not None:
            with suppress(OSError):
                writer.close()
    if status == "202":
        honest.waits_ms.append(1000 * (time.monotonic() - due))
    else:
        honest.otherwise[status] += 1


if __name__ == "__main__":
    typer.run(main)
