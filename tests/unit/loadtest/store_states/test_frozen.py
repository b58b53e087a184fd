"""A frozen process stands still with what it has started, whatever ends meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.store_states import frozen as module
from loadtest.store_states.frozen import children_of, frozen


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T"


@pytest.fixture
def server() -> Iterator[tuple[int, int]]:
    """Start a process and its child; return their pids."""
    command = ["sh", "-c", "sleep 60 & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        yield parent.pid, child
        os.kill(child, signal.SIGTERM)


def until_stopped(pid: int) -> None:
    while not is_stopped(pid):  # the signal is on its way
        pass


@pytest.mark.timeout(30)
def test_a_process_and_its_children_stand_still_until_the_end(server: tuple[int, int]) -> None:
    parent, child = server
    assert children_of(parent) == [child]
    with frozen(parent):
        until_stopped(parent)
        until_stopped(child)
    assert not is_stopped(child)


@pytest.mark.timeout(30)
def test_a_child_that_has_just_ended_is_passed_over(
    server: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, child = server
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as ended:
        pass
    families = {parent: [ended.pid, child]}
    monkeypatch.setattr(module, "children_of", lambda pid: families.get(pid, []))
    with frozen(parent):
        until_stopped(child)
    assert not is_stopped(parent)
    assert not is_stopped(child)


@pytest.mark.parametrize("pid", [None, 0])
def test_what_does_not_run_cannot_be_frozen(pid: int | None) -> None:
    with pytest.raises(ProcessLookupError), frozen(pid):
        pass
