"""The pictures of REPORT.md, from the same JSON as its tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from benchmarks import anatomy as parts
from benchmarks import results

DIRECTORY = results.ROOT / "benchmarks" / "pictures"
OURS, OTHERS, FLOOR = "#2563a8", "#b9c4cf", "#e0e0e0"


def draw(documents: dict[str, Any], directory: Path = DIRECTORY) -> None:
    """Every picture, as SVG; the same figures make the same file."""
    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(
        {"svg.hashsalt": "vlpipe", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        for name, picture in PICTURES.items():
            figure = Figure(figsize=(8, 4), layout="constrained")
            picture(figure, documents)
            figure.savefig(directory / f"{name}.svg", metadata={"Date": None})


def throughput(figure: Figure, documents: dict[str, Any]) -> None:
    """Valid frames a second of every way."""
    workloads = documents["throughput"]["results"]["workloads"]
    for axes, (name, result) in zip(figure.subplots(1, len(workloads), squeeze=False)[0], workloads.items(), strict=True):
        ways = dict(sorted(result["ways"].items(), key=lambda item: item[1]["frames_per_second"]))
        colours = [OURS if way.startswith("vlpipe") else FLOOR if way.startswith("copy floor") else OTHERS for way in ways]
        axes.barh(list(ways), [way["frames_per_second"] / 1e6 for way in ways.values()], color=colours)
        axes.set(title=name, xlabel="million valid frames a second")
        axes.tick_params(axis="y", labelsize=7)


def anatomy(figure: Figure, documents: dict[str, Any]) -> None:
    """Processor time of a batch by part."""
    workloads = documents["anatomy"]["results"]
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab10"].colors
    left = dict.fromkeys(workloads, 0.0)
    for part, colour in zip(parts.PARTS, colours, strict=False):
        widths = [result["parts_us"][part] for result in workloads.values()]
        axes.barh(list(workloads), widths, left=list(left.values()), color=colour, label=part)
        left = {name: before + width for (name, before), width in zip(left.items(), widths, strict=True)}
    axes.set(xlabel="us of processor time a batch")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)


PICTURES: dict[str, Callable[[Figure, dict[str, Any]], None]] = {"throughput": throughput, "anatomy": anatomy}
