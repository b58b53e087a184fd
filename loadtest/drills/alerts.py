"""`python -m loadtest.drills.alerts postgresql|redis|rabbitmq|consumers|none`: who is called, when.

A stack with a Prometheus beside it, private and on the loopback, with the rules of
deploy/prometheus. A flash crowd grabs all the while; something is frozen, and goes on again.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from aiohttp import ClientError, ClientSession

from config.settings import PROJECT_ROOT
from loadtest.crowd.offer import offer_grabs
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.schedule import Schedule
from loadtest.findings import AsJson, Finding, ledger_finding, measure
from loadtest.stack import BenchStack, Process, bench_stack
from loadtest.store_states.frozen import frozen
from ops.processes.child import Child, Spec
from ops.processes.ports import free_port
from ops.processes.scrape_targets import write_targets
from ops.stack.services import temporary_home
from seckill.errors import SeckillError

RULES = PROJECT_ROOT / "deploy" / "prometheus" / "rules.yml"
CONNECTIONS = 200
UNITS = 1_000_000
#: Long enough for every alert that has no business here to show, before something is frozen.
CALM_S = 45.0
#: Alerts that fired are over within this: windows of a minute, and what was held is placed.
RECOVERY_S = 150.0
CONFIG = """
global: {{scrape_interval: 2s, evaluation_interval: 2s}}
rule_files: ["{rules}"]
scrape_configs:
  - job_name: seckill
    file_sd_configs: [{{files: ["{home}/prometheus/*.json"], refresh_interval: 2s}}]
"""


class Fault(StrEnum):
    """What is frozen."""

    NONE = "none"
    REDIS = "redis"
    RABBITMQ = "rabbitmq"
    POSTGRESQL = "postgresql"
    CONSUMERS = "consumers"


#: The page that has to come. A frozen consumer does not answer Prometheus either.
EXPECTED = {
    Fault.REDIS: "SeckillRedisDoesNotWork",
    Fault.RABBITMQ: "SeckillRabbitMQDoesNotWork",
    Fault.POSTGRESQL: "SeckillPostgreSQLDoesNotWork",
    Fault.CONSUMERS: "SeckillConsumersAreDown",
}
#: What buyers are told meanwhile, where it is not 202 alone.
ANSWERS = {Fault.REDIS: (202, 503)}


@dataclass(slots=True)
class Watch:
    """Which alerts have fired, and when, in seconds after the fault."""

    url: str
    #: Alert and severity -> when it began to fire, and when it was seen over.
    fired: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    began_at: float = field(default_factory=time.monotonic)
    #: Set when a look found none firing.
    over: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Look each second until cancelled."""
        async with ClientSession() as session:
            while True:
                await asyncio.sleep(1)  # between two looks: Prometheus has no word to wait for
                with suppress(ClientError):
                    await self._look(session)

    async def _look(self, session: ClientSession) -> None:
        async with session.get(f"{self.url}/api/v1/alerts") as response:
            alerts: list[dict[str, Any]] = (await response.json())["data"]["alerts"]
        now = time.monotonic()
        firing = {
            (alert["labels"]["alertname"], alert["labels"]["severity"])
            for alert in alerts
            if alert["state"] == "firing"
        }
        for key in firing - self.fired.keys():
            self.fired[key] = [now]
        for key, times in self.fired.items():
            if key in firing:
                del times[1:]
            elif len(times) == 1:
                times.append(now)
        if not firing:
            self.over.set()

    def findings(self) -> list[Finding]:
        """Return a line for each alert, in the order in which they fired."""
        lines = []
        for (name, severity), (since, *ended) in sorted(self.fired.items(), key=lambda f: f[1]):
            text = f"{severity}: {since - self.began_at:+.0f} s"
            text += f", over at {ended[0] - self.began_at:+.0f} s" if ended else ", still firing"
            lines.append(Finding(name, text))
        return lines


