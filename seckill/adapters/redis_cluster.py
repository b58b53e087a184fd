"""The client of a cluster: each call goes to the node that has its key.

redis-py's own RedisCluster sends ASKING and the command over two links of a pool, closes the links
of all calls when one meets CLUSTERDOWN, and raises when a pool is full. This one is made of one
client for each node, with the same bounded pools, time limits and greeting as a single Redis.
https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import AskError, MovedError, NoScriptError, ResponseError, TryAgainError

from seckill.adapters import redis_keys
from seckill.adapters.failures import REDIS, is_wrong_node, store_failure
from seckill.adapters.redis_links import LinkPool
from seckill.adapters.redis_scripts import PipeliningRedis
from seckill.adapters.redis_slots import SlotMap, slot_of
from seckill.errors import Unavailable

#: A slot is at most at one wrong node, at its old one, and on its way to a third.
REDIRECTIONS_MAX = 4
#: Commands without a key, which the node of the installation's own keys answers.
KEYLESS = frozenset(
    ("TIME", "INFO", "ROLE", "PING", "CONFIG", "SCRIPT", "CLUSTER", "DBSIZE", "FLUSHALL", "FLUSHDB")
)
#: Of these, commands that every master has to run.
EVERYWHERE = frozenset(("SCRIPT LOAD", "CONFIG SET", "FLUSHALL", "FLUSHDB"))

#: A command and its options, as a pipeline keeps them.
Command = tuple[tuple[Any, ...], Mapping[str, Any]]


def key_of(command: Sequence[Any]) -> str | None:
    """Return the first key of a command; None if it has none."""
    name = str(command[0]).upper()
    if name.partition(" ")[0] in KEYLESS:
        return None
    at = {"EVALSHA": 3, "EVAL": 3, "XINFO": 2}.get(name, 1)
    key = command[at]
    return key.decode() if isinstance(key, bytes) else str(key)


class ClusterRedis(Redis):
    """A client of all nodes; its calls and pipelines are those of a client of one."""

    def __init__(self, slots: SlotMap, pool: LinkPool) -> None:
        super().__init__(connection_pool=pool)
        self.slots = slots

    async def execute_command(self, *args: Any, **options: Any) -> Any:  # noqa: ANN401 - untyped
        """Run a command where its key is; some commands everywhere."""
        if str(args[0]).upper() in EVERYWHERE:
            masters = await self.slots.masters()
            calls: list[Any] = [node.execute_command(*args, **options) for node in masters]
            replies = [await call for call in calls]
            return replies[0]
        key = key_of(args) or redis_keys.installation()
        return await self._follow(
            key,
            args,
            options,
            lambda node: node.execute_command(*args, **options),
        )

    async def evalsha(self, *args: Any) -> Any:  # noqa: ANN401 - untyped in redis-py
        """Run a script where its keys are, together with the others that go to that node."""
        command = ("EVALSHA", *args)
        return await self._follow(args[2], command, {}, lambda node: node.evalsha(*args))

    async def replica_failure(self, key: str) -> Exception | None:
        """Return why a grab in the slot of this key would not count now; None if it would."""
        node = await self.slots.node_of(slot_of(key))
        return await node.replica_failure(key) if isinstance(node, PipeliningRedis) else None

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Pipeline:
        """Return a pipeline that is split by node; an atomic one has the keys of one slot."""
        return ClusterPipeline(self, transaction)

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the clients of all nodes."""
        await self.slots.aclose()
        await self.connection_pool.aclose()

    async def run_all(
        self, commands: Sequence[Command], scripts: Sequence[Any], *, atomic: bool
    ) -> list[Any]:
        """Run commands, those of each node in one pipeline; return their replies or errors."""
        replies: list[Any] = [None] * len(commands)
        first = next((key for args, _ in commands if (key := key_of(args))), None)
        keys = [key_of(args) or first or redis_keys.installation() for args, _ in commands]
        left = list(range(len(commands)))
        for _ in range(REDIRECTIONS_MAX):
            groups: dict[Redis, list[int]] = defaultdict(list)
            for at in left:
                groups[await self.slots.node_of(slot_of(keys[at]))].append(at)
            if atomic and len(groups) > 1:
                raise AssertionError("bug: an atomic step on several nodes")
            answered = await asyncio.gather(
                *(self._run_on(node, [commands[at] for at in group], atomic)
                  for node, group in groups.items())
            )  # fmt: skip
            left = []
            for (node, group), answers in zip(groups.items(), answered, strict=True):
                for at, reply in zip(group, answers, strict=True):
                    replies[at] = reply
                again = [at for at in group if isinstance(replies[at], MovedError | NoScriptError)]
                left += group if atomic and again else again
                await self._make_right(node, [replies[at] for at in again], scripts)
                for at in group:
                    if isinstance(replies[at], AskError) and at not in again and not atomic:
                        replies[at] = await self._reply_asking(replies[at], node, commands[at])
            if not left:
                break
        return replies

    async def _run_on(
        self, node: Redis, commands: Sequence[Command], atomic: bool
    ) -> Sequence[Any]:
        try:
            async with node.pipeline(transaction=atomic) as pipe:
                for args, options in commands:
                    pipe.execute_command(*args, **options)
                return await pipe.execute(raise_on_error=False)
        except Exception as error:
            if store_failure(error, REDIS) is None and not isinstance(error, ResponseError):
                raise
            self._note(error)
            return [error] * len(commands)

    async def _make_right(
        self, node: Redis, errors: Sequence[Exception], scripts: Sequence[Any]
    ) -> None:
        """Mend what made commands fail, before they are run again."""
        for error in errors:
            if isinstance(error, MovedError):
                self.slots.moved(error, node)
        if any(isinstance(error, NoScriptError) for error in errors):
            for script in scripts:
                await node.script_load(script)

    async def _follow(
        self,
        key: str,
        args: Sequence[Any],
        options: Mapping[str, Any],
        run: Callable[[Redis], Awaitable[Any]],
    ) -> Any:  # noqa: ANN401 - untyped in redis-py
        """Run a call at the node of its key, and follow redirections.

        A redirected call did not run. Nothing else is tried again.
        """
        slot = slot_of(key)
        for _ in range(REDIRECTIONS_MAX):
            node = await self.slots.node_of(slot)
            try:
                return await run(node)
            except MovedError as error:
                self.slots.moved(error, node)
            except AskError as error:
                return await self._ask(error, node, (tuple(args), options))
            except Exception as error:
                self._note(error)
                raise
        raise Unavailable(
            f"Redis: the nodes of the cluster disagree about slot {slot}",
            store=REDIS,
            code="MOVED",
        )

    async def _ask(self, error: AskError, node: Redis, command: Command) -> Any:  # noqa: ANN401
        reply = await self._reply_asking(error, node, command)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def _reply_asking(self, error: AskError, node: Redis, command: Command) -> Any:  # noqa: ANN401
        """Run a command at the node to which its slot is on its way, over one link."""
        target = self.slots.client(self.slots.place_of(error, node))
        args, options = command
        wait = target.replica_wait if isinstance(target, PipeliningRedis) else None
        waits = wait and args[0] == "EVALSHA" and args[1] in wait.digests
        async with target.pipeline(transaction=False) as pipe:
            pipe.execute_command("ASKING")
            pipe.execute_command(*args, **options)
            if wait and waits:
                wait.add_to(pipe, args[3], asking=True)
            _, reply, *waited = await pipe.execute(raise_on_error=False)
        if wait and waits and (failure := wait.failure(*waited[1:])):
            return failure
        if isinstance(reply, AskError):  # it has come and gone meanwhile
            return TryAgainError(f"slot of {error.slot_id} is being moved")
        return reply

    def _note(self, error: BaseException) -> None:
        """Look at the map again after a failure that another map may cure."""
        silent = not isinstance(error, ResponseError) and store_failure(error, REDIS) is not None
        if silent or is_wrong_node(error):
            self.slots.doubt()


