"""A gateway whose event loop hangs is replaced by the process that started it."""

from __future__ import annotations

import asyncio
import os
import signal

from aiohttp import ClientError, ClientSession

from loadtest.store_states.frozen import children_of
from ops.processes.ports import free_port
from tests.processes import eventually

#: Longest wait for a start and an answer on a machine that does other things, too.
PATIENCE_S = 60.0


async def test_a_gateway_that_hangs_is_replaced_by_who_started_it(processes) -> None:
    admin_port = free_port(in_a_row=2)
    supervisor = await processes.begin(
        *("gateway", "--workers", "2"),
        SECKILL_GATEWAY_PORT=str(free_port()),
        SECKILL_ADMIN_PORT=str(admin_port),
        SECKILL_LIVENESS_S="4",
    )
    try:
        async with ClientSession() as admin:

            async def both_live() -> bool:
                assert supervisor.returncode is None, (await supervisor.stderr.read()).decode()
                try:
                    for port in (admin_port, admin_port + 1):
                        async with admin.get(f"http://127.0.0.1:{port}/livez") as response:
                            assert response.status == 200
                except ClientError:
                    return False
                return True

            await eventually(both_live, "both gateways live", within_s=PATIENCE_S)
            gateway = children_of(supervisor.pid)[0]
            os.kill(gateway, signal.SIGSTOP)
            async with asyncio.timeout(PATIENCE_S):
                hangs = (await supervisor.stderr.readuntil(b"ending it")).decode()
                await supervisor.stderr.readuntil(b"is back")
            assert f"(pid {gateway}) hangs: its /livez has not answered for 4 s" in hangs
            await eventually(both_live, "its successor lives", within_s=PATIENCE_S)
    finally:
        if supervisor.returncode is None:
            supervisor.terminate()
        await supervisor.communicate()
