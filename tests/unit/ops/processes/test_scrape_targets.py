"""The files that tell Prometheus where processes have their metrics."""

from __future__ import annotations

import json
from pathlib import Path

from ops.processes.scrape_targets import write_targets


def test_each_process_is_a_target_with_a_name_that_outlives_its_port(tmp_path: Path) -> None:
    write_targets(tmp_path, "gateway", {"gateway-1": "http://127.0.0.1:8081"})
    write_targets(
        tmp_path, "gateway", {"gateway-1": "http://127.0.0.1:9", "gateway-2": "http://h:8"}
    )

    (file,) = (tmp_path / "prometheus").iterdir()
    assert file.name == "gateway.json"
    assert json.loads(file.read_text()) == [
        {"targets": ["127.0.0.1:9"], "labels": {"job": "seckill-gateway", "instance": "gateway-1"}},
        {"targets": ["h:8"], "labels": {"job": "seckill-gateway", "instance": "gateway-2"}},
    ]


def test_without_processes_there_is_no_file(tmp_path: Path) -> None:
    write_targets(tmp_path, "consumers", {})
    write_targets(tmp_path, "consumers", {"consumers-1": "http://127.0.0.1:9"})
    write_targets(tmp_path, "consumers", {})

    assert list((tmp_path / "prometheus").iterdir()) == []
