"""Metrics of the hot path, for processes that count in one thread.

The library's own counter takes a lock and a microsecond, several times in a grab. These take a
fifth of a microsecond and are put into the library's form when they are scraped.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar


class HotCounter(Collector):
    """A counter with labels."""

    def __init__(self, name: str, documentation: str, labels: Sequence[str]) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._counts: dict[tuple[str, ...], HotCount] = {}
        REGISTRY.register(self)

    def labels(self, *values: str) -> HotCount:
        """Return the count for these values of the labels."""
        return self._counts.setdefault(values, HotCount())

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Report the counts to the registry."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, count in self._counts.items():
            family.add_metric(values, count.value)
        yield family


class HotCount:
    """How often something happened."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, times: int = 1) -> None:
        """Add to the count."""
        self.value += times


class HotHistogram(Collector):
    """A histogram with labels, in classic buckets.

    Prometheus reads native histograms from the protobuf format only, which the library does not
    write.
    """

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], bounds: Sequence[float]
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        self._bounds = tuple(map(float, bounds))
        self._les = [*map(str, self._bounds), "+Inf"]
        self.distributions: dict[tuple[str, ...], HotDistribution] = {}
        if not labels:
            self.labels()  # reported from the beginning
        REGISTRY.register(self)

    def labels(self, *values: str) -> HotDistribution:
        """Return the distribution for these values of the labels."""
        found = self.distributions.get(values)
        if found is None:
            found = self.distributions[values] = HotDistribution(self._bounds)
        return found

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """Report the distributions to the registry."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, distribution in self.distributions.items():
            # Each has some fifteen lines, and each line costs a scrape 8 us.
            if self._labels and not distribution.count:
                continue
            counts = map(float, accumulate(distribution.counts))
            buckets: list[tuple[str, float] | tuple[str, float, Exemplar]] = [
                (le, count, example) if (example := distribution.example_of(n)) else (le, count)
                for n, (le, count) in enumerate(zip(self._les, counts, strict=True))
            ]
            family.add_metric(values, buckets, distribution.sum)
        yield family


class TracedSize(NamedTuple):
    """One observation whose trace can be looked at, and its Unix time."""

    size: float
    trace_id: str
    at_s: float


class HotDistribution:
    """How often each size was seen."""

    __slots__ = ("_bounds", "_examples", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        #: The last traced observation of each bucket that has one.
        self._examples: dict[int, TracedSize] = {}
        #: Observations up to each bound and above the one before; the last are above all bounds.
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, size: float, times: int = 1) -> None:
        """Count an observation, or several of the same size."""
        self.counts[bisect_left(self._bounds, size)] += times
        self.sum += size * times

    def exemplify(self, size: float, trace_id: str) -> None:
        """Name the trace of an observation that was counted; only traced ones pay for it."""
        bucket = bisect_left(self._bounds, size)
        self._examples[bucket] = TracedSize(size, trace_id, time.time())

    def example_of(self, bucket: int) -> Exemplar | None:
        """Return the exemplar of a bucket; only the OpenMetrics format shows it."""
        if (example := self._examples.get(bucket)) is None:
            return None
        return Exemplar({"trace_id": example.trace_id}, example.size, example.at_s)

    @property
    def count(self) -> int:
        """All observations."""
        return sum(self.counts)


class DerivedCounter(Collector):
    """A counter that is read off other metrics, so that the hot path counts once."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        read: Callable[[], Mapping[tuple[str, ...], int]],
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, labels
        #: Returns the counts by the values of the labels.
        self._read = read
        REGISTRY.register(self)

    def collect(self) -> Iterable[CounterMetricFamily]:
        """Report the counts to the registry."""
        family = CounterMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, count in self._read().items():
            family.add_metric(values, count)
        yield family
