"""Alerts and dashboards: promtool takes them, and each alert leads to a section of the runbook."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seckill import metrics

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
TESTS = RULES.with_name("rules_test.yml")
MEMORY = Path("/dev/shm")  # noqa: S108 - promtool makes a folder of its own there
GRAFANA = ROOT / "deploy" / "grafana"


def promtool(*args: str) -> str:
    program = shutil.which("promtool")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is missing")
        pytest.skip("promtool is missing: apt-get install prometheus")
    # It makes a database for each test, and waits for the disk: in memory that is no wait.
    environment = {**os.environ} | ({"TMPDIR": str(MEMORY)} if MEMORY.is_dir() else {})
    ran = subprocess.run(
        [program, *args], capture_output=True, text=True, check=False, env=environment
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"(?m)^#+ (.+)$", page.read_text())
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def test_the_rules_are_sound_and_each_alert_fires_in_its_fault_alone() -> None:
    assert "SUCCESS" in promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(TESTS))


def test_each_alert_has_a_fault_in_which_it_is_shown_to_fire() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    fired = set(re.findall(r'alertname="(\w+)"', TESTS.read_text()))
    assert len(alerts) == len({*alerts})
    assert {*alerts} == fired


def test_each_row_of_the_failure_table_has_its_alerts() -> None:
    architecture = (ROOT / "docs" / "architecture.md").read_text()
    failures = architecture.partition("## When a part dies")[2].partition("\n## ")[0]
    alerts = (ROOT / "docs" / "metrics.md").read_text().partition("## Alerts")[2]
    alerts = alerts.partition("\n## ")[0]
    of_table = [{*re.findall(r"(?m)^\| ([^|]+) \|", text)[1:]} for text in (failures, alerts)]
    assert of_table[0] == of_table[1]
    assert set(re.findall(r"`(Seckill\w+)`", alerts)) <= set(
        re.findall(r"- alert: (\w+)", RULES.read_text())
    )


def test_each_alert_leads_to_a_section_of_a_page_and_has_a_severity() -> None:
    alerts = RULES.read_text().split("- alert: ")[1:]
    for alert in alerts:
        (severity,) = re.findall(r"severity: (\w+)", alert)
        (page, anchor) = re.findall(r"runbook_url: (docs/[\w-]+\.md)#(\S+)", alert)[0]
        assert severity in ("page", "ticket"), alert
        assert anchor in anchors(ROOT / page), f"{page} has no section #{anchor}"


def expressions() -> list[str]:
    """Return every expression of the dashboards."""
    boards = [json.loads(path.read_text()) for path in sorted(GRAFANA.glob("*.json"))]
    targets = [t["expr"] for board in boards for p in board["panels"] for t in p["targets"]]
    return targets + [a["expr"] for board in boards for a in board["annotations"]["list"]]


def test_rules_and_dashboards_read_metrics_and_recordings_that_there_are() -> None:
    families = [
        family
        for metric in vars(metrics).values()
        if hasattr(metric, "collect") and not isinstance(metric, type)
        for family in metric.collect()
    ]
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"], "gauge": [""]}
    names = {family.name + suffix for family in families for suffix in suffixes[family.type]}
    text = "\n".join([RULES.read_text(), TESTS.read_text(), *expressions()])
    assert set(re.findall(r"\bseckill_\w+", text)) - names == set()
    recordings = set(re.findall(r"- record: (\S+)", RULES.read_text()))
    assert set(re.findall(r"\bseckill:[\w:]+", text)) == recordings


def test_the_dashboards_are_as_their_list_of_panels_says() -> None:
    args = [sys.executable, str(GRAFANA / "dashboards.py"), "--check"]
    ran = subprocess.run(args, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_prometheus_understands_every_expression_of_the_dashboards(tmp_path: Path) -> None:
    rules = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(expressions())]
    file = tmp_path / "panels.yml"
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"SUCCESS: {len(rules)} rules" in promtool("check", "rules", str(file))


def test_the_configuration_is_sound() -> None:
    promtool("check", "config", str(RULES.with_name("prometheus.yml")))
