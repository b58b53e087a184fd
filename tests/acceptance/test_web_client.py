"""The client for pages: its own tests in node, and its types."""

from __future__ import annotations

import asyncio
import os
import shutil

import pytest

from config.settings import PROJECT_ROOT


async def test_the_client_passes_its_tests_and_its_types_are_published():
    for program in ("node", "npm"):
        if not shutil.which(program):
            say = pytest.fail if os.environ.get("CI") else pytest.skip
            say(f"{program} is missing; type: sudo apt-get install nodejs npm")
    process = await asyncio.create_subprocess_exec(
        *("sh", "scripts/check-web"),
        cwd=PROJECT_ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
