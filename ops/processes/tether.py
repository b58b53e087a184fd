"""Arguments of Popen for children: they end with us, and give up root where they should."""

from __future__ import annotations

import ctypes
import os
import pwd
import signal
import sys
import threading
from functools import partial
from typing import Any

_PR_SET_PDEATHSIG = 1
# Looked up here, before any fork: loading a library between fork and exec may deadlock.
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def run_as(user: str | None) -> dict[str, Any]:
    """Return what gives up root for `user`; None: nothing is given up."""
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def tethered(stop_signal: signal.Signals, *, one_cpu: bool) -> dict[str, Any]:
    """Return what makes the kernel send a child its stop signal when we die.

    In a session of its own it gets no Ctrl-C from the terminal: only the supervisor gets that, and
    stops its children in order.
    """
    if threading.current_thread() is not threading.main_thread():
        # The kernel sends the signal when the creating *thread* ends, not the process.
        raise AssertionError("bug: children must be created by the main thread")
    prepare = partial(_die_with, os.getpid(), stop_signal, one_cpu)
    return {"start_new_session": True, "preexec_fn": prepare if _LIBC else None}


def _die_with(parent: int, stop_signal: signal.Signals, one_cpu: bool) -> None:
    """Ask the kernel for `stop_signal` when `parent` dies; runs between fork and exec.

    After the change of user, which would clear the request. It survives exec, so the shell
    scripts around Erlang hand it on to the virtual machine.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(stop_signal))
    if os.getppid() != parent:  # it died before the request was in force
        os._exit(1)
    if one_cpu:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
