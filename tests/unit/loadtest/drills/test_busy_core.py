"""A core that is kept busy."""

from __future__ import annotations

import os
from pathlib import Path

from loadtest.drills.busy_core import busy_core


def _children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def test_it_is_kept_busy_until_the_block_ends() -> None:
    before, core = _children(), min(os.sched_getaffinity(0))
    with busy_core(core, 2):
        started = _children() - before
        assert len(started) == 2
        assert all(os.sched_getaffinity(int(pid)) == {core} for pid in started)
    assert _children() <= before
