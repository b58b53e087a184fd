"""Write the dashboards from the list in panels.py: `python deploy/grafana/dashboards.py [--check]`.

With --check nothing is written, and the exit code is 1 if a file is not as it would be written.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from panels import DASHBOARDS, Panel

HERE = Path(__file__).resolve().parent
#: Grafana's grid has 24 columns.
COLUMNS = 24
STAT, GRAPH = (6, 4), (12, 8)
#: Of the JSON format: Grafana 10 and newer read it.
SCHEMA_VERSION = 39
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard_of(uid: str) -> dict[str, Any]:
    """Return a dashboard as Grafana imports it."""
    title, panels = DASHBOARDS[uid]
    return {
        "uid": f"seckill-{uid}",
        "title": title,
        "tags": ["seckill"],
        "schemaVersion": SCHEMA_VERSION,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "5s",
        "time": {"from": "now-15m", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {
                    "name": "datasource",
                    "label": "Prometheus",
                    "type": "datasource",
                    "query": "prometheus",
                    "current": {},
                    "hide": 0,
                }
            ]
        },
        "annotations": {
            "list": [
                {
                    "name": "Alerts",
                    "datasource": SOURCE,
                    "enable": True,
                    "expr": 'ALERTS{alertname=~"Seckill.*",alertstate="firing",severity="page"}',
                    "iconColor": "red",
                    "titleFormat": "{{alertname}}",
                }
            ]
        },
        "links": [
            {"type": "dashboards", "tags": ["seckill"], "title": "Seckill", "asDropdown": True}
        ],
        "panels": _placed(panels),
    }


def _placed(panels: Sequence[Panel]) -> list[dict[str, Any]]:
    x = y = height = 0
    placed = []
    for number, panel in enumerate(panels, 1):
        width, tall = STAT if panel.is_stat else GRAPH
        if x + width > COLUMNS:
            x, y = 0, y + height
        height = tall
        place = {"x": x, "y": y, "w": width, "h": tall}
        placed.append({"id": number, "gridPos": place, **_panel(panel)})
        x += width
    return placed


def _panel(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    custom: dict[str, Any] = {}
    if panel.threshold is not None:
        steps.append({"color": "red", "value": panel.threshold})
        custom = {"thresholdsStyle": {"mode": "line"}}
    return {
        "type": "stat" if panel.is_stat else "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": SOURCE,
        "targets": [
            {
                "refId": chr(ord("A") + n),
                "datasource": SOURCE,
                "expr": expression,
                "legendFormat": legend or "__auto",
                # The traces that buckets name; a recording has none.
                **({"exemplar": True} if "_bucket" in expression else {}),
            }
            for n, (legend, expression) in enumerate(panel.lines.items())
        ],
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "thresholds": {"mode": "absolute", "steps": steps},
                "custom": custom,
            },
            "overrides": [],
        },
        "options": {} if panel.is_stat else {"tooltip": {"mode": "multi", "sort": "desc"}},
    }


def main(check: bool) -> int:
    """Write the files, or compare them; return the exit code."""
    stale = []
    for uid in DASHBOARDS:
        path = HERE / f"{uid}.json"
        text = json.dumps(dashboard_of(uid), indent=1) + "\n"
        if not check:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale.append(path.name)
    if stale:
        print(
            f"not as written: {', '.join(stale)}; type: python deploy/grafana/dashboards.py",
            file=sys.stderr,
        )
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
