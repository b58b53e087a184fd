"""What a person sees of `seckill up`: lines while it starts, then a live line."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from rich.console import Console
from rich.status import Status

from config.settings import PROJECT_ROOT
from ops.processes.home import StackState
from ops.stack.supervisor import StackSettings


class UpScreen:
    """Prints what happens; on a terminal a line at the bottom shows what runs."""

    def __init__(self, home: Path, *, to_stderr: bool = False) -> None:
        self._home = home
        self._console = Console(stderr=to_stderr, highlight=False, soft_wrap=True)
        self._line: Status | None = None

    def say(self, text: str) -> None:
        """Print one event."""
        self._console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False)

    def ready(self, values: StackSettings) -> None:
        """Print the addresses and something to paste."""
        self._console.print(_welcome(self._home, values), markup=False)

    def changed(self, state: StackState) -> None:
        """Redraw the line at the bottom."""
        if self._console.is_terminal:
            text = " ".join(
                f"[{'green' if part['pid'] else 'red'}]●[/] {part['name']}"
                for part in [*state["services"], *state["processes"], state["pool"]]
            )
            self._line = self._line or self._console.status(text, refresh_per_second=2)
            self._line.update(text)
            self._line.start()

    def close(self) -> None:
        """Take the line away."""
        if self._line:
            self._line.stop()


def _welcome(home: Path, values: StackSettings) -> str:
    command = Path(sys.executable).with_name("seckill")
    default_home = home == PROJECT_ROOT / ".seckill"
    return "\n".join(
        [
            "",
            f"  gateway   {values['gateway_url']}/v1/sales    docs {values['gateway_url']}/docs",
            f"  admin     {values['admin_url']}/metrics",
            "",
            "  Try it from another terminal:",
            *([] if default_home else [f"    export SECKILL_HOME='{home}'"]),
            f"    {command} sale create demo --stock 100 --price-cents 1999",
            f"    {command} sale open demo",
            f"    curl -i {values['gateway_url']}/v1/sales/demo/grabs \\",
            f'      -H "Seckill-Ticket: $({command} ticket demo alice)" \\',
            "      -H 'Content-Type: application/json' -d '{\"quantity\": 1}'",
            "",
            "  Ctrl-C stops everything.",
            "",
        ]
    )
