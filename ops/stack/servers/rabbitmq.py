"""A private RabbitMQ, of one node or of several, with its own Erlang port mapper.

The mapper (epmd) is our child as well: the broker would otherwise start one as a daemon, which
outlives everything.

Whoever knows the cookie of Erlang may run any code in the broker. So it is a random one of ours,
all listeners are on the loopback interface, and root lets another user run the broker.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from ops.processes.child import START_DEADLINE_S, Child
from ops.processes.ports import LOOPBACK, free_port, kept_port
from ops.stack.discovery import ServerMissing, epmd, require
from ops.stack.servers.greeting import until_greeted
from ops.stack.servers.server import (
    Server,
    StackHome,
    configuration,
    give,
    until_answers,
    write_private,
)

USER = "seckill"
#: It passes its directory to a shell between single quotes, and hangs at its start with these.
_UNUSABLE = frozenset("'\"\\")
#: A node that is frozen, or cut off without a word, is given up by the others after three to five
#: quarters of this time. Until then what it takes part in hangs: with 60 s, the default, no queue
#: can be declared or bound for a minute. It is not less, because a node that is silent for 6 s on a
#: busy machine is no dead one.
NET_TICKTIME_S = 8


@dataclass(frozen=True, slots=True)
class Node:
    """One node: `name` is that of its process, `erlang_name` that in the cluster."""

    name: str
    erlang_name: str
    directory: Path
    port: int


async def prepare(place: StackHome) -> Server:
    """Write the configuration of a broker of one node, and describe its two processes."""
    return await prepare_nodes(place, 1)


async def prepare_nodes(place: StackHome, count: int) -> Server:
    """Write the configuration of a broker of so many nodes, and describe its processes.

    The mapper is the first one. A node of several waits at its first start for the others.
    """
    require("rabbitmq")
    directory, user = place.unprivileged("rabbitmq", "rabbitmq", unusable=_UNUSABLE)
    mapper_port = free_port()
    # Kept in the home, as the data directories are named after the nodes.
    home_id = hashlib.sha256(str(place.home / "rabbitmq").encode()).hexdigest()[:8]
    names = ["rabbitmq"] if count == 1 else [f"rabbitmq{n + 1}" for n in range(count)]
    nodes = [
        Node(
            name,
            f"{name.replace('rabbitmq', 'seckill')}-{home_id}@localhost",
            directory if count == 1 else directory / name,
            kept_port(place.home, name),
        )
        for name in names
    ]
    children = [_mapper(place, directory, mapper_port, user)]
    for node in nodes:
        _configure(place, node, nodes)
        start_within_s = START_DEADLINE_S * count  # at first, each waits for those before it
        children.append(_broker(place, node, mapper_port, user, start_within_s))
    if user:
        give(directory, user)
    hosts = ",".join(f"{LOOPBACK}:{node.port}" for node in nodes)
    return Server("rabbitmq", _url(place, hosts), hosts, children)


def _url(place: StackHome, hosts: str) -> str:
    return f"amqp://{USER}:{place.credentials.amqp_password}@{hosts}/"


def _configure(place: StackHome, node: Node, nodes: list[Node]) -> None:
    """Write what a node reads at its start."""
    directory = node.directory
    directory.mkdir(mode=0o700, exist_ok=True)
    # The user is made at the first start; later starts find it in the data.
    own_lines = [
        f"listeners.tcp.1 = {LOOPBACK}:{node.port}",
        f"default_user = {USER}",
        f"default_pass = {place.credentials.amqp_password}",
    ]
    if len(nodes) > 1:
        own_lines += [
            "cluster_formation.peer_discovery_backend = classic_config",
            *(
                f"cluster_formation.classic_config.nodes.{n} = {other.erlang_name}"
                for n, other in enumerate(nodes, 1)
            ),
            # A node that is cut off from the others stops serving, so that none of its clients
            # waits for a confirm that cannot come: they go to another node.
            "cluster_partition_handling = pause_minority",
            # Not all on the node that the first process declared them on.
            "queue_leader_locator = balanced",
        ]
    write_private(directory / "rabbitmq.conf", configuration("rabbitmq.conf", *own_lines))
    (directory / "enabled_plugins").write_text("[].\n")
    cookie = directory / ".erlang.cookie"
    cookie.unlink(missing_ok=True)  # Erlang makes one that cannot be written
    write_private(cookie, place.credentials.erlang_cookie)


def _mapper(place: StackHome, directory: Path, port: int, user: str | None) -> Child:
    program = epmd()
    if program is None:
        raise ServerMissing("rabbitmq")
    words = "-port", str(port), "-address", LOOPBACK
    spec = place.spec("epmd", [program, *words], cwd=directory, user=user)
    return Child(spec, lambda: _accepts(port))


def _broker(
    place: StackHome, node: Node, mapper_port: int, user: str | None, start_within_s: float
) -> Child:
    spec = place.spec(
        node.name,
        [require("rabbitmq")],
        cwd=node.directory,
        env=_environment(node, mapper_port),
        user=user,
        # Erlang boots by passing each of a thousand files from thread to thread. Waking a thread
        # on another processor is slow on virtual machines: 6 s on one, 10 to 20 s on two.
        start_on_one_cpu=True,
        start_within_s=start_within_s,
    )
    return Child(spec, lambda: _answers(node.port, _url(place, f"{LOOPBACK}:{node.port}")))


def _environment(node: Node, mapper_port: int) -> dict[str, str]:
    directory = node.directory
    # Half of the processors: one message carries hundreds of grabs, and the processes that publish
    # and consume it need the other half. No busy waiting for the same reason.
    schedulers = max(1, (os.cpu_count() or 1) // 2)
    return {
        # The script then replaces itself by the virtual machine, so that our child is the broker.
        "RUNNING_UNDER_SYSTEMD": "1",
        "HOME": str(directory),  # where Erlang looks for the cookie
        # The data directory is named after the node: the name is the same at every start.
        "RABBITMQ_NODENAME": node.erlang_name,
        "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
        "RABBITMQ_NODE_PORT": str(node.port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "ERL_EPMD_PORT": str(mapper_port),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_AFLAGS": "-start_epmd false",  # use ours, or fail; never leave a daemon behind
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            "-kernel inet_dist_use_interface {127,0,0,1}"
            f" -kernel net_ticktime {NET_TICKTIME_S}"
            f" +S {schedulers}:{schedulers} +sbwt none +sbwtdcpu none +sbwtdio none"
        ),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_GENERATED_CONFIG_DIR": str(directory / "generated"),
        "RABBITMQ_LOG_BASE": str(directory),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        # Keep the configuration of a system-wide broker out.
        "RABBITMQ_CONFIG_FILES": str(directory / "conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "advanced.config"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
    }


async def _accepts(port: int) -> None:
    async def dial() -> None:
        _, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.close()
        await writer.wait_closed()

    await until_answers(dial, (OSError,))


async def _answers(port: int, url: str) -> None:
    """Log in: the listener opens last, when users and queues are there."""
    await _accepts(port)  # first, as aio-pika logs every refused connection as an error
    await until_greeted("rabbitmq", url)
