"""`seckill pool top`: its keys, and a real terminal of any size."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from config.settings import PROJECT_ROOT
from ops.cli.keyboard import split_keys
from ops.cli.pool_top import SORTS, TopScreen
from ops.pool.plan import COUNT_MAX
from ops.processes.requests import PoolRequest, pool_socket
from seckill.errors import SeckillError
from tests.processes import eventually


def role(name: str, **figures: object) -> dict[str, Any]:
    calm = {
        "running": 1,
        "wanted": 1,
        "min": None,
        "max": None,
        "in_hand": 0,
        "rate_per_s": 0.0,
        "backlog": None,
        "oldest_age_s": None,
        "errors": 0,
        "restarts": 0,
        "paused": False,
        "held": False,
        "note": None,
    }
    return {"role": name, **calm, **figures}


POOL = {
    "manager": {"pid": 1, "uptime_s": 2.0},
    "roles": [role("place", backlog=2), role("sweep", backlog=7), role("relay", paused=True)],
    "workers": [],
}


@pytest.fixture
def screen() -> TopScreen:
    return TopScreen(POOL)


def test_arrows_walk_over_the_roles_and_round(screen: TopScreen) -> None:
    chosen = []
    for key in ("down", "down", "j", "down", "up", "k"):
        assert screen.press(key) is None
        chosen.append(screen.chosen)
    assert chosen == ["place", "sweep", "relay", "place", "relay", "sweep"]


def test_the_chosen_role_is_scaled_and_paused(screen: TopScreen) -> None:
    screen.chosen = "place"
    assert screen.press("+") == PoolRequest("scale", counts={"place": (2, 2)})
    assert screen.press("-") == PoolRequest("scale", counts={"place": (0, 0)})
    assert screen.press("p") == PoolRequest("pause", roles=["place"])
    screen.chosen = "relay"
    assert screen.press("p") == PoolRequest("resume", roles=["relay"])


@pytest.mark.parametrize(("wanted", "key"), [(0, "-"), (COUNT_MAX, "+")])
def test_no_role_is_scaled_out_of_bounds(wanted: int, key: str) -> None:
    screen = TopScreen({**POOL, "roles": [role("place", wanted=wanted)]}, chosen="place")
    assert screen.press(key) is None
    assert str(COUNT_MAX) in screen.note


@pytest.mark.parametrize("key", ["+", "-", "p"])
def test_without_a_choice_nothing_is_changed(screen: TopScreen, key: str) -> None:
    assert screen.press(key) is None
    assert "choose" in screen.note


def test_roles_are_sorted_by_each_column_and_the_choice_stays(screen: TopScreen) -> None:
    screen.chosen = "place"
    for name in (*SORTS[1:], ""):
        screen.press("s")
        assert name.replace("_", " ") in screen.note
        if name == "backlog":
            assert [each["role"] for each in screen._roles()] == ["sweep", "place", "relay"]
    assert screen.chosen == "place"
    assert screen._roles() == POOL["roles"]


def test_a_frozen_screen_shows_what_it_showed(screen: TopScreen) -> None:
    screen.press(" ")
    screen.see({**POOL, "roles": []})
    assert screen.pool == POOL
    screen.press(" ")
    screen.see({**POOL, "roles": []})
    assert screen.pool["roles"] == []


def test_other_keys_do_nothing(screen: TopScreen) -> None:
    for key in "xyz\n\x7fQ0":
        assert screen.press(key) is None
    assert (screen.chosen, screen.frozen, screen.note) == ("", False, "")


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("q", ["q"]),
        ("++", ["+", "+"]),
        ("\x1b[A\x1bOBp", ["up", "down", "p"]),
        ("\x1b[3~", []),
        ("\x1b", []),
        ("é\n", ["é", "\n"]),
    ],
)
def test_what_a_terminal_sends_is_split_into_keys(text: str, keys: list[str]) -> None:
    assert split_keys(text) == keys


class Terminal:
    """`seckill pool top` in a terminal of its own; `seen` is all that it wrote."""

    def __init__(self, home: Path, lines: int, columns: int) -> None:
        self._home, self._size = home, struct.pack("HHHH", lines, columns, 0, 0)
        self.asked: list[PoolRequest] = []
        self.seen = ""

    async def answer(self, request: PoolRequest) -> dict[str, object]:
        self.asked.append(request)
        if request.op == "pause":
            raise SeckillError("the pool says no")
        return POOL if request.op == "status" else {}

    async def start(self) -> None:
        self.end, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, self._size)
        self.before = termios.tcgetattr(inner)
        self.inner = inner
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "ops.cli", "pool", "top", "--interval", "60"),
            cwd=PROJECT_ROOT,
            env={**os.environ, "SECKILL_HOME": str(self._home), "TERM": "xterm", "NO_COLOR": "1"},
            stdin=inner,
            stdout=inner,
            stderr=inner,
        )
        asyncio.get_running_loop().add_reader(self.end, self._read)

    def _read(self) -> None:
        self.seen += os.read(self.end, 65536).decode(errors="replace")

    async def sees(self, words: str) -> None:
        async def is_seen() -> bool:
            return words in self.seen

        await eventually(is_seen, f"{words!r} in {self.seen!r}")
        self.seen = ""

    def press(self, keys: str) -> None:
        os.write(self.end, keys.encode())

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()
        asyncio.get_running_loop().remove_reader(self.end)
        os.close(self.end)
        os.close(self.inner)


@pytest.fixture(params=[(24, 80), (6, 40)], ids=["usual", "small"])
async def terminal(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Terminal]:
    made = Terminal(tmp_path, *request.param)
    async with pool_socket(tmp_path).serving(PoolRequest, made.answer):
        await made.start()
        yield made
        await made.stop()


async def test_a_person_at_a_terminal_looks_changes_and_leaves_it_as_it_was(
    terminal: Terminal,
) -> None:
    await terminal.sees("q quit")
    terminal.press("?")
    await terminal.sees("choose a role")
    terminal.press("?\x1b[B+")
    await terminal.sees("place: 2 processes")
    terminal.press("p")
    await terminal.sees("the pool says no")
    terminal.press("q")
    assert await asyncio.wait_for(terminal.process.wait(), 20) == 0
    assert termios.tcgetattr(terminal.inner) == terminal.before
    changes = [request for request in terminal.asked if request.op != "status"]
    assert changes == [
        PoolRequest("scale", counts={"place": (2, 2)}),
        PoolRequest("pause", roles=["place"]),
    ]
