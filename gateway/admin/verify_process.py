"""Ledgers, counted in a process of its own, so that buyers do not notice.

Comparing 100,000 holders with their rows is seconds of work for Python, in large steps. In the
event loop it held up other requests for 0.9 s, and in a thread for a quarter of a second, because
all threads share one interpreter. A process holds them up no more than any other load does.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import AsyncExitStack, suppress

import msgspec

from config.settings import PROJECT_ROOT, Settings
from seckill.adapters import installation, postgres
from seckill.adapters import redis as redis_client
from seckill.consistency import verify
from seckill.errors import SeckillError, Unavailable
from seckill.payments.providers import ProviderAccess, access_of, open_provider

#: For one query of one look; a million rows take some seconds.
QUERY_S = 30.0
#: For the start of the process and its last look.
LOOK_S = 60.0
#: Buyers' processes get about ten times as much of a busy processor.
NICENESS = 10


_summaries = msgspec.json.Decoder(list[msgspec.Raw]).decode


class VerifyRequest(msgspec.Struct):
    """What the process is asked, on its standard input: no secret shows in a list of processes."""

    redis_url: str
    postgres_dsn: str
    namespace: str
    sale_ids: list[str]
    wait_s: float
    provider: ProviderAccess | None


async def count(settings: Settings, sale_ids: list[str], *, wait_s: float = 0.0) -> list[bytes]:
    """Return the summary of each ledger as JSON; Unavailable when a store does not answer.

    All of them have one time limit. When the caller is cancelled, and when this gateway is
    killed, the process ends as well.
    """
    question = VerifyRequest(
        settings.redis_url,
        settings.postgres_dsn,
        settings.namespace,
        sale_ids,
        wait_s,
        access_of(settings),
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=PROJECT_ROOT,
        start_new_session=True,  # a Ctrl-C is for the gateway, which then ends it
    )
    try:
        async with asyncio.timeout(wait_s + LOOK_S):
            answer = await _ask(process, msgspec.json.encode(question))
            status = await process.wait()
    except TimeoutError as error:
        raise Unavailable(f"the ledger took more than {wait_s + LOOK_S:g} s") from error
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    if status == os.EX_TEMPFAIL:
        raise Unavailable(answer.decode())
    if status != 0:
        raise SeckillError(f"the process that counts the ledger ended with {status}")
    return [bytes(each) for each in _summaries(answer)]


def main() -> None:
    """Answer the question on standard input, on standard output."""
    os.nice(NICENESS)
    question = msgspec.json.decode(sys.stdin.buffer.readline(), type=VerifyRequest)
    threading.Thread(target=_end_with_gateway, daemon=True).start()
    try:
        sys.stdout.buffer.write(asyncio.run(_answer(question)))
    except Unavailable as error:
        sys.stdout.write(str(error))
        sys.exit(os.EX_TEMPFAIL)


async def _ask(process: asyncio.subprocess.Process, question: bytes) -> bytes:
    if process.stdin is None or process.stdout is None:
        raise AssertionError("bug: started without pipes")
    # Its input stays open: to the process, the end of it means that no caller waits any more.
    process.stdin.write(question + b"\n")
    return await process.stdout.read()


async def _answer(question: VerifyRequest) -> bytes:
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(
            postgres.connect(question.postgres_dsn, size=1, timeout_s=QUERY_S)
        )
        own_id = await installation.join(db, question.namespace)
        redis = await stack.enter_async_context(
            redis_client.connect(question.redis_url, timeout_s=QUERY_S, installation_id=own_id)
        )
        provider = await stack.enter_async_context(open_provider(question.provider, calls_max=1))
        ledgers = [
            await verify.verify(redis, db, sale_id, wait_s=question.wait_s, provider=provider)
            for sale_id in question.sale_ids
        ]
    return msgspec.json.encode([ledger.summary() for ledger in ledgers])


def _end_with_gateway() -> None:
    os.read(sys.stdin.fileno(), 1)  # not the file object, whose lock would be missed at exit
    os._exit(1)  # nothing is written anywhere, so there is nothing to tidy up


if __name__ == "__main__":
    main()
