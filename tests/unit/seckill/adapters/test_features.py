"""The probe at start tries every command that the scripts use."""

from __future__ import annotations

import re
from pathlib import Path

from seckill.adapters import features

LUA = Path(__file__).resolve().parents[4] / "lua"
CALL = re.compile(r"""redis\.p?call\(\s*["'](\w+)["']""")


def test_every_command_of_the_scripts_is_tried() -> None:
    used = {name for path in LUA.glob("*.lua") for name in CALL.findall(path.read_text())}
    assert "ZMSCORE" in used
    assert used - features.COMMANDS - {"UNLINK"} == set()
