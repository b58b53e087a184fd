"""The browser's solver finds what the gateway's own does, for challenges of every length."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import Any

import pytest

from config.settings import PROJECT_ROOT
from seckill_client.proof_of_work import solve
from tests.unit.seckill.auth.test_proof_of_work import KNOWN

WORKER = PROJECT_ROOT / "gateway" / "static" / "proof-worker.js"
LINES_MAX = 120
#: Stands in for the browser: gives the worker its tasks, prints what it posts.
HARNESS = """
const { readFileSync } = require("node:fs");
globalThis.self = { postMessage: (message) => console.log(JSON.stringify(message)) };
(0, eval)(readFileSync(process.argv[1], "utf8"));
for (const data of JSON.parse(readFileSync(0, "utf8"))) self.onmessage({ data });
"""


def work(*tasks: tuple[int, str]) -> list[dict[str, Any]]:
    """Let one worker solve challenges; return all messages that it posted."""
    node = shutil.which("node")
    if node is None:
        assert not os.environ.get("CI"), "node is needed to test the browser's solver"
        pytest.skip("node is not installed")
    data = [{"bits": bits, "challenge": challenge} for bits, challenge in tasks]
    done = subprocess.run(
        [node, "-e", HARNESS, str(WORKER)],
        input=json.dumps(data),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_known_challenges_have_their_known_solutions() -> None:
    answers = work(*((bits, challenge) for bits, challenge, _ in KNOWN))
    assert [answer["solution"] for answer in answers] == [solution for _, _, solution in KNOWN]


def test_challenges_of_every_length_are_solved_alike() -> None:
    """Blocks of SHA-256 end at each place: in the challenge, in the number, in the padding."""
    tasks = [(7, "c" * length) for length in range(150)]
    assert [answer["solution"] for answer in work(*tasks)] == [
        solve(challenge, bits) for bits, challenge in tasks
    ]


def test_progress_is_reported_until_the_solution_comes() -> None:
    challenge = "k1~2000000000~17~abcdefghijklmnopqrstuv~00000000000000000000000000000014"
    assert work((17, challenge)) == [
        {"hashes": 65_536},
        {"hashes": 131_072},
        {"solution": "137408", "hashes": 137_409},
    ]


def test_the_worker_stays_small() -> None:
    assert len(WORKER.read_text().splitlines()) <= LINES_MAX
