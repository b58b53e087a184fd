"""How many processes run each role: what the pool manager was asked for, kept in `pool.json`.

Worker i (from 1) runs every role of which at least i are wanted, so there are as many workers as
of the most wanted role: a small machine pays for one process, a big one scales a single role. A
paused role runs nowhere, and its count is remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from seckill.errors import SeckillError, UserMistake

#: Processes of a role. Each opens up to SECKILL_POSTGRES_POOL_MAX (4) connections, PostgreSQL takes
#: 100 by default, and gateways need some, too.
COUNT_MAX = 20

_FILE = "pool.json"


@dataclass(slots=True)
class WorkerDuty:
    """What is wanted of one role."""

    wanted: int
    paused: bool = False
    #: Bounds of the autoscaler; None: the count stays as it is.
    min: int | None = None
    max: int | None = None

    @property
    def effective(self) -> int:
        """Processes that should run it now."""
        return 0 if self.paused else self.wanted

    def __str__(self) -> str:
        bounds = "" if self.min is None else f" of {self.min}..{self.max}"
        return f"{self.wanted}{bounds}{', paused' if self.paused else ''}"


@dataclass(slots=True)
class PoolPlan:
    """The duties of all roles."""

    duties: dict[str, WorkerDuty] = field(default_factory=dict)
    #: How many of every role there were to begin with.
    each: int = 1

    @property
    def workers(self) -> int:
        """Processes there should be. Those of paused roles stay, so that `resume` is at once."""
        return max((duty.wanted for duty in self.duties.values()), default=0)

    def roles_of(self, number: int) -> list[str]:
        """Return the roles that worker `number` should run now."""
        return [role for role, duty in self.duties.items() if duty.effective >= number]

    def paused_of(self, number: int) -> list[str]:
        """Return the roles that worker `number` would run now if they were not paused."""
        return [role for role, duty in self.duties.items() if duty.paused and duty.wanted >= number]

    def scale(self, role: str, low: int, high: int) -> None:
        """Want `low` processes of a role; with a higher `high`, between the two as needed."""
        duty = self._duty(role)
        if not 0 <= low <= high <= COUNT_MAX or (low < high and high == 0):
            raise UserMistake(
                f"{role}: {_spelt(low, high)} is out of bounds: 0 to {COUNT_MAX}, the lower first"
            )
        if low == high:
            duty.wanted, duty.min, duty.max = low, None, None
        else:
            duty.wanted, duty.min, duty.max = max(low, min(duty.wanted, high)), low, high

    def pause(self, roles: Iterable[str], *, paused: bool = True) -> None:
        """Pause roles, or let them go on; none named means all."""
        for duty in [self._duty(role) for role in roles] or self.duties.values():
            duty.paused = paused

    def save(self, home: Path) -> None:
        """Write it in one step: a manager that is killed leaves the old file or the new one."""
        new = home / f"{_FILE}.new"
        new.write_bytes(msgspec.json.encode(self))
        new.replace(home / _FILE)

    def _duty(self, role: str) -> WorkerDuty:
        if role not in self.duties:
            raise UserMistake(f"no role {role}; there are: {', '.join(self.duties)}")
        return self.duties[role]


_decode = msgspec.json.Decoder(PoolPlan).decode


def load_plan(home: Path, roles: Sequence[str]) -> PoolPlan:
    """Return the saved plan; a role that is not in it gets what all began with."""
    file = home / _FILE
    try:
        kept = _decode(file.read_bytes()) if file.exists() else PoolPlan()
    except msgspec.MsgspecError as error:
        raise SeckillError(f"{file} is damaged: {error}; remove it to start afresh") from error
    return PoolPlan(
        {role: kept.duties.get(role) or WorkerDuty(kept.each) for role in roles}, kept.each
    )


def parse_scale(word: str) -> tuple[str, int, int]:
    """Read ROLE=N or ROLE=MIN..MAX; UserMistake for anything else."""
    role, equals, count = word.partition("=")
    low, dots, high = count.partition("..")
    if not (role and equals and low.isdecimal() and (high.isdecimal() if dots else True)):
        raise UserMistake(f"{word}: write ROLE=N or ROLE=MIN..MAX")
    return role, int(low), int(high if dots else low)


def _spelt(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}..{high}"
