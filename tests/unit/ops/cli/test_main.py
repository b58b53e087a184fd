"""The table of commands: `seckill --help` shows the first line of each command's own help."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest
from asyncpg.exceptions import DataError

from ops.cli.errors import explained
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


def test_letters_that_the_terminal_does_not_know_are_shown_by_their_numbers() -> None:
    code = (
        "import sys; sys.argv = ['seckill', '--version']\n"
        "from ops.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: print('\\u2026')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "\\u2026"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_disk_that_is_full_is_no_store_that_does_not_answer(number: int) -> None:
    line, code = explained(OSError(number, os.strerror(number))) or ("", 0)
    assert line == f"the output cannot be written: {os.strerror(number)}"
    assert code == 1


def test_an_argument_that_is_not_utf_8_was_typed_wrongly() -> None:
    error = DataError("invalid input for query argument $1: '\\udcff'")
    error.__cause__ = UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed")
    assert explained(error) == ("give text in UTF-8", 2)
