"""The table of commands: `seckill --help` shows the first line of each command's own help."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ops.cli.main import COMMANDS, load


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_has_the_first_line_of_each_help(name: str) -> None:
    assert (load(name).help or "").splitlines()[0] == COMMANDS[name][1]


def test_help_imports_no_command() -> None:
    code = (
        "import sys; sys.argv = ['seckill', '--help']\n"
        "from ops.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print([name for name in sys.modules if name.startswith('seckill')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "unknown-payments" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"
