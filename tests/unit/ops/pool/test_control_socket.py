"""The control socket: who may use it, and what a caller is told."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from ops.pool.control_socket import NoPool, Request, ask, control_server
from seckill.errors import SeckillError, UserMistake


async def call(home: Path, request: Request) -> dict[str, object]:
    return await asyncio.to_thread(ask, home, request)


async def echo(request: Request) -> dict[str, object]:
    return {"op": request.op, "roles": request.roles, "counts": request.counts}


async def test_a_request_comes_and_its_answer_goes_as_they_are(tmp_path: Path) -> None:
    async with control_server(tmp_path, echo):
        answer = await call(tmp_path, Request("scale", counts={"place": (1, 4)}))
    assert answer == {"op": "scale", "roles": [], "counts": {"place": [1, 4]}}


async def test_it_is_for_its_owner_alone_and_gone_afterwards(tmp_path: Path) -> None:
    directory = tmp_path / "run/pool"
    async with control_server(tmp_path, echo):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((directory / "socket").stat().st_mode) == 0o600
    with pytest.raises(NoPool, match="seckill pool start"):
        await call(tmp_path, Request("status"))


async def test_a_home_deeper_than_a_socket_address_is_reached(tmp_path: Path) -> None:
    home = tmp_path / ("deep/" * 40)
    async with control_server(home, echo):
        assert (await call(home, Request("drain")))["op"] == "drain"


async def test_a_socket_that_a_killed_manager_left_is_no_hindrance(tmp_path: Path) -> None:
    leftover = control_server(tmp_path, echo)
    await leftover.__aenter__()
    async with control_server(tmp_path, echo):
        assert (await call(tmp_path, Request("drain")))["op"] == "drain"
    await leftover.__aexit__(None, None, None)


@pytest.mark.parametrize("failure", [UserMistake, SeckillError])
async def test_what_a_manager_objects_to_is_raised_at_the_caller(tmp_path: Path, failure) -> None:
    async def refuse(_: Request) -> dict[str, object]:
        raise failure("not like this")

    async with control_server(tmp_path, refuse):
        with pytest.raises(failure, match="not like this") as raised:
            await call(tmp_path, Request("status"))
    assert type(raised.value) is failure


@pytest.mark.parametrize("line", [b"{}\n", b"no json\n", b'{"op": "explode"}\n', b"[1]\n", b"\n"])
async def test_what_is_no_request_is_said_so(tmp_path: Path, line: bytes) -> None:
    async with control_server(tmp_path, echo):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "run/pool/socket")
        writer.write(line)
        assert b"no such request" in await reader.read()
        writer.close()


async def test_a_failure_without_words_is_one_all_the_same(tmp_path: Path) -> None:
    async def fail(_: Request) -> dict[str, object]:
        raise OSError

    async with control_server(tmp_path, fail):
        with pytest.raises(SeckillError, match="OSError"):
            await call(tmp_path, Request("status"))


def test_no_home_is_no_pool(tmp_path: Path) -> None:
    with pytest.raises(NoPool):
        ask(tmp_path / "nowhere", Request("status"))
