"""`seckill gateway` and `seckill consumers`: the processes that do the work, in the foreground."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

import typer

from ops.processes.workers import run_gateways, worker_settings


def gateway(
    workers: Annotated[int, typer.Option(help="Processes on one port.", min=1)] = 1,
) -> None:
    """Serve buyers, in the foreground."""
    settings = worker_settings()
    if workers > 1:
        from ops.processes.tasks import until_signal

        log = logging.getLogger("seckill").warning
        asyncio.run(until_signal(run_gateways(settings, workers, log)))
        return
    from gateway.server import run

    run(settings)


def consumers(
    roles: Annotated[list[str] | None, typer.Argument(metavar="[ROLE]...")] = None,
    managed: Annotated[bool, typer.Option("--managed", hidden=True)] = False,
) -> None:
    """Do the work behind the gateway, in the foreground: by all roles, or those named."""
    from consumers.main import default_roles, known, run

    chosen, settings = known(roles or ()), worker_settings()
    # Hidden, as only a pool manager assigns roles on stdin.
    run(settings, chosen or (() if managed else default_roles(settings)), managed=managed)
