"""scripts/read_contract.py finds every part of the contract in this tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from config.settings import PROJECT_ROOT


@pytest.fixture(scope="module")
def contract(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("contract") / "now"
    script = PROJECT_ROOT / "scripts" / "read_contract.py"
    subprocess.run([sys.executable, script, PROJECT_ROOT, out], check=True, timeout=60)
    return out


@pytest.mark.parametrize(
    ("section", "part"),
    [
        ("openapi.json", '"/v1/sales/{sale_id}/grabs": {'),
        ("admin.txt", "PUT /admin/sales/{sale_id}/limits\n"),
        ("help.txt", "Exit codes: 0 "),
        ("help.txt", "$ seckill sale open --help\n"),
        ("metrics.txt", "seckill_grabs counter ['verdict']\n"),
        ("metrics.txt", "seckill_role_done counter ['role']\n"),
        ("keys.txt", "sk:{A}:bucket:B\n"),
        ("queues.txt", "bind orders.timer.900s to seckill direct by orders.timer.900s\n"),
        ("messages.txt", '"traceparent": {'),
        ("messages.txt", '"amount_cents": {'),
        ("settings.json", '"default": "PROJECT/.seckill"'),
    ],
)
def test_each_part_is_found(contract: Path, section: str, part: str) -> None:
    assert part in (contract / section).read_text()
