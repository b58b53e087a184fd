"""`python -m loadtest.crowd.plots FILE…`: pictures of what the crowd and `growth` wrote.

Of a crowd: throughput by class of answer, and latencies, over the time of the run. Of growth: the
cost of a grab against the number of holders, and of sales.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Json = Mapping[str, Any]

#: Class of answer -> what it means, and its colour. Every pair of colours looks different also to
#: colour-blind people: the palette of Okabe and Ito.
CLASSES = {
    "200": ("200 yours already", "#56B4E9"),
    "202": ("202 reserved", "#0072B2"),
    "409": ("409 sold out", "#E69F00"),
    "429": ("429 rate limited", "#CC79A7"),
    "503": ("503 come back", "#D55E00"),
    "none": ("no answer", "#666666"),
}
OTHER_COLOUR, INK, INVALID, GRID = "#009E73", "#333333", "#c00000", "#e4e4e4"
#: Cost -> what it is called, and its colour.
COSTS = {
    "time_us": ("time between two grabs", "#0072B2"),
    "gateway_cpu_us": ("CPU of the gateway", "#E69F00"),
    "redis_cpu_us": ("CPU of Redis", "#D55E00"),
}
#: What grows -> the label of its axis.
THINGS = {
    "holders": "holders in the sale when a round begins",
    "sales": "sales that the same load is spread over",
}
#: A class with fewer answers than this in a bucket has no percentiles worth a line.
DRAWN_LEAST = 5
BESIDE = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False}


class Format(StrEnum):
    """What can be drawn."""

    PNG = "png"
    SVG = "svg"


def draw(figures: Json, path: Path) -> None:
    """Draw a file's figures."""
    from matplotlib.figure import Figure  # not installed everywhere, and a second of loading

    if figures["kind"] == "crowd":
        figure = Figure(figsize=(10, 7), layout="constrained")
        draw_crowd(figures, figure)
    else:
        things = [thing for thing in THINGS if thing in figures]
        figure = Figure(figsize=(2 + 5.5 * len(things), 5.2), layout="constrained")
        draw_growth(figures, things, figure)
    figure.supxlabel(origin_text(figures), fontsize=8, color=INK)
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.2)


def draw_crowd(figures: Json, figure: Figure) -> None:
    """Draw throughput by class, and below it latencies, over the time of the run."""
    from matplotlib.ticker import LogLocator

    rates, waits = figure.subplots(2, sharex=True)
    series, width_s = figures["buckets"], figures["bucket_s"]
    edges = [width_s * n for n in range(len(series) + 1)]
    middles = [(begin + end) / 2 for begin, end in pairwise(edges)]
    below = [0.0] * len(series)
    for status, per_s in rates_of(series, width_s).items():
        name, colour = CLASSES.get(status, (status, OTHER_COLOUR))
        top = [sum(pair) for pair in zip(below, per_s, strict=True)]
        rates.stairs(top, edges, baseline=below, fill=True, color=colour, alpha=0.8, label=name)
        below = top
        for share, style in {} if status == "none" else {"p50": ":", "p99": "-"}.items():
            values = line_of(series, status, share)
            waits.plot(middles, values, style, color=colour, label=f"{name}, {share}")
    offered = [bucket["offered"] / width_s for bucket in series]
    rates.stairs(offered, edges, color=INK, linewidth=1.2, label="offered")
    rates.set_ylim(bottom=0)
    _label(rates, "grabs/s, by the time intended")
    rates.legend(**BESIDE)

    longest = [bucket["all"].get("max", float("nan")) for bucket in series]
    waits.plot(middles, longest, ".", color=INK, markersize=3, label="longest")
    waits.set_yscale("log", subs=[])
    waits.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    waits.set_xlim(0, edges[-1])
    _label(waits, "wait from the time intended, ms", "time intended, s after the start")
    waits.legend(**BESIDE)
    figure.suptitle(crowd_title(figures), fontsize=13, color=INK if figures["valid"] else INVALID)


