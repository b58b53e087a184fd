"""A sale in containers of the image: unprivileged, on a read-only root, by environment alone.

Each container has the image's root read-only, a process namespace of its own, no capability, no way
to more privileges, and the image's user; /tmp and the declared home are empty and in memory. They
share the network of this machine, where the stores of a private stack listen. A gateway is stopped
in the middle of the crowd, and so are the consumers; the ledger has to balance after it.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import asyncpg

from ops.processes.ports import LOOPBACK, free_port

if TYPE_CHECKING:
    from scripts.image import Image

SALE, STOCK, BUYERS = "image", 300, 600
#: A container starts in two seconds; a machine that does other things takes longer.
START_S = 60.0
#: Grabs at once: a crowd, and still so slow that a gateway is stopped in the middle of it.
AT_ONCE = 20


class Containers:
    """Starts containers of one image."""

    def __init__(self, image: Image, root: Path, settings: Mapping[str, str]) -> None:
        self._image = image
        self._root = root
        self._settings = settings

    def command(self, *words: str, info: int | None = None, **settings: str) -> list[str]:
        """Return the command that runs another in a container."""
        user, _, group = self._image.user.partition(":")
        values = {**self._image.environment, **self._settings, **settings}
        home = self._image.environment["SECKILL_HOME"]
        return [
            *("bwrap", "--ro-bind", str(self._root), "/", "--proc", "/proc", "--dev", "/dev"),
            *("--perms", "1777", "--tmpfs", "/tmp", "--perms", "1777", "--tmpfs", home),  # noqa: S108 - in the container
            *("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--as-pid-1", "--die-with-parent"),
            *(() if info is None else ("--info-fd", str(info))),
            *("--clearenv", *(w for item in values.items() for w in ("--setenv", *item))),
            *("setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"),
            *("--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--"),
            *words,
        ]

    async def call(self, *words: str, **settings: str) -> str:
        """Run a command of the image to its end, and return what it prints."""
        return await self.call_program(*self._image.entrypoint, *words, **settings)

    async def call_program(self, *words: str, **settings: str) -> str:
        """Run any program of the image to its end, and return what it prints."""
        process = await asyncio.create_subprocess_exec(
            *self.command(*words, **settings), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        if process.returncode:
            raise SystemExit(f"exit {process.returncode} in a container: {' '.join(words)}")
        return out.decode()

    @asynccontextmanager
    async def running(self, *words: str, **settings: str) -> AsyncIterator[Container]:
        """Run a part of the image for as long as the block lasts; end it if it still runs."""
        read, write = os.pipe()
        command = self.command(*self._image.entrypoint, *words, info=write, **settings)
        process = await asyncio.create_subprocess_exec(*command, pass_fds=[write])
        os.close(write)
        pid = await asyncio.to_thread(_first_process, read)
        container = Container(" ".join(words), process, pid)
        try:
            yield container
        finally:
            if process.returncode is None:
                await container.stop()


class Container:
    """A running container; its first process is the part itself."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, pid: int) -> None:
        self._name = name
        self._process = process
        self._pid = pid

    async def stop(self) -> None:
        """Send SIGTERM, and wait until it has drained; raise SystemExit unless it ends well."""
        begin = time.monotonic()
        os.kill(self._pid, signal.SIGTERM)
        code = await asyncio.wait_for(self._process.wait(), START_S)
        print(f"  {self._name}: exit {code}, {time.monotonic() - begin:.1f} s after SIGTERM")
        # The pool says 143 if it was not stopped by `seckill pool stop`.
        if code not in (0, 128 + signal.SIGTERM):
            raise SystemExit(f"{self._name} did not drain")


def _first_process(info: int) -> int:
    """Return the pid, as it is seen here, of a container's first process."""
    with os.fdopen(info) as file:
        return int(json.load(file)["child-pid"])


async def run(image: Image, root: Path) -> int:
    """Run a sale; return 0 if nothing is lost and every part drained."""
    async with AsyncExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="seckill-image-"))
        stores = await stack.enter_async_context(_stores(home))
        keys = {f"SECKILL_{name}_KEYS": f"k1:{secrets.token_hex(32)}" for name in ("TICKET", "JWT")}
        here = Containers(
            image, root, {**stores, **keys, "SECKILL_ADMIN_TOKEN": secrets.token_hex(32)}
        )
        print(await _limits_of(here))
        print("  migrate:", len((await here.call("migrate")).split()), "files")
        await here.call("migrate", "--check")
        return await _sell(here, image, stack)


