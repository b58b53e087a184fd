"""The measures of the canary, asked of series as Prometheus would have them: promtool computes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

#: Where promtool makes its databases, so that no test waits for the disk.
MEMORY = Path("/dev/shm")  # noqa: S108 - promtool makes a folder of its own there
NEW, OLD = '{rollouts_pod_template_hash="new"', '{rollouts_pod_template_hash="old"'
#: Ten looks, half a minute apart. Old gateways and what is refused under load must not count.
HEALTHY = {
    f'seckill_grabs_total{NEW},verdict="accepted"}}': "0+990x10",
    f'seckill_grabs_total{NEW},verdict="overloaded"}}': "0+500x10",
    f'seckill_grabs_total{OLD},verdict="unavailable"}}': "0+500x10",
    f'seckill_grab_seconds_bucket{NEW},le="0.1"}}': "0+100x10",
    f'seckill_grab_seconds_bucket{NEW},le="0.5"}}': "0+100x10",
    f'seckill_grab_seconds_bucket{NEW},le="+Inf"}}': "0+100x10",
    f'seckill_grab_seconds_bucket{OLD},le="0.1"}}': "0+0x10",
    f'seckill_grab_seconds_bucket{OLD},le="0.5"}}': "0+100x10",
    f'seckill_grab_seconds_bucket{OLD},le="+Inf"}}': "0+100x10",
    'seckill_placement_seconds_bucket{le="1"}': "0+100x10",
    'seckill_placement_seconds_bucket{le="10"}': "0+100x10",
    'seckill_placement_seconds_bucket{le="+Inf"}': "0+100x10",
    'seckill_ledger_difference_units{kind="redis_fewer"}': "5x10",
    'seckill_ledger_difference_units{kind="redis_more"}': "0x10",
    'seckill_sales_to_rebuild{why="lost"}': "0x10",
    'seckill_dead_letters_total{queue="orders.place"}': "0x10",
}
FAULTS = {
    "unavailable": ({f'seckill_grabs_total{NEW},verdict="unavailable"}}': "0+15x10"}, 0.01),
    "p99": ({f'seckill_grab_seconds_bucket{NEW},le="0.1"}}': "0+50x10"}, 0.492),
    "placed": ({'seckill_placement_seconds_bucket{le="1"}': "0+50x10"}, 9.82),
    "ledger": ({'seckill_ledger_difference_units{kind="redis_more"}': "3x10"}, 3),
}
GOOD = {"unavailable": 0, "p99": 0.099, "placed": 0.99, "ledger": 0}

Measures = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def measures(render: Callable[[Mapping[str, Any]], list[dict[str, Any]]]) -> Measures:
    """Return the canary's measures by name."""
    objects = render({"gateway": {"canary": {"enabled": True}}})
    (template,) = (found for found in objects if found["kind"] == "AnalysisTemplate")
    return {measure["name"]: measure for measure in template["spec"]["metrics"]}


@pytest.fixture
def computes(measures: Measures, tmp_path: Path) -> Callable[..., None]:
    """Assert what the measures are for these series."""
    if (promtool := shutil.which("promtool")) is None:
        lack = "promtool is missing: apt-get install prometheus"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(lack)

    def check(series: Mapping[str, str], expected: Mapping[str, float]) -> None:
        rules = [
            {"record": f"canary:{name}", "expr": f"round({query_of(measure)}, 0.001)"}
            for name, measure in measures.items()
        ]
        (tmp_path / "rules.json").write_text(
            json.dumps({"groups": [{"name": "x", "rules": rules}]})
        )
        values = [
            {
                "expr": f"canary:{name}",
                "eval_time": "5m",
                "exp_samples": [{"labels": f"canary:{name}", "value": value}],
            }
            for name, value in expected.items()
        ]
        test = {
            "rule_files": ["rules.json"],
            "evaluation_interval": "30s",
            "tests": [
                {
                    "interval": "30s",
                    "input_series": [{"series": n, "values": v} for n, v in series.items()],
                    "promql_expr_test": values,
                }
            ],
        }
        file = tmp_path / "test.json"
        file.write_text(json.dumps(test))
        environment = {**os.environ, "TMPDIR": str(MEMORY if MEMORY.is_dir() else tmp_path)}
        done = subprocess.run(
            [str(promtool), "test", "rules", str(file)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return check


def query_of(measure: Mapping[str, Any]) -> str:
    query: str = measure["provider"]["prometheus"]["query"]
    return query.replace("{{args.canary-hash}}", "new")


def passes(measure: Mapping[str, Any], value: float) -> bool:
    """Judge a value by the measure's own condition."""
    found = re.fullmatch(r"result\[0\] (<=|==) (\S+)", measure["successCondition"])
    assert found
    bound = float(found[2])
    return value <= bound if found[1] == "<=" else value == bound


def test_a_healthy_canary_passes(measures: Measures, computes: Callable[..., None]) -> None:
    computes(HEALTHY, GOOD)
    assert all(passes(measures[name], value) for name, value in GOOD.items())


def test_a_canary_without_traffic_passes(measures: Measures, computes: Callable[..., None]) -> None:
    nothing = dict.fromkeys(GOOD, 0)
    computes({"up": "1x10"}, nothing)
    assert all(passes(measures[name], value) for name, value in nothing.items())


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_seen_by_its_measure_alone(
    measures: Measures, computes: Callable[..., None], name: str
) -> None:
    series, value = FAULTS[name]
    computes({**HEALTHY, **series}, {**GOOD, name: value})
    assert not passes(measures[name], value)