def alerts(
    fault: Annotated[Fault, typer.Argument(help="What is frozen.")],
    rate: Annotated[int, typer.Option(help="Grabs a second.", min=10)] = 200,
    seconds: Annotated[int, typer.Option(help="How long it is frozen.", min=1)] = 60,
    as_json: AsJson = False,
) -> None:
    """Freeze something under load, and print which alerts fired when."""
    measure(_alerts(fault, rate, seconds), as_json)


async def _alerts(fault: Fault, rate: int, seconds: int) -> list[Finding]:
    with temporary_home() as home:
        async with bench_stack(home=home) as stack:
            gateway, consumer = await stack.run("gateway"), await stack.run("consumers")
            sale = await stack.open_sale(units=UNITS)
            write_targets(home, "gateway", {"gateway-1": gateway.admin_url})
            write_targets(home, "consumers", {"consumers-1": consumer.admin_url})
            async with _prometheus(home) as url:
                schedule = Schedule(rate=rate, seconds=2 * CALM_S + seconds)
                crowd = asyncio.create_task(
                    offer_grabs(stack, gateway.url, [sale], schedule, connections=CONNECTIONS)
                )
                watch = await _watch(url, fault, stack, consumer, seconds)
                report = await crowd
            ledger = await stack.verify(sale)
    return [*_findings(watch, fault, report), ledger_finding(ledger)]


async def _watch(
    url: str, fault: Fault, stack: BenchStack, consumer: Process, seconds: int
) -> Watch:
    """Freeze what is to be frozen; watch the alerts before, meanwhile, and until all are over."""
    watch = Watch(url)
    watching = asyncio.create_task(watch.run())
    await asyncio.sleep(CALM_S)
    watch.began_at = time.monotonic()
    if fault is not Fault.NONE:
        pid = consumer.child.pid if fault is Fault.CONSUMERS else stack.services.pid(fault)
        with frozen(pid):
            await asyncio.sleep(seconds)
    watch.over.clear()
    with suppress(TimeoutError):
        await asyncio.wait_for(watch.over.wait(), RECOVERY_S)
    watching.cancel()
    return watch


def _findings(watch: Watch, fault: Fault, report: CrowdReport) -> list[Finding]:
    early = [name for (name, _), times in watch.fired.items() if times[0] < watch.began_at]
    over = watch.over.is_set()
    found = [
        report.answers_finding(*ANSWERS.get(fault, (202,))),
        *watch.findings(),
        Finding("fired before the fault", ", ".join(early) or "none", "none", not early),
        # Of a Prometheus that does not answer nothing is seen either: this takes an answer.
        Finding("seen without any afterwards", "yes" if over else "no", "yes", over),
    ]
    if fault is Fault.NONE:
        fired = ", ".join(name for name, _ in watch.fired) or "none"
        return [*found, Finding("fired", fired, "none", not watch.fired)]
    expected = EXPECTED[fault]
    return [*found, Finding("paged", expected, "yes", (expected, "page") in watch.fired)]


@asynccontextmanager
async def _prometheus(home: Path) -> AsyncIterator[str]:
    """Run Prometheus with the project's rules on the loopback; yield its URL."""
    program = shutil.which("prometheus")
    if program is None:
        raise SeckillError("prometheus is missing; type: apt-get install prometheus")
    place, port = home / "prometheus-server", free_port()
    place.mkdir()
    (place / "prometheus.yml").write_text(CONFIG.format(rules=RULES, home=home))
    spec = Spec(
        name="prometheus",
        argv=[
            program,
            f"--config.file={place / 'prometheus.yml'}",
            f"--storage.tsdb.path={place / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
        ],
        env={},
        cwd=place,
        log=place / "prometheus.log",
        pid_file=home / "run" / "prometheus.pid",
    )
    url = f"http://127.0.0.1:{port}"

    async def ready() -> None:
        async with ClientSession() as session:
            while True:
                with suppress(ClientError):
                    async with session.get(f"{url}/-/ready") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.1)

    child = Child(spec, ready)
    await child.start()
    try:
        yield url
    finally:
        await child.stop()


if __name__ == "__main__":
    typer.run(alerts)
