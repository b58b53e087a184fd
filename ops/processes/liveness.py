"""Ends processes whose event loop hangs; their supervisor starts them again.

A process that works on a large batch answers late, and one that starts has no port yet: neither is
ended. Only one that accepts a connection, or leaves it waiting, and says nothing for a long time,
at every attempt, is.
"""

from __future__ import annotations

import asyncio
import math
import signal
from collections import Counter
from collections.abc import Callable, Mapping

from aiohttp import ClientError, ClientSession, ClientTimeout

from ops.processes.child import Child
from ops.processes.supervision import Log

#: Between the starts of two questions, and the time for an answer. It is short of nothing: ten
#: times what the largest batch takes.
ASK_S = 2.0


class LivenessWatch:
    """Asks `/livez` of each process, again and again."""

    def __init__(
        self, processes: Callable[[], Mapping[Child, str]], limit_s: float, log: Log
    ) -> None:
        """Watch `processes()`, each with the URL of its admin port."""
        self._processes = processes
        self._limit_s = limit_s
        #: Attempts, not seconds: this process may have stood still itself.
        self._attempts_max = math.ceil(limit_s / ASK_S)
        self._log = log
        #: Pid -> attempts in a row that got no answer.
        self._silent: Counter[int] = Counter()

    async def run(self) -> None:
        """Watch until cancelled."""
        async with ClientSession(timeout=ClientTimeout(total=ASK_S)) as session:
            while True:
                await asyncio.gather(self.ask_all(session), asyncio.sleep(ASK_S))

    async def ask_all(self, session: ClientSession) -> None:
        """Ask each once, and end those that have been silent too often."""
        asked = [(child, child.pid, url) for child, url in self._processes().items() if child.pid]
        answers = await asyncio.gather(*(_is_silent(session, url) for _, _, url in asked))
        silent = [pid for (_, pid, _), is_so in zip(asked, answers, strict=True) if is_so]
        self._silent = Counter({pid: self._silent[pid] + 1 for pid in silent})
        for child, pid, _ in asked:
            if child.pid == pid and self._silent[pid] >= self._attempts_max:
                self._log(
                    f"{child.name} (pid {pid}) hangs: its /livez has not answered for "
                    f"{self._limit_s:g} s; ending it"
                )
                # A loop that does not turn handles no SIGTERM.
                child.send(signal.SIGKILL)
                del self._silent[pid]


async def _is_silent(session: ClientSession, admin_url: str) -> bool:
    """Return whether a process leaves the question without any answer."""
    try:
        async with session.get(f"{admin_url}/livez"):
            return False
    except TimeoutError:
        return True
    except ClientError:  # it starts, ends, or says something else: its loop turns, or it has none
        return False
