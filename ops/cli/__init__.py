"""The `seckill` command, one file a group of commands.

Promise: an expected failure is one line and an exit code, `--json` is for machines, and `--help`
answers at once, because a command's module is imported when the command is used.

Relies on: `stores.py` to open the stores, `console.py` for ids and JSON, and `seckill` for all that
a command changes.

Begin with `main.py`: its table names the function of each command.
"""
