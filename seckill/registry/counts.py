"""Counts of this process's metrics, by one label, for its reports."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from prometheus_client import Metric


class Collected(Protocol):
    """A metric of the library, or one of ours for the hot path."""

    def collect(self) -> Iterable[Metric]:
        """Return what it counted."""


def by_label(metric: Collected, label: str, prefix: str) -> dict[str, float]:
    """Return `prefix` and the label's value -> count; other labels are added up, zeros left out."""
    found: dict[str, float] = {}
    for family in metric.collect():
        for sample in family.samples:
            if sample.name.endswith("_total") and sample.value:
                name = prefix + sample.labels.get(label, "").partition(" ")[0]
                found[name] = found.get(name, 0) + sample.value
    return found


def buckets(metric: Collected, prefix: str) -> dict[str, float]:
    """Return `prefix` and a bucket's two bounds in seconds -> observations in it, of all labels.

    They are not cumulative, so that empty buckets can be left out.
    """
    found: dict[str, float] = {}
    for family in metric.collect():
        below = low = 0.0
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                inside, below = sample.value - below, sample.value
                high = float(sample.labels["le"])
                if inside:
                    name = f"{prefix}{low:g}-{high:g}"
                    found[name] = found.get(name, 0) + inside
                low = high
            else:
                below = low = 0.0  # the count and sum that end the buckets of one label
    return found
