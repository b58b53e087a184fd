"""Counts for reports: by one label, zeros left out; buckets apart, so that differences add up."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter

from seckill.hot_metrics import HotHistogram
from seckill.registry.counts import buckets, by_label


def test_counts_go_by_one_label() -> None:
    metric = Counter("m", "…", ["role", "queue"], registry=CollectorRegistry())
    metric.labels("relay", "a").inc(2)
    metric.labels("relay", "b").inc(3)
    metric.labels("sweep part", "a").inc()
    metric.labels("idle", "a")
    assert by_label(metric, "role", "done:") == {"done:relay": 5, "done:sweep": 1}
    assert by_label(metric, "", "all") == {"all": 6}


def test_buckets_are_apart_and_of_all_labels_together() -> None:
    metric = HotHistogram("test_counts_waits", "…", ["verdict"], (0.5, 1.0))
    REGISTRY.unregister(metric)  # it would be among the metrics of other tests
    for verdict, wait_s in (("a", 0.1), ("a", 0.7), ("b", 0.7), ("b", 9.0)):
        metric.labels(verdict).observe(wait_s)
    assert buckets(metric, "wait:") == {"wait:0-0.5": 1, "wait:0.5-1": 2, "wait:1-inf": 1}
