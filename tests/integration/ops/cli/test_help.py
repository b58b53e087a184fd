"""`seckill COMMAND --help`: what does the work is not imported for it, and it says the same."""

from __future__ import annotations

import os
import subprocess
import sys

from config.settings import PROJECT_ROOT

#: Prints the help of every command, and behind it what was imported.
PROGRAM = """
import sys
from ops.cli import main, quick_help

def show(command, words):
    try:
        command.main(["--help"], prog_name=" ".join(words))
    except SystemExit:
        pass
    for name, each in getattr(command, "commands", {}).items():
        show(each, [*words, name])

for name in main.COMMANDS:
    if sys.argv[1] == "quick":
        command = quick_help.load_for_help(lambda: main.load(name))
    else:
        command = main.load(name)
    show(command, [name])
print("imported:", *(name for name, each in sys.modules.items() if getattr(each, "__file__", None)))
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words],
        cwd=PROJECT_ROOT,
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )


def test_help_without_what_does_the_work_says_the_same() -> None:
    (whole, _), (quick, imported) = (
        run("-c", PROGRAM, way).stdout.split("imported:") for way in ("whole", "quick")
    )
    assert whole.count("Usage:") > 40
    assert quick == whole
    work = {"aio_pika", "aiohttp", "asyncpg", "cryptography", "opentelemetry", "redis"}
    assert work & {*imported.split()} == set()


def test_help_of_a_command_in_a_group_is_printed() -> None:
    done = run("-m", "ops.cli", "sale", "create", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "sale create" in done.stdout


def test_help_as_a_value_does_nothing_and_says_so() -> None:
    order_id = "019aab2f-4c00-8000-8005-5d3c1f0a2b7e"
    done = run("-m", "ops.cli", "refund", order_id, "--reason", "--help")
    assert done.returncode == 2
    assert done.stderr.startswith("seckill: --help is no value here")


def test_help_behind_two_dashes_is_a_word_like_any_other() -> None:
    done = run("-m", "ops.cli", "gateway", "--", "--help")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
