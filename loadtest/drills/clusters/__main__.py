"""`python -m loadtest.drills.clusters STORE`: the leader of a store of several nodes is broken."""

from __future__ import annotations

import logging
from functools import partial
from typing import Annotated

import typer

from loadtest.drills.clusters import postgresql as postgresql_pair
from loadtest.drills.clusters import rabbitmq as rabbitmq_nodes
from loadtest.drills.clusters import redis
from loadtest.drills.clusters.frame import Plan, RunCluster, drill
from loadtest.findings import AsJson, measure

app = typer.Typer(
    help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)


@app.callback()
def _main() -> None:
    """Break the leader of a store of several nodes under a flash crowd."""


Times = Annotated[int, typer.Option(help="How often each trouble comes.", min=1)]
Rate = Annotated[int, typer.Option(help="Grabs a second.", min=10)]
Broken = Annotated[float, typer.Option(help="Seconds for which the leader is broken.", min=1)]
MinReplicas = Annotated[int, typer.Option(help="SECKILL_REDIS_MIN_REPLICAS.", min=0)]
Only = Annotated[list[str], typer.Option(help="Only this trouble; may be repeated.")]


def _run(
    cluster: RunCluster, times: int, rate: int, broken: float, only: list[str], as_json: bool
) -> None:
    # Links of the drill itself break, too; its client library reports each with a traceback.
    logging.disable()
    measure(drill(cluster, Plan(times, rate, broken), only), as_json)


@app.command()
def rabbitmq(
    times: Times = 5,
    rate: Rate = 500,
    broken: Broken = 20,
    only: Only = [],  # noqa: B006 - typer's way
    as_json: AsJson = False,
) -> None:
    """Break the node of RabbitMQ that leads `orders.place`, one of three."""
    _run(rabbitmq_nodes.running, times, rate, broken, only, as_json)


@app.command()
def postgresql(
    times: Times = 5,
    rate: Rate = 500,
    broken: Broken = 20,
    only: Only = [],  # noqa: B006 - typer's way
    as_json: AsJson = False,
) -> None:
    """Break the primary of PostgreSQL, and promote its synchronous standby."""
    _run(postgresql_pair.running, times, rate, broken, only, as_json)


@app.command()
def redis_sentinel(
    times: Times = 5,
    rate: Rate = 500,
    broken: Broken = 10,
    min_replicas: MinReplicas = 1,
    only: Only = [],  # noqa: B006 - typer's way
    as_json: AsJson = False,
) -> None:
    """Break the master of Redis that three sentinels watch, one of three servers."""
    _run(partial(redis.sentinels, min_replicas), times, rate, broken, only, as_json)


@app.command()
def redis_cluster(
    times: Times = 5,
    rate: Rate = 500,
    broken: Broken = 10,
    min_replicas: MinReplicas = 1,
    only: Only = [],  # noqa: B006 - typer's way
    as_json: AsJson = False,
) -> None:
    """Break the node of a cluster of Redis that has the sale, one of nine, or move its slot."""
    _run(partial(redis.cluster, min_replicas), times, rate, broken, only, as_json)


if __name__ == "__main__":
    app()
