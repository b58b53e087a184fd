"""`seckill up` in the foreground: lines while it starts, then what to paste, then a live line."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.status import Status

from config.settings import DEFAULT_HOME, Settings
from ops.processes.control_socket import Reply
from ops.processes.tasks import until_signal
from ops.stack.settings import StackSettings, variables
from ops.stack.supervisor import StackListener, run_stack


async def run_in_foreground(
    settings: Settings, gateways: int, consumers: int, *, as_json: bool
) -> None:
    """Run the stack until SIGTERM or SIGINT, and show what happens to it."""
    screen = UpScreen(settings.home.absolute(), as_json=as_json)
    listener = StackListener(log=screen.log, ready=screen.ready, changed=screen.changed)
    try:
        await until_signal(run_stack(settings, gateways, consumers, listener))
    finally:
        screen.close()


class UpScreen:
    """Prints what happens; on a terminal a line at the bottom shows what runs."""

    def __init__(self, home: Path, *, as_json: bool) -> None:
        self._home = home
        self._as_json = as_json
        self._console = Console(stderr=as_json, highlight=False, soft_wrap=True)
        self._line: Status | None = None

    def log(self, text: str) -> None:
        """Print one event, unless the terminal is gone: the stack outlives it."""
        with suppress(OSError):
            self._console.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False)

    def ready(self, values: StackSettings) -> None:
        """Print the addresses, and for a person something to paste."""
        if self._as_json:
            print(json.dumps(variables(values)), flush=True)
        else:
            self._console.print(_welcome(self._home, values), markup=False)

    def changed(self, state: Reply) -> None:
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
        """Remove the line."""
        if self._line:
            self._line.stop()


def _welcome(home: Path, values: StackSettings) -> str:
    command = Path(sys.executable).with_name("seckill")
    default_home = home == DEFAULT_HOME
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
