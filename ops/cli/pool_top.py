"""What `seckill pool top` shows, and what its keys do; it asks neither a pool nor a terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Group
from rich.text import Text

from ops.cli.pool_tables import tables
from ops.pool.plan import COUNT_MAX
from ops.processes.control_socket import Reply
from ops.processes.requests import PoolRequest

KEYS_LINE = "q quit  ? help  up/down choose  +/- scale  p pause  s sort  space freeze"
HELP = (
    "q         quit",
    "up, down  choose a role, also k and j",
    "+, -      run the chosen role in one process more or less; its bounds end",
    "p         pause the chosen role after its batch, or let it go on",
    "s         sort by the next column: the largest first",
    "space     freeze what is shown, and go on",
    "?         this help, and back",
)
#: What roles are sorted by in turn; "" is the pool's own order.
SORTS = ("", "in_hand", "rate_per_s", "backlog", "oldest_age_s", "errors")


@dataclass(slots=True)
class TopScreen:
    """What is chosen, and the pool as it was last seen."""

    pool: Reply
    #: Whether there is a person who can press keys.
    has_keys: bool = True
    #: The name of a role, or "" as long as none was chosen.
    chosen: str = ""
    frozen: bool = False
    #: What the last key did, or why the pool does not answer.
    note: str = ""
    _sort: int = 0
    _helps: bool = False

    def see(self, pool: Reply) -> None:
        """Take a look at the pool, unless the screen is frozen."""
        if not self.frozen:
            self.pool = pool

    def shown(self) -> Group:
        """Lay out the screen; what matters most is at the top, where a small terminal ends last."""
        if self._helps:
            return Group(*HELP)
        head = self.note or (KEYS_LINE if self.has_keys else "")
        above = [Text(head, style="bold" if self.note else "dim", no_wrap=True)] if head else []
        return Group(*above, tables({**self.pool, "roles": self._roles()}, chosen=self.chosen))

    def press(self, key: str) -> PoolRequest | None:
        """Do what a key stands for; return what the pool is to be asked for, if anything."""
        self.note = ""
        if key == "?":
            self._helps = not self._helps
        elif key == "s":
            self._sort = (self._sort + 1) % len(SORTS)
            self.note = f"sorted by {SORTS[self._sort].replace('_', ' ') or 'role'}"
        elif key == " ":
            self.frozen = not self.frozen
            self.note = "frozen; space goes on" if self.frozen else ""
        elif key in ("up", "k"):
            self._choose(-1)
        elif key in ("down", "j"):
            self._choose(1)
        elif key in ("+", "-", "p"):
            return self._change(key)
        return None

    def _choose(self, step: int) -> None:
        names = [role["role"] for role in self._roles()]
        if not names:
            return
        if self.chosen in names:
            self.chosen = names[(names.index(self.chosen) + step) % len(names)]
        else:
            self.chosen = names[0 if step > 0 else -1]

    def _change(self, key: str) -> PoolRequest | None:
        """Return the change of the chosen role that a key asks for."""
        role = next((each for each in self._roles() if each["role"] == self.chosen), None)
        if role is None:
            self.note = "choose a role first: up or down"
            return None
        name: str = role["role"]
        if key == "p":
            self.note = f"{name}: {'resume' if role['paused'] else 'pause'}"
            return PoolRequest("resume" if role["paused"] else "pause", roles=[name])
        count = role["wanted"] + (1 if key == "+" else -1)
        if not 0 <= count <= COUNT_MAX:
            self.note = f"{name}: 0 to {COUNT_MAX} processes"
            return None
        self.note = f"{name}: {count} processes"
        return PoolRequest("scale", counts={name: (count, count)})

    def _roles(self) -> list[Reply]:
        roles: list[Reply] = self.pool.get("roles", [])
        name = SORTS[self._sort]
        # What is not known counts as nothing.
        return sorted(roles, key=lambda role: -(role[name] or 0)) if name else roles
