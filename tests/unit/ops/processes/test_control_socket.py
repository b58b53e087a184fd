"""The control socket: who may use it, and what a caller gets back."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from ops.processes.control_socket import ControlSocket, NotListening
from ops.processes.requests import PoolRequest, pool_socket
from seckill.errors import SeckillError, UserMistake


async def call(control: ControlSocket, request: PoolRequest) -> dict[str, object]:
    return await asyncio.to_thread(control.ask, request)


async def echo(request: PoolRequest) -> dict[str, object]:
    return {"op": request.op, "roles": request.roles, "counts": request.counts}


@pytest.fixture
def control(tmp_path: Path) -> ControlSocket:
    return pool_socket(tmp_path)


async def test_a_request_comes_and_its_answer_goes_as_they_are(control: ControlSocket) -> None:
    async with control.serving(PoolRequest, echo):
        answer = await call(control, PoolRequest("scale", counts={"place": (1, 4)}))
    assert answer == {"op": "scale", "roles": [], "counts": {"place": [1, 4]}}


async def test_it_is_for_its_owner_alone_and_gone_afterwards(control: ControlSocket) -> None:
    async with control.serving(PoolRequest, echo):
        assert stat.S_IMODE(control.directory.stat().st_mode) == 0o700
        assert stat.S_IMODE((control.directory / "socket").stat().st_mode) == 0o600
    with pytest.raises(NotListening, match="seckill pool start"):
        await call(control, PoolRequest("status"))


async def test_a_home_deeper_than_a_socket_address_is_reached(tmp_path: Path) -> None:
    control = pool_socket(tmp_path / ("deep/" * 40))
    async with control.serving(PoolRequest, echo):
        assert (await call(control, PoolRequest("drain")))["op"] == "drain"


async def test_a_socket_that_a_killed_owner_left_is_no_hindrance(control: ControlSocket) -> None:
    leftover = control.serving(PoolRequest, echo)
    await leftover.__aenter__()
    async with control.serving(PoolRequest, echo):
        assert (await call(control, PoolRequest("drain")))["op"] == "drain"
    await leftover.__aexit__(None, None, None)


@pytest.mark.parametrize("failure", [UserMistake, SeckillError])
async def test_what_an_owner_objects_to_is_raised_at_the_caller(control, failure) -> None:
    async def refuse(_: PoolRequest) -> dict[str, object]:
        raise failure("not like this")

    async with control.serving(PoolRequest, refuse):
        with pytest.raises(failure, match="not like this") as raised:
            await call(control, PoolRequest("status"))
    assert type(raised.value) is failure


@pytest.mark.parametrize("line", [b"{}\n", b"no json\n", b'{"op": "explode"}\n', b"[1]\n", b"\n"])
async def test_what_is_no_request_is_refused(control: ControlSocket, line: bytes) -> None:
    async with control.serving(PoolRequest, echo):
        reader, writer = await asyncio.open_unix_connection(control.directory / "socket")
        writer.write(line)
        assert b"no such request" in await reader.read()
        writer.close()


async def test_a_failure_without_words_is_one_all_the_same(control: ControlSocket) -> None:
    async def fail(_: PoolRequest) -> dict[str, object]:
        raise OSError

    async with control.serving(PoolRequest, fail):
        with pytest.raises(SeckillError, match="OSError"):
            await call(control, PoolRequest("status"))


def test_no_home_is_no_pool(tmp_path: Path) -> None:
    with pytest.raises(NotListening):
        pool_socket(tmp_path / "nowhere").ask(PoolRequest("status"))
