"""What product code may not use, because a pooler gives each transaction another session."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
#: Statements that outlive their transaction, and calls that PooledSession does not make safe.
OF_A_SESSION = re.compile(
    r"pg_(try_)?advisory_lock|\bLISTEN \w|\.add_listener\(|\.executemany\(|\.cursor\("
    r"|\.copy_\w+_table\(|set_config\([^)]*, false\)|\bSET (?!LOCAL\b)[a-z_]+ TO\b"
)


@pytest.mark.parametrize("package", ["seckill", "gateway", "consumers", "ops"])
def test_nothing_is_left_in_a_session_of_postgresql(package: str) -> None:
    found = {
        (str(path.relative_to(ROOT)), match[0])
        for kind in ("py", "sql")
        for path in (ROOT / package).rglob(f"*.{kind}")
        for match in OF_A_SESSION.finditer(path.read_text())
    }
    # A direct connection is ours alone.
    allowed = {
        (path, words) for path, words in found if path == "seckill/adapters/postgres_sessions.py"
    }
    assert found - allowed == set()
