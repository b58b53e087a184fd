"""RabbitMQ of three nodes, and what may happen to one of them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.drills.clusters.frame import Cluster
from ops.processes.child import Child
from ops.processes.tasks import together
from ops.stack.credentials import load_credentials
from ops.stack.servers import rabbitmq
from ops.stack.servers.server import StackHome
from seckill.adapters import topology
from seckill.errors import SeckillError

NODES = 3
#: Longest wait until all nodes are well again.
HEALED_S = 120.0
#: How long a node that was frozen works on before it is started again.
THAWED_S = 3.0

#: On a node: the name of the node that leads a queue.
_LEADER = "element(2, ra_leaderboard:lookup_leader('%2F_{queue}'))."
#: On a node: no other node has its cookie any more, and it has none of theirs. So no link between
#: it and the others can be opened, as if the network between them were gone.
_CUT_OFF = "[begin erlang:set_cookie(N, none), erlang:disconnect_node(N) end || N <- [{others}]]."
_LET_IN = "[erlang:set_cookie(N, erlang:get_cookie()) || N <- [{others}]]."
#: On a node: how many it knows to run.
_RUNNING = "length(rabbit_nodes:all_running())."


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes of a RabbitMQ."""

    mapper: Child
    brokers: list[Child]
    #: The leader, if it was looked up before: on a busy machine that takes seconds.
    found: list[Child] = field(default_factory=list)

    async def find_leader(self) -> None:
        """Look the leader up for the next trouble."""
        self.found[:] = [await self.leader()]

    async def _leader_now(self) -> Child:
        return self.found.pop() if self.found else await self.leader()

    async def leader(self, queue: str = topology.ORDERS_PLACE) -> Child:
        """Return the node that leads a queue."""
        running = next(broker for broker in self.brokers if broker.pid)
        name = await self.ask(running, _LEADER.format(queue=queue))
        return next(broker for broker in self.brokers if _name(broker) in name)

    async def ask(self, broker: Child, expression: str) -> str:
        """Return what an expression of Erlang comes to on a node."""
        return await self.control(broker, "eval", expression)

    async def control(self, broker: Child, *words: str) -> str:
        """Run a command of rabbitmqctl on a node; return its output."""
        spec = broker.spec
        process = await asyncio.create_subprocess_exec(
            Path(spec.argv[0]).with_name("rabbitmqctl"),
            *words,
            env=spec.env,
            cwd=spec.cwd,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        if process.returncode:
            raise SeckillError(f"rabbitmqctl {words[0]}: {out.decode().strip()}")
        return out.decode()

    @asynccontextmanager
    async def killed(self) -> AsyncIterator[None]:
        """Kill the leader; start it again in the end."""
        leader = await self._leader_now()
        await leader.kill()
        try:
            yield
        finally:
            await leader.start()
            await self.healed(leader)

    @asynccontextmanager
    async def frozen(self) -> AsyncIterator[None]:
        """Freeze the leader: its connections stay open, and nothing comes over them.

        The others have given it up by then. RabbitMQ 3 leaves it to the operator to start such a
        node again: until then it has its own view of what is declared.
        """
        leader = await self._leader_now()
        leader.send(signal.SIGSTOP)
        try:
            yield
        finally:
            leader.send(signal.SIGCONT)
            await asyncio.sleep(THAWED_S)
            await leader.kill()
            await leader.start()
            await self.healed(leader)

    @asynccontextmanager
    async def cut_off(self) -> AsyncIterator[None]:
        """Cut the leader off from the other nodes; clients still reach it."""
        leader = await self._leader_now()
        others = ",".join(f"'{_name(broker)}'" for broker in self.brokers if broker is not leader)
        await self.ask(leader, _CUT_OFF.format(others=others))
        try:
            yield
        finally:
            await self.ask(leader, _LET_IN.format(others=others))
            await self.healed(leader)

    async def healed(self, broken: Child) -> None:
        """Return when a node that was broken works with all others; or raise TimeoutError."""
        async with asyncio.timeout(HEALED_S):
            while await self._running(broken) != str(NODES):  # noqa: ASYNC110 - a command
                await asyncio.sleep(0.5)

    async def _running(self, broker: Child) -> str:
        try:
            return (await self.ask(broker, _RUNNING)).strip()
        except SeckillError as error:  # it is starting
            return str(error)


def _name(broker: Child) -> str:
    return broker.spec.env["RABBITMQ_NODENAME"]


@asynccontextmanager
async def running_nodes(home: Path) -> AsyncIterator[tuple[Nodes, str]]:
    """Start three nodes with their data below a home; yield them and their address."""
    place = StackHome(home, load_credentials(home))
    server = await rabbitmq.prepare_nodes(place, NODES)
    mapper, *brokers = server.children
    nodes = Nodes(mapper, brokers)
    try:
        await mapper.start()
        await together(*(broker.start() for broker in brokers))  # each waits for the others
        yield nodes, server.url
    finally:
        await together(*(broker.stop() for broker in brokers))
        await mapper.stop()


@asynccontextmanager
async def running(home: Path) -> AsyncIterator[Cluster]:
    """Start three nodes, for a drill."""
    async with running_nodes(home) as (nodes, url):
        troubles = {"killed": nodes.killed, "frozen": nodes.frozen, "cut off": nodes.cut_off}
        children = [nodes.mapper, *nodes.brokers]
        yield Cluster("rabbitmq", url, children, troubles, before=nodes.find_leader)
