"""Metrics of the hot path, as Prometheus reads them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from seckill.hot_metrics import DerivedCounter, HotHistogram


@pytest.fixture
def histogram() -> Iterator[HotHistogram]:
    made = HotHistogram("test_waits_seconds", "Waits", ["verdict"], (0.1, 1))
    yield made
    REGISTRY.unregister(made)


def samples() -> dict[str, float]:
    """Return the samples of this test as `name{values}`: value."""
    families = text_string_to_metric_families(generate_latest().decode())
    return {
        "/".join([sample.name, *sample.labels.values()]): sample.value
        for family in families
        for sample in family.samples
        if sample.name.startswith(("test_waits_", "test_answers_"))
    }


def test_a_histogram_counts_each_bucket_with_those_below_it(histogram: HotHistogram) -> None:
    won = histogram.labels("won")
    won.observe(0.1)  # the bound itself is within the bucket
    won.observe(0.5, 3)
    won.observe(7)

    assert samples() == {
        "test_waits_seconds_bucket/0.1/won": 1,
        "test_waits_seconds_bucket/1.0/won": 4,
        "test_waits_seconds_bucket/+Inf/won": 5,
        "test_waits_seconds_count/won": 5,
        "test_waits_seconds_sum/won": pytest.approx(8.6),
    }


def test_a_bucket_names_the_last_trace_in_openmetrics_alone(histogram: HotHistogram) -> None:
    won = histogram.labels("won")
    for size, trace_id in [(0.05, "a" * 32), (0.5, "b" * 32), (0.6, "c" * 32)]:
        won.observe(size)
        won.exemplify(size, trace_id)

    assert "trace_id" not in generate_latest().decode()
    encode, content_type = choose_encoder("application/openmetrics-text; version=1.0.0")
    families = openmetrics_families(encode(REGISTRY).decode())
    (family,) = (f for f in families if f.name == "test_waits_seconds")
    named = {s.labels["le"]: s.exemplar for s in family.samples if s.exemplar}
    assert content_type.startswith("application/openmetrics-text")
    assert {le: (e.labels["trace_id"], e.value) for le, e in named.items()} == {
        "0.1": ("a" * 32, 0.05),
        "1.0": ("c" * 32, 0.6),
    }


def test_what_was_never_observed_costs_no_line(histogram: HotHistogram) -> None:
    histogram.labels("won")
    assert samples() == {}


def test_a_value_of_the_label_has_one_distribution(histogram: HotHistogram) -> None:
    assert histogram.labels("won") is histogram.labels("won")
    assert histogram.labels("won") is not histogram.labels("lost")


def test_a_derived_counter_follows_what_it_is_read_off(histogram: HotHistogram) -> None:
    won = histogram.labels("won")
    counter = DerivedCounter("test_answers", "Answers", ["verdict"], lambda: {("won",): won.count})
    won.observe(0.2, 2)
    try:
        assert samples()["test_answers_total/won"] == 2
    finally:
        REGISTRY.unregister(counter)
