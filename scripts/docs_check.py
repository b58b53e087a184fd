"""Run the `sh` blocks of README and docs, page by page, each page in one shell.

A page starts its own stack; its home is a temporary folder, and its ports are free ones. A page
fails when a command exits with another status than 0, or when it takes longer than its time limit.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ops.stack.services import temporary_home

ROOT = Path(__file__).resolve().parents[1]
#: Several times what the longest page takes, with three servers to start and a demo to play.
PAGE_S = 300.0
SKIP = re.compile(r"<!-- docs-check: skip (\S.*) -->")
FENCE = re.compile(r"\s*```(\w*)$")
#: `curl` fails on an error answer. It comes back where an answer asks for that, as a client would.
PRELUDE = """
set -eu
curl() { command curl --fail --show-error --retry 3 --retry-all-errors --max-time 30 "$@"; }
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a page."""

    page: Path
    #: The line of its fence, from 1.
    line: int
    language: str
    text: str
    #: Why it is not run; "" if it is.
    skipped: str


def pages() -> list[Path]:
    """Return README and all pages of docs, README first."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks_of(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page; raise SystemExit if one has no end."""
    lines = page.read_text().splitlines()
    begun: int | None = None
    language = skipped = ""
    for number, line in enumerate(lines, 1):
        fence = FENCE.match(line)
        if begun is None and fence:
            begun, language = number, fence[1]
            tag = SKIP.match(lines[number - 2].strip()) if number > 1 else None
            skipped = tag[1] if tag else ""
        elif begun is not None and fence:
            text = "\n".join(lines[begun : number - 1])
            yield Block(page, begun, language, text, skipped)
            begun = None
    if begun is not None:
        raise SystemExit(f"{page}:{begun}: the block has no end")


def script_of(blocks: list[Block]) -> str:
    """Return one shell script that runs the blocks and says which of them it has come to."""
    parts = [PRELUDE]
    for block in blocks:
        parts += [f"echo '--- {block.page.relative_to(ROOT)}:{block.line}'", block.text]
    return "\n".join(parts)


def check(page: Path) -> bool:
    """Run a page; return whether each of its commands succeeded."""
    name = str(page.relative_to(ROOT))
    blocks = [block for block in blocks_of(page) if block.language == "sh"]
    running = [block for block in blocks if not block.skipped]
    if not running:
        return True
    began = time.monotonic()
    with temporary_home() as home:
        # What a person has set must not lead a page to that person's stores.
        environ = {k: v for k, v in os.environ.items() if not k.startswith("SECKILL_")}
        environ |= {
            "SECKILL_HOME": str(home),
            "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}",
        }
        log = home / "docs-check.log"
        status = _run(script_of(running), environ, log)
        output = log.read_text(errors="replace")
    skipped, took_s = len(blocks) - len(running), time.monotonic() - began
    took = f"{len(running)} blocks in {took_s:.0f} s, {skipped} skipped"
    if status == 0:
        print(f"{name}: {took}")
        return True
    print(f"{name}: FAILED ({took}, {status})\n{output}", file=sys.stderr)
    return False


def _run(script: str, environ: dict[str, str], log: Path) -> int | str:
    """Run a script, then stop the stack that it may have left; return its status."""
    with log.open("w") as out:
        try:
            return subprocess.run(
                ["sh", "-c", script],  # noqa: S607 - the shell that the pages are written for
                cwd=ROOT,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=PAGE_S,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            return f"not done after {PAGE_S:g} s"
        finally:
            subprocess.run(
                [ROOT / ".venv/bin/seckill", "down"],
                cwd=ROOT,
                env=environ,
                stdout=out,
                stderr=subprocess.STDOUT,
                check=False,
            )


def main(names: list[str]) -> int:
    """Check the pages named, or all; return the exit status."""
    chosen = [Path(name).resolve() for name in names] or pages()
    failed = [page for page in chosen if not check(page)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
