"""Ports that are handed out to processes that start."""

from __future__ import annotations

import subprocess
import sys

import pytest

from config.settings import PROJECT_ROOT
from ops.processes import ports

#: Is given a port, and does not listen on it until its input ends.
PROGRAM = "from ops.processes.ports import free_port; print(free_port(), flush=True); input()"


def test_a_port_is_given_to_one_process_alone_while_it_does_not_listen_yet(monkeypatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=PROJECT_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        monkeypatch.setattr(ports, "_RANGE", range(port, port + 1))
        monkeypatch.setattr(ports, "_handed_out", set())  # a test before may have had this port
        with pytest.raises(OSError, match="no free port"):
            ports.free_port()
        other.communicate("\n")
    assert ports.free_port() == port


def test_all_ports_of_a_row_are_given(monkeypatch) -> None:
    first = ports.free_port(in_a_row=3)
    monkeypatch.setattr(ports, "_RANGE", range(first, first + 3))
    with pytest.raises(OSError, match="no free port"):
        ports.free_port()
