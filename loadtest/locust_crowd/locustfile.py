"""The crowd of a flash sale, for locust: who comes, and when; users.py has what they do.

    .venv-load/bin/locust --sale demo --headless -u 300 -t 60s

Without `--headless` it is locust's page in the browser; `--processes 2` takes two cores. More
defaults are in pyproject.toml.
"""

from __future__ import annotations

import ipaddress
import json
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

from loadtest.locust_crowd.expectations import Call, Received
from loadtest.locust_crowd.load_shape import CLOSING_S, FlashCurve
from loadtest.locust_crowd.users import Bot, Buyer, key_ring, log
from seckill.errors import UserMistake
from seckill_client.answers import unix_s

__all__ = ["Bot", "Buyer", "FlashCrowd"]

#: Without --run-time.
RUN_S = 60.0


@events.init_command_line_parser.add_listener
def add_arguments(parser: LocustArgumentParser) -> None:
    """Add what names the sale, how users behave, and where keys and results are."""
    parser.add_argument(
        "--sale", default="demo", env_var="SECKILL_SALE", help="The sale's id (default: demo)"
    )
    parser.add_argument(
        "--pay-share", type=float, default=0.7, help="Share of the winners who pay (default: 0.7)"
    )
    # These are not for locust's page: it would show the keys, and take any file.
    add = partial(parser.add_argument, include_in_web_ui=False)
    buyers = "Beginning of the buyers' ids, <this>-<worker>-<number> (default: new in each run)"
    add("--buyers", default=f"b{int(time.time()):x}", help=buyers)
    stack = "Home of the stack that runs; it has the host and the keys (default: .seckill)"
    add("--stack", default=".seckill", env_var="SECKILL_HOME", help=stack)
    add("--jwt-keys", env_var="SECKILL_JWT_KEYS", help="What logins are signed with: kid:secret")
    add("--elsewhere", action="store_true", help="The host is not this machine, and yours to load")
    add("--report", help="File for the answers that users got, in JSON")


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


class FlashCrowd(LoadTestShape):
    """Users gather, all come within the second of the opening, and leave; see load_shape.py."""

    use_common_options = True  # --users and --run-time
    _curve: FlashCurve | None = None
    _begun_s = 0.0

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there are to be, all at once; None when it is over."""
        if self._curve is None or self.runner.state == STATE_INIT:
            try:
                self._curve = _curve_of(self.runner.environment)
            except UserMistake as mistake:
                log.error("%s", mistake)
                self.runner.environment.process_exit_code = 2
                return None
            self._begun_s = time.monotonic()
        t_s = time.monotonic() - self._begun_s
        # Ticks are a second apart, and the crowd is not to come a second late.
        if 0 < self._curve.opens_s - t_s < 1:
            gevent.sleep(self._curve.opens_s - t_s)
            t_s = self._curve.opens_s
        users = self._curve.users_at(t_s)
        return (
            None if users is None else (users, max(1, abs(users - self.runner.target_user_count)))
        )


def _curve_of(environment: Environment) -> FlashCurve:
    """Ask when the sale opens; raise UserMistake if a run would be of no use, or do harm."""
    options, host = environment.parsed_options, environment.host or ""
    if not host:
        raise UserMistake(f"no stack runs in {options.stack}: seckill up --detach, or --host URL")
    if not (options.elsewhere or _is_loopback(host)):
        raise UserMistake(f"{host} is not this machine; if you may load it, add --elsewhere")
    key_ring(options.jwt_keys)
    session = FastHttpSession(host, environment.events.request, user=None)
    response = session.get(f"/v1/sales/{options.sale}", name=f"{Call.SALE}: 200")
    answer = Received.read(Call.SALE, response.status_code, response.text, None)
    if answer.status != 200:
        raise UserMistake(f"{host} answers {answer.name} to sale {options.sale}; see --sale")
    sale = answer.body
    if sale["proof_bits"] or sale["state"] == "closed":
        what = (
            "wants a proof of work, which no user here does" if sale["proof_bits"] else "is closed"
        )
        raise UserMistake(f"sale {options.sale} {what}; take another one")
    opens_s = max(0.0, unix_s(sale["opens_at"]) - unix_s(sale["server_time"]))
    ends_s, least_s = float(options.run_time or RUN_S), opens_s + 2 * CLOSING_S
    if ends_s < least_s:
        wanted = f"--run-time {least_s:.0f}s or more"
        raise UserMistake(f"sale {options.sale} opens in {opens_s:.0f} s: {wanted}")
    return FlashCurve(options.num_users or 1, opens_s, ends_s)


def _is_loopback(url: str) -> bool:
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


@events.quitting.add_listener
def write_report(environment: Environment, **_: object) -> None:
    """Write the answers that users got, for the program that started us."""
    runner, file = environment.runner, environment.parsed_options.report
    if isinstance(runner, WorkerRunner) or not file:
        return
    busy = runner.cpu_warning_emitted or getattr(runner, "worker_cpu_warning_emitted", False)
    stats = environment.stats
    failures = {error.to_name().strip(): error.occurrences for error in stats.errors.values()}
    failures |= {str(each["msg"]): each["count"] for each in runner.exceptions.values()}
    answers = {
        entry.name: {
            "count": entry.num_requests,
            "p50_ms": entry.get_response_time_percentile(0.5),
            "p99_ms": entry.get_response_time_percentile(0.99),
            "max_ms": entry.max_response_time,
        }
        for entry in stats.entries.values()
    }
    report = {"answers": answers, "failures": failures, "too_busy": busy}
    Path(file).write_text(json.dumps(report))