async def _sell(here: Containers, image: Image, stack: AsyncExitStack) -> int:
    admin, ports = [str(free_port()) for _ in range(4)], [str(free_port()) for _ in range(2)]
    gateways = [
        await stack.enter_async_context(
            here.running("gateway", SECKILL_GATEWAY_PORT=port, SECKILL_ADMIN_PORT=own)
        )
        for port, own in zip(ports, admin[:2], strict=True)
    ]
    consumers = await stack.enter_async_context(
        here.running("consumers", SECKILL_ADMIN_PORT=admin[2])
    )
    async with aiohttp.ClientSession() as http:
        for port in admin[:3]:
            await _until_ready(http, port)
        await here.call_program(*image.healthcheck, SECKILL_ADMIN_PORT=admin[0])
        words = "--stock", str(STOCK), "--price-cents", "1999"
        await here.call("sale", "create", SALE, *words)
        await here.call("sale", "open", SALE)
        tickets = (await here.call("ticket", SALE, "--count", str(BUYERS))).splitlines()
        stops = [gateways[0].stop, consumers.stop]
        answers = await _crowd(http, ports, [line.split("\t")[1] for line in tickets], stops)
    print(f"  answers: {dict(answers)}")
    # The pool takes over from the single process.
    await stack.enter_async_context(here.running("pool", "start", "--consumers", "1"))
    ledger = json.loads(await here.call("verify", SALE, "--wait", str(START_S), "--json"))
    counted = {name: number for name, number in ledger["lines"].items() if number}
    print(f"  ledger: {counted}, violations: {ledger['violations']}")
    return 0 if ledger["balanced"] and answers[202] == STOCK else 1


@asynccontextmanager
async def _stores(home: str) -> AsyncIterator[dict[str, str]]:
    """Run private stores, with an empty database, and yield their addresses."""
    env = {**os.environ, "SECKILL_HOME": home}
    seckill = sys.executable, "-m", "ops.cli"
    up = "up", "--detach", "--workers", "0", "--consumers", "0", "--json"
    try:
        found = json.loads(await _call(env, *seckill, *up))
        dsn = found["SECKILL_POSTGRES_DSN"]
        connection = await asyncpg.connect(dsn)
        await connection.execute("CREATE DATABASE image")
        await connection.close()
        names = "SECKILL_REDIS_URL", "SECKILL_AMQP_URL"
        database = f"{dsn.rpartition('/')[0]}/image"
        yield {
            **{name: found[name] for name in names},
            "SECKILL_POSTGRES_DSN": database,
            "SECKILL_NAMESPACE": "image",
        }
    finally:
        await _call(env, *seckill, "down")


async def _limits_of(here: Containers) -> str:
    """Return what a process in a container is and may; raise SystemExit if it may too much."""
    look = (
        "import os, pathlib as p, shutil\n"
        "try: p.Path('/opt/seckill/x').touch(); wrote = True\n"
        "except OSError as error: wrote = error.strerror\n"
        "status = dict(l.split(':\\t', 1) for l in p.Path('/proc/self/status').read_text()"
        ".splitlines() if ':\\t' in l)\n"
        "cc = [c for c in ('cc', 'gcc', 'make') if shutil.which(c)]\n"
        "print(f'  uid {os.getuid()}, gid {os.getgid()}, capabilities {status[\"CapEff\"]} of'"
        ' f\' {status["CapBnd"]}, no new privileges {status["NoNewPrivs"]}, write to root:\''
        " f' {wrote}, compilers {cc}, pid {os.getpid()}')"
    )
    return (await here.call_program("python3", "-c", look)).rstrip()


async def _crowd(
    http: aiohttp.ClientSession, ports: list[str], tickets: list[str], stops: list[object]
) -> Counter[int]:
    """Let each buyer grab once at either gateway; a third of the way, stop what is to be stopped.

    A buyer whose gateway is gone asks the other one, as a balancer does for them.
    """
    answers: Counter[int] = Counter()
    free = asyncio.Semaphore(AT_ONCE)
    reached = asyncio.Event()

    async def grab(number: int, ticket: str) -> None:
        async with free:
            for port in (ports[number % 2], ports[1]):
                url = f"http://{LOOPBACK}:{port}/v1/sales/{SALE}/grabs"
                try:
                    async with http.post(
                        url, json={"quantity": 1}, headers={"Seckill-Ticket": ticket}
                    ) as answer:
                        answers[answer.status] += 1
                        break
                except aiohttp.ClientConnectorError:
                    continue  # it listens no more
        if sum(answers.values()) > BUYERS // 3:
            reached.set()

    async def stop() -> None:
        await reached.wait()
        await asyncio.gather(*(each() for each in stops))

    await asyncio.gather(stop(), *(grab(*each) for each in enumerate(tickets)))
    return answers


async def _until_ready(http: aiohttp.ClientSession, port: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            async with http.get(f"http://{LOOPBACK}:{port}/readyz") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        if time.monotonic() > deadline:
            raise SystemExit(f"not ready after {START_S:g} s: port {port}")
        await asyncio.sleep(0.2)  # between two looks


async def _call(env: Mapping[str, str], *argv: str) -> str:
    process = await asyncio.create_subprocess_exec(*argv, env=env, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    if process.returncode:
        raise SystemExit(f"exit {process.returncode}: {' '.join(argv)}")
    return out.decode()
