"""`python -m ops.cli`: the `seckill` command, also where it is not installed."""

from __future__ import annotations

from ops.cli.main import main

main()
