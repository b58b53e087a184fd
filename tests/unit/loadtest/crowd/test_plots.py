"""What is drawn of the files that load runs write."""

from __future__ import annotations

import json
import math

import pytest
import typer

from loadtest.bench.grab_costs import Growth, Point, Round
from loadtest.crowd.plots import (
    crowd_title,
    draw,
    growth_title,
    line_of,
    origin_text,
    rates_of,
    read,
)
from loadtest.crowd.report import CrowdReport
from loadtest.crowd.requests import PlannedRequest
from loadtest.findings import origin


def as_read(figures: dict) -> dict:
    """Return it as it comes back from a file: all keys are text."""
    return json.loads(json.dumps(figures))


@pytest.fixture
def crowd() -> dict:
    """A second of a run: ten 202, then nine 409, and one that got no answer."""
    requests = [
        PlannedRequest(
            n / 20, b"", sent_s=n / 20 + 0.001, answered_s=n / 20 + 0.01 * (n + 1), status=status
        )
        for n, status in enumerate([202] * 10 + [409] * 9 + [0])
    ]
    options = {"arrivals": "poisson", "gateways": 2, "consumers": 1, "sales": 1}
    return as_read(
        origin("crowd", {"Redis": "7.0.15"})
        | {"options": options}
        | CrowdReport(1, requests).plain()
    )


@pytest.fixture
def growth() -> dict:
    points = [Point(size, [Round(100, size / 100, 40, 8)] * 3) for size in (10_000, 100_000)]
    options = {"rounds": 3, "seconds": 2, "connections": 256}
    plain = Growth("holders", points).plain()
    return as_read(origin("growth", {}) | {"options": options, "holders": plain})


def test_classes_and_what_got_no_answer_add_up_to_what_was_offered(crowd) -> None:
    rates = rates_of(crowd["buckets"], crowd["bucket_s"])
    assert list(rates) == ["202", "409", "none"]
    assert rates["202"] == pytest.approx([20] * 5 + [0] * 5)
    assert rates["409"] == pytest.approx([0] * 5 + [20] * 4 + [10])
    assert rates["none"] == pytest.approx([0] * 9 + [10])


def test_a_class_with_few_answers_in_a_bucket_has_no_line_there() -> None:
    series = [
        {"classes": {"202": {"count": 5, "p99": 7.5}}},
        {"classes": {"202": {"count": 4, "p99": 9.5}}},
        {"classes": {}},
    ]
    first, *others = line_of(series, "202", "p99")
    assert first == 7.5
    assert all(math.isnan(value) for value in others)


def test_a_picture_says_what_was_measured_where_and_with_what(crowd, growth) -> None:
    assert crowd_title(crowd | {"valid": True}) == (
        "Open-loop crowd, poisson: 20 grabs/s on average for 1 s\n2 gateways, 1 consumer, 1 sale"
    )
    assert crowd_title(crowd | {"valid": False}).startswith("INVALID")
    at = {"arrivals": "even", "url": "http://127.0.0.1:8080", "sale": "demo"}
    assert "sale demo at http://127.0.0.1:8080" in crowd_title(crowd | {"options": at})
    assert growth_title(growth).endswith("medians of 3 rounds of 2 s")
    assert "Redis 7.0.15" in origin_text(crowd)
    assert crowd["measured_at"][:10] in origin_text(crowd)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"kind": "other"}', '"crowd"'])
def test_a_file_without_figures_is_refused(tmp_path, text) -> None:
    file = tmp_path / "figures.json"
    file.write_text(text)
    with pytest.raises(typer.BadParameter, match="give a file that crowd or growth wrote"):
        read(file)
    with pytest.raises(typer.BadParameter, match="No such file"):
        read(tmp_path / "none.json")


@pytest.mark.parametrize(("form", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_both_kinds_are_drawn(tmp_path, crowd, growth, form, magic) -> None:
    pytest.importorskip("matplotlib", reason="scripts/bench installs the extra bench")
    for figures in (crowd, growth):
        picture = tmp_path / f"{figures['kind']}.{form}"
        draw(figures, picture)
        assert picture.read_bytes().startswith(magic)
