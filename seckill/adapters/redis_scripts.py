"""Script calls in pipelines: those of one turn of the event loop go to Redis together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from redis.asyncio import Redis

from seckill.adapters.redis_replicas import ReplicaWait
from seckill.errors import Unavailable
from seckill.micro_batcher import MicroBatcher, Waiter

#: Script calls, or pipelines of them, under way from one process: connections stay free for others.
SCRIPTS_UNDER_WAY = 8
#: Script calls in one pipeline.
PIPELINE_MAX = 64

#: The arguments of EVALSHA, and its reply.
_Waiter = Waiter[tuple[Any, ...], Any]


class PipeliningRedis(Redis):
    """A client that sends the script calls of one turn of the event loop in one pipeline.

    A call of its own costs the client 230 us of CPU, and Redis a flush to its disk. Each call gets
    its own reply or error; a broken connection is an error of every call in its pipeline.
    """

    #: What a pipeline with a grab waits for before its replies count.
    replica_wait: ReplicaWait | None = None
    #: The last wait fell short. Nothing more is taken until one has not: what is taken and not
    #: told would be units without a buyer.
    _short = False

    async def evalsha(self, *args: Any) -> Any:  # noqa: ANN401 - untyped in redis-py
        """Run a script; `args` are its digest, the number of its keys, the keys, and the rest.

        The time limit covers the call and its wait for a pipeline.
        """
        async with asyncio.timeout(self.connection_pool.connection_kwargs["socket_timeout"]):
            return await self._scripts.submit(args)

    @cached_property
    def _scripts(self) -> MicroBatcher[tuple[Any, ...], Any]:
        run = self._run if self.replica_wait is None else self._run_replicated
        return MicroBatcher(run, max_batch=PIPELINE_MAX, max_calls=SCRIPTS_UNDER_WAY)

    async def _run(self, calls: Sequence[_Waiter]) -> None:
        if len(calls) == 1:
            calls[0].answer(await super().evalsha(*calls[0].item))
            return
        async with self.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.evalsha(*call.item)
            replies = await pipe.execute(raise_on_error=False)
        for call, reply in zip(calls, replies, strict=True):
            _answer(call, reply)

    async def _run_replicated(self, calls: Sequence[_Waiter]) -> None:
        """Do as `_run`, with one wait for the replicas if there is a grab among the calls."""
        if self.replica_wait is None:
            raise AssertionError("bug: nothing to wait for")
        promising = [call for call in calls if call.item[0] in self.replica_wait.digests]
        if not promising:
            await self._run(calls)
            return
        key = promising[0].item[2]
        if self._short and (failure := await self.replica_failure(key)):
            for call in promising:
                call.fail(_again(failure))
            if others := [call for call in calls if call not in promising]:
                await self._run(others)
            return
        async with self.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.evalsha(*call.item)
            self.replica_wait.add_to(pipe, key)
            *replies, written, waited = await pipe.execute(raise_on_error=False)
        failure = self.replica_wait.failure(written, waited)
        self._short = failure is not None
        for call, reply in zip(calls, replies, strict=True):
            if (
                failure
                and call.item[0] in self.replica_wait.digests
                and not isinstance(reply, Exception)
            ):
                call.fail(_again(failure))
            else:
                _answer(call, reply)

    async def replica_failure(self, key: str) -> Exception | None:
        """Return why a grab in the slot of this key would not count now; None if it would."""
        if self.replica_wait is None:
            return None
        async with self.pipeline(transaction=False) as pipe:
            self.replica_wait.add_to(pipe, key)
            failure = self.replica_wait.failure(*await pipe.execute(raise_on_error=False))
        self._short = failure is not None
        return failure


def _answer(call: _Waiter, reply: Any) -> None:  # noqa: ANN401 - a reply
    if isinstance(reply, Exception):
        call.fail(reply)
    else:
        call.answer(reply)


def _again(failure: Exception) -> Exception:
    """Return a failure for one of several callers."""
    return failure.again() if isinstance(failure, Unavailable) else failure
