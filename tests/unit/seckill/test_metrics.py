"""docs/metrics.md has every metric, with its type and its labels."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import REGISTRY

from seckill import metrics

PAGE = Path(__file__).resolve().parents[3] / "docs" / "metrics.md"


def declared() -> Iterator[tuple[str, str, str]]:
    """Yield name, type and labels of each metric that seckill/metrics.py declares."""
    for metric in vars(metrics).values():
        if hasattr(metric, "collect") and not isinstance(metric, type):
            (family,) = metric.collect()
            labels = getattr(metric, "_labels", None) or getattr(metric, "_labelnames", ())
            suffix = "_total" if family.type == "counter" else ""
            yield family.name + suffix, family.type, ", ".join(labels)


def test_the_page_has_every_metric_with_its_type_and_labels() -> None:
    rows = re.findall(r"(?m)^\| `(seckill_\w+)` \| (\w+) \| ([\w, ]*?) *\|", PAGE.read_text())
    assert sorted(rows) == sorted(declared())


def test_each_metric_is_registered() -> None:
    names = {family.name for family in REGISTRY.collect()}
    assert {name.removesuffix("_total") for name, _, _ in declared()} <= names


def test_the_former_name_counts_every_refusal_but_that_of_a_limit() -> None:
    def shed() -> float:
        return REGISTRY.get_sample_value("seckill_shed_total") or 0.0

    before = shed()
    metrics.REFUSED_BY_LIMIT.inc()
    assert shed() == before
    for refused in (metrics.REFUSED_SHED, metrics.REFUSED_STALE, metrics.REFUSED_CONNECTION):
        refused.inc()
    assert shed() == before + 3
