"""A worker that hangs is replaced, and a worker says what it runs and what is paused."""

from __future__ import annotations

import os
import signal

from aiohttp import ClientSession

from ops.stack.services import temporary_home
from tests.pools import PATIENCE_S, RunningPool
from tests.processes import eventually


async def test_a_worker_whose_loop_hangs_is_replaced_and_the_log_says_why(settings) -> None:
    with temporary_home() as home:
        async with RunningPool(settings, home, liveness_s=4) as pool:
            await pool.start(2)
            before = await pool.pids()
            # As a call that blocks: the kernel takes connections, and nothing answers.
            os.kill(before["consumers-1"], signal.SIGSTOP)

            async def replaced() -> bool:
                worker = (await pool.workers())["consumers-1"]
                return worker["pid"] not in (None, before["consumers-1"]) and bool(worker["roles"])

            await eventually(replaced, "another consumers-1 works", within_s=PATIENCE_S)
            log = (home / "logs" / "pool.log").read_text()
            workers = await pool.workers()
            role = await pool.role("sweep")
    hangs = f"consumers-1 (pid {before['consumers-1']}) hangs: its /livez has not answered for 4 s"
    assert hangs in log
    assert "consumers-1 was killed by SIGKILL; starting it again" in log
    assert (workers["consumers-1"]["restarts"], role["restarts"]) == (1, 1)
    assert workers["consumers-2"]["pid"] == before["consumers-2"], "the other one goes on"


async def test_a_worker_says_what_is_paused(settings) -> None:
    with temporary_home() as home:
        async with RunningPool(settings, home) as pool:
            await pool.start(1)
            (worker,) = (await pool.workers()).values()
            async with ClientSession(worker["admin_url"]) as admin:

                async def says(status: str, *, paused: set[str]) -> dict[str, object]:
                    async def check() -> dict[str, object] | None:
                        async with admin.get("/readyz") as response:
                            found = await response.json()
                        assert response.status == 200, found
                        right = found["status"] == status and {*found["paused"]} == paused
                        return found if right else None

                    found: dict[str, object] = await eventually(check, f"it says {status}")
                    return found

                every = {role["role"] for role in (await pool.status())["roles"]}
                found = await says("ready", paused=set())
                assert (found["roles"], found["reasons"]) == (sorted(every), {})
                await pool.do("pause", "sweep")
                found = await says("ready", paused={"sweep"})
                assert found["roles"] == sorted(every - {"sweep"})
                await pool.do("drain")
                found = await says("degraded", paused=every)
                assert found["reasons"] == {"roles": "all roles are paused"}
                await pool.do("resume")
                await says("ready", paused=set())