class ClusterPipeline(Pipeline):
    """Commands that are sent together, to each node its own."""

    def __init__(self, cluster: ClusterRedis, transaction: bool) -> None:
        super().__init__(cluster.connection_pool, cluster.response_callbacks, transaction, None)
        self._cluster = cluster

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run the commands; return their replies in order."""
        commands, scripts = self.command_stack, [script.script for script in self.scripts]
        await self.reset()  # type: ignore[no-untyped-call]  # redis-py's, untyped
        replies = await self._cluster.run_all(commands, scripts, atomic=self.is_transaction)
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies


async def spread_ids(redis: Redis, stem: str) -> list[str]:
    """Return ids of which the keys of each lie on another node; for a single Redis the stem."""
    if not isinstance(redis, ClusterRedis):
        return [stem]
    found: dict[Redis, str] = {}
    masters, number = await redis.slots.masters(), 0
    while len(found) < len(masters):
        slot = slot_of(redis_keys.stock(f"{stem}{number}"))
        found.setdefault(await redis.slots.node_of(slot), f"{stem}{number}")
        number += 1
    return list(found.values())


async def close_links(redis: Redis) -> None:
    """Close all links of a client; its next calls open new ones."""
    if isinstance(redis, ClusterRedis):
        await redis.slots.disconnect()
    else:
        await redis.connection_pool.disconnect(inuse_connections=True)


async def each_server(redis: Redis) -> list[Redis]:
    """Return a client of each server that takes writes."""
    return await redis.slots.masters() if isinstance(redis, ClusterRedis) else [redis]
