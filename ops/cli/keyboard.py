"""Single keys from the terminal, without a return behind each."""

from __future__ import annotations

import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NoReturn

#: Read at once. Who holds a key down sends some dozens a second.
_READ_BYTES = 64
#: What terminals send for the arrow keys, in both of their modes.
_ARROWS = {"A": "up", "B": "down"}
_KEY = re.compile(r"\x1b[\[O]([A-D])|\x1b\S*|(.)", re.DOTALL)

#: Waits some seconds for keys and returns those that were pressed; `up` and `down` are arrows.
Keys = Callable[[float], list[str]]


def at_terminal() -> bool:
    """Tell whether a person looks and can press keys."""
    return sys.stdin.isatty() and sys.stdout.isatty()


@contextmanager
def keyboard() -> Iterator[Keys]:
    """Read single keys inside the block; where a person is at no terminal, none ever come."""
    if not at_terminal():
        yield _no_keys
        return
    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    # Without this a SIGTERM would leave a terminal that shows nothing of what is typed.
    ends = signal.signal(signal.SIGTERM, _exit)
    tty.setcbreak(terminal)
    try:
        yield partial(_read, terminal)
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, ends)


def split_keys(text: str) -> list[str]:
    """Return the keys that a terminal has sent; none for those that are not known here."""
    found = (_ARROWS.get(each[1] or "", each[2]) for each in _KEY.finditer(text))
    return [key for key in found if key]


def _read(terminal: int, wait_s: float) -> list[str]:
    ready, _, _ = select.select([terminal], [], [], max(wait_s, 0))
    if not ready:
        return []
    text = os.read(terminal, _READ_BYTES).decode(errors="replace")
    return split_keys(text) if text else ["q"]  # the terminal is gone


def _no_keys(wait_s: float) -> list[str]:
    time.sleep(max(wait_s, 0))  # as the operator asked
    return []


def _exit(*_: object) -> NoReturn:
    sys.exit(128 + signal.SIGTERM)