def draw_growth(figures: Json, things: Sequence[str], figure: Figure) -> None:
    """Draw the cost of a grab against the number of holders, and of sales."""
    figure.set_layout_engine("constrained", wspace=0.08)
    panels = figure.subplots(1, len(things), squeeze=False)[0]
    for axes, thing in zip(panels, things, strict=True):
        points = figures[thing]
        sizes = [point["size"] for point in points]
        for cost, (name, colour) in COSTS.items():
            rounds = [[round_[cost] for round_ in point["rounds"]] for point in points]
            axes.plot(sizes, [median(of) for of in rounds], "o-", color=colour, label=name)
            for size, of in zip(sizes, rounds, strict=True):
                axes.plot([size] * len(of), of, ".", color=colour, alpha=0.35, markersize=5)
        axes.set_xscale("log")
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.margins(x=0.08)
        axes.set_ylim(0, 1.12 * axes.get_ylim()[1])  # room for the legend
        _label(axes, "microseconds a grab", THINGS[thing])
    panels[0].legend(loc="upper center", ncols=len(COSTS), fontsize=9, frameon=False)
    figure.suptitle(growth_title(figures), fontsize=13, color=INK)


def rates_of(series: Sequence[Json], width_s: float) -> dict[str, list[float]]:
    """Return class -> answers a second in each bucket, and under "none" what got no answer."""
    classes = sorted({status for bucket in series for status in bucket["classes"]})
    rates = {
        status: [_point(bucket, status)["count"] / width_s for bucket in series]
        for status in classes
    }
    missing = [(bucket["offered"] - bucket["all"]["count"]) / width_s for bucket in series]
    return rates | ({"none": missing} if any(missing) else {})


def line_of(series: Sequence[Json], status: str, share: str) -> list[float]:
    """Return a percentile of a class in each bucket; not a number where it has too few answers."""
    points = [_point(bucket, status) for bucket in series]
    return [point[share] if point["count"] >= DRAWN_LEAST else float("nan") for point in points]


def crowd_title(figures: Json) -> str:
    """Return what was offered to what."""
    options = figures["options"]
    if "gateways" in options:
        parts = [_number(options[f"{name}s"], name) for name in ("gateway", "consumer", "sale")]
        stack = ", ".join(parts)
    else:
        stack = f"sale {options['sale']} at {options['url']}"
    rate, seconds = f"{figures['offered_per_s']:,.0f}", f"{figures['seconds']:g}"
    mean = "" if options["arrivals"] == "even" else " on average"
    title = f"Open-loop crowd, {options['arrivals']}: {rate} grabs/s{mean} for {seconds} s\n{stack}"
    return title if figures["valid"] else f"INVALID, the generator did not keep up\n{title}"


def growth_title(figures: Json) -> str:
    """Return what was measured."""
    options = figures["options"]
    return (
        f"Cost of a grab, one gateway on one core, {options['connections']} connections; "
        f"medians of {_number(options['rounds'], 'round')} of {options['seconds']} s"
    )


def origin_text(figures: Json) -> str:
    """Return where and when it was measured, and with what versions."""
    machine, day = figures["machine"], figures["measured_at"][:10]
    versions = ", ".join(f"{name} {version}" for name, version in figures["versions"].items())
    return (
        f"{_number(machine['cores'], 'core')} of {machine['processor']}, "
        f"{machine['memory_gb']} GB, Linux {machine['kernel'].partition('-')[0]}; {day}\n{versions}"
    )


def read(path: Path) -> Json:
    """Read a file of figures."""
    try:
        figures: Json = json.loads(path.read_text())
        if figures["kind"] in ("crowd", "growth"):
            return figures
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError):
        pass  # not a file of figures
    raise typer.BadParameter(f"{path}: give a file that crowd or growth wrote with --json")


def _point(bucket: Json, status: str) -> Json:
    point: Json = bucket["classes"].get(status, {"count": 0})
    return point


def _number(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def _label(axes: Axes, y: str, x: str = "") -> None:
    axes.set_ylabel(y)
    axes.set_xlabel(x)
    axes.grid(color=GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def main(
    files: Annotated[list[Path], typer.Argument(help="What crowd or growth wrote with --json.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder for the pictures; else beside the files.")
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="Of the pictures.")] = Format.SVG,
) -> None:
    """Draw pictures of measurements."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        install = ".venv/bin/pip install -c constraints.txt -e '.[bench]'"
        raise SystemExit(f"plots: matplotlib is missing; type: {install}") from error
    for path, figures in [(path, read(path)) for path in files]:
        picture = (out or path.parent) / f"{path.stem}.{form}"
        picture.parent.mkdir(parents=True, exist_ok=True)
        draw(figures, picture)
        typer.echo(picture)


if __name__ == "__main__":
    typer.run(main)
