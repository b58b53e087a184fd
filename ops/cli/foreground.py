"""`seckill up` in the foreground."""

from __future__ import annotations

import json

from config.settings import Settings
from ops.cli.up_screen import UpScreen
from ops.processes.tasks import until_signal
from ops.stack.addresses import addresses
from ops.stack.supervisor import StackListener, StackSettings, run_stack


async def run_foreground(
    settings: Settings, gateways: int, consumers: int, *, as_json: bool
) -> None:
    """Run the stack until SIGTERM or SIGINT, showing how it fares."""
    screen = UpScreen(settings.home.absolute(), to_stderr=as_json)

    def ready(values: StackSettings) -> None:
        if as_json:
            print(json.dumps(addresses(values)), flush=True)
        else:
            screen.ready(values)

    listener = StackListener(say=screen.say, ready=ready, changed=screen.changed)
    try:
        await until_signal(run_stack(settings, gateways, consumers, listener))
    finally:
        screen.close()
