"""A private RabbitMQ with its own Erlang port mapper.

The mapper (epmd) is our child as well: the broker would otherwise start one as a daemon, which
outlives everything.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path

from ops.processes.child import Child, StartFailed
from ops.processes.ports import LOOPBACK, free_port, kept_port
from ops.stack.discovery import ServerMissing, epmd, require
from ops.stack.servers.greeting import until_greeted
from ops.stack.servers.server import Server, StackHome, configuration, until_answers, write_private

USER = "seckill"
#: It passes its directory to a shell between single quotes, and hangs at its start with these.
_UNUSABLE = frozenset("'\"\\")


async def prepare(place: StackHome) -> Server:
    """Write the configuration and describe the two processes."""
    server = require("rabbitmq")
    mapper = epmd()
    if mapper is None:
        raise ServerMissing("rabbitmq")
    directory = place.directory("rabbitmq")
    if _UNUSABLE & set(str(directory)):
        raise StartFailed(
            f"rabbitmq cannot work in {directory}: choose a SECKILL_HOME without quotes and \\"
        )
    port, mapper_port = kept_port(place.home, "rabbitmq"), free_port()
    password = place.credentials.amqp_password
    # The user is made at the first start; later starts find it in the data.
    own_lines = (
        f"listeners.tcp.1 = {LOOPBACK}:{port}",
        f"default_user = {USER}",
        f"default_pass = {password}",
    )
    write_private(directory / "rabbitmq.conf", configuration("rabbitmq.conf", *own_lines))
    (directory / "enabled_plugins").write_text("[].\n")
    url = f"amqp://{USER}:{password}@{LOOPBACK}:{port}/"

    mapper_spec = place.spec(
        "epmd", [mapper, "-port", str(mapper_port), "-address", LOOPBACK], cwd=directory
    )
    broker_spec = place.spec(
        "rabbitmq",
        [server],
        cwd=directory,
        env=_environment(directory, port, mapper_port),
        # Erlang boots by passing each of a thousand files from thread to thread. Waking a thread
        # on another processor is slow on virtual machines: 6 s on one, 10 to 20 s on two.
        start_on_one_cpu=True,
    )
    return Server(
        "rabbitmq",
        url,
        f"{LOOPBACK}:{port}",
        [
            Child(mapper_spec, lambda: _accepts(mapper_port)),
            Child(broker_spec, lambda: _answers(port, url)),
        ],
    )


def _environment(directory: Path, port: int, mapper_port: int) -> dict[str, str]:
    # The data directory is named after the node, so the name must be the same at every start.
    home_id = hashlib.sha256(str(directory).encode()).hexdigest()[:8]
    # Half of the processors: one message carries hundreds of grabs, and the processes that publish
    # and consume it need the other half. No busy waiting for the same reason.
    schedulers = max(1, (os.cpu_count() or 1) // 2)
    return {
        # The script then replaces itself by the virtual machine, so that our child is the broker.
        "RUNNING_UNDER_SYSTEMD": "1",
        "HOME": str(directory),  # where Erlang keeps its cookie
        "RABBITMQ_NODENAME": f"seckill-{home_id}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "ERL_EPMD_PORT": str(mapper_port),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "ERL_AFLAGS": "-start_epmd false",  # use ours, or fail; never leave a daemon behind
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
            f"-kernel inet_dist_use_interface {{127,0,0,1}} +S {schedulers}:{schedulers} "
            "+sbwt none +sbwtdcpu none +sbwtdio none"
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
