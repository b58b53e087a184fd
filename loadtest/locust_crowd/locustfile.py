"""The crowd of a flash sale, for locust: who comes, and when; users.py has what they do.

    .venv-load/bin/locust --sale demo --headless -u 300 -t 60s

Without `--headless` it is locust's page in the browser; `--processes 2` takes two cores. More
defaults are in pyproject.toml.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import time
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import gevent
from locust import LoadTestShape, events
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import FastHttpSession
from locust.env import Environment
from locust.runners import STATE_INIT, WorkerRunner

from loadtest.locust_crowd.expectations import AnswerClass, Call, Received, SaleInfo, outcome_of
from loadtest.locust_crowd.load_shape import CLOSING_S, FlashCurve
from loadtest.locust_crowd.user import key_ring
from loadtest.locust_crowd.users import Bot, Buyer
from seckill.errors import UserMistake

__all__ = ["Bot", "Buyer", "FlashCrowd"]

log = logging.getLogger("crowd")

#: Without --run-time.
RUN_S = 60.0


@events.init_command_line_parser.add_listener
def add_arguments(parser: LocustArgumentParser) -> None:
    """Say which sale it is, how people behave, and where what they need is to be found."""
    parser.add_argument(
        "--sale", default="demo", env_var="SECKILL_SALE", help="The sale's id (default: demo)"
    )
    parser.add_argument(
        "--pay-share", type=float, default=0.7, help="Share of the winners who pay (default: 0.7)"
    )
    # These have no business on locust's page: it would show the keys, and take any file.
    add = partial(parser.add_argument, include_in_web_ui=False)
    add(
        "--buyers",
        default=f"b{int(time.time()):x}",
        help="Beginning of the buyers' ids, <this>-<worker>-<number> (default: new in each run)",
    )
    add(
        "--stack",
        default=".seckill",
        env_var="SECKILL_HOME",
        help="Home of the stack that runs; it has the host and the keys (default: .seckill)",
    )
    add("--jwt-keys", env_var="SECKILL_JWT_KEYS", help="What logins are signed with: kid:secret")
    add("--elsewhere", action="store_true", help="The host is not this machine, and yours to load")
    add("--report", help="File for what people were told, in JSON")


@events.init.add_listener
def find_stack(environment: Environment, **_: object) -> None:
    """Take what the command line leaves out from the stack that runs."""
    options = environment.parsed_options
    settings = Path(options.stack) / "settings.json"
    known = json.loads(settings.read_text()) if settings.exists() else {}
    options.jwt_keys = options.jwt_keys or known.get("jwt_keys", "")
    environment.host = environment.host or known.get("gateway_url")
    if options.processes and isinstance(environment.runner, WorkerRunner):
        gevent.spawn(_end_with, os.getppid(), environment.runner)


def _end_with(parent: int, worker: WorkerRunner) -> None:
    """End a worker whose master was killed: by itself it would go on for a minute."""
    while os.getppid() == parent:
        gevent.sleep(1)
    worker.quit()


class NoUse(Exception):
    """A run would be of no use, or do harm; it says what to do."""


class FlashCrowd(LoadTestShape):
    """People gather, all come within the second of the opening, and go away; see flash_curve."""

    use_common_options = True  # --users and --run-time
    _curve: FlashCurve | None = None
    _begun_s = 0.0

    def tick(self) -> tuple[int, float] | None:
        """Return how many people there are to be, all at once; None when it is over."""
        environment = self.runner.environment
        if self._curve is None or self.runner.state == STATE_INIT:
            try:
                self._curve = _curve_of(environment)
            except NoUse as reason:
                log.error("%s", reason)
                environment.process_exit_code = 2
                return None
            self._begun_s = time.monotonic()
        t_s = time.monotonic() - self._begun_s
        # Ticks are a second apart, and the crowd is not to come a second late.
        if 0 < self._curve.opens_s - t_s < 1:
            gevent.sleep(self._curve.opens_s - t_s)
            t_s = self._curve.opens_s
        people = self._curve.people_at(t_s)
        if people is None:
            return None
        return people, max(1, abs(people - self.runner.target_user_count))


def _curve_of(environment: Environment) -> FlashCurve:
    """Ask when the sale opens, and whether there is anything against a run."""
    options, host = environment.parsed_options, environment.host or ""
    if not host:
        raise NoUse(f"no stack runs in {options.stack}: seckill up --detach, or give --host URL")
    if not (options.elsewhere or _is_loopback(host)):
        raise NoUse(f"{host} is not this machine; if you may load it, add --elsewhere")
    try:
        key_ring(options.jwt_keys)
    except UserMistake as mistake:
        raise NoUse(str(mistake)) from mistake
    session = FastHttpSession(host, environment.events.request, user=None)
    told = session.get(f"/v1/sales/{options.sale}", name=f"{Call.SALE}: {AnswerClass.OK}")
    answer = Received.read(told.status_code, told.text)
    if outcome_of(Call.SALE, answer) is not AnswerClass.OK:
        raise NoUse(f"{host} says of sale {options.sale}: {answer.describe()}; see --sale")
    sale = SaleInfo.of(answer)
    if sale.proof_bits or sale.state == "closed":
        what = "wants a proof of work, which nobody here does" if sale.proof_bits else "is closed"
        raise NoUse(f"sale {options.sale} {what}; take another one")
    opens_s = max(0.0, sale.opens_at_s - sale.server_time_s)
    ends_s = float(options.run_time or RUN_S)
    if ends_s < (least_s := opens_s + 2 * CLOSING_S):
        raise NoUse(
            f"sale {options.sale} opens in {opens_s:.0f} s: --run-time {least_s:.0f}s or more"
        )
    return FlashCurve(options.num_users or 1, opens_s, ends_s)


def _is_loopback(url: str) -> bool:
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


@events.quitting.add_listener
def write_report(environment: Environment, **_: object) -> None:
    """Write what people were told, for the program that started us."""
    runner = environment.runner
    if isinstance(runner, WorkerRunner) or not environment.parsed_options.report:
        return
    report = {
        "answers": [
            {
                "name": entry.name,
                "count": entry.num_requests,
                "p50_ms": entry.get_response_time_percentile(0.5),
                "p99_ms": entry.get_response_time_percentile(0.99),
                "max_ms": entry.max_response_time,
            }
            for entry in environment.stats.entries.values()
        ],
        "failures": [
            {"name": error.to_name(), "count": error.occurrences}
            for error in environment.stats.errors.values()
        ],
        "exceptions": [
            {"name": str(each["msg"]), "count": each["count"]}
            for each in runner.exceptions.values()
        ],
        "too_busy": runner.cpu_warning_emitted
        or getattr(runner, "worker_cpu_warning_emitted", False),
    }
    Path(environment.parsed_options.report).write_text(json.dumps(report))
