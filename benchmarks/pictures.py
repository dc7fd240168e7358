"""Draw the pictures of REPORT.md from the same JSON as its tables."""

from __future__ import annotations

import statistics
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
    """Draw every picture as SVG; the same figures give the same file."""
    directory.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(
        {"svg.hashsalt": "vlpipe", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    ):
        for name, picture in PICTURES.items():
            if all(document["script"] != name for document in documents.values()):
                continue
            figure = Figure(figsize=(8, 4), layout="constrained")
            picture(figure, documents)
            figure.savefig(directory / f"{name}.svg", metadata={"Date": None})


def throughput(figure: Figure, documents: dict[str, Any]) -> None:
    """Valid frames per second of every way."""
    workloads = documents["throughput"]["results"]["workloads"]
    for axes, (name, result) in zip(figure.subplots(1, len(workloads), squeeze=False)[0], workloads.items(), strict=True):
        ways = dict(sorted(result["ways"].items(), key=lambda item: item[1]["frames_per_second"]))
        colours = [OURS if way.startswith("vlpipe") else FLOOR if way.startswith("copy") else OTHERS for way in ways]
        axes.barh(list(ways), [way["frames_per_second"] / 1e6 for way in ways.values()], color=colours)
        axes.set(title=name, xlabel="million valid frames per second")
        axes.tick_params(axis="y", labelsize=7)


def anatomy(figure: Figure, documents: dict[str, Any]) -> None:
    """Processor time per batch, by part."""
    workloads = documents["anatomy"]["results"]
    axes = figure.subplots()
    colours = matplotlib.colormaps["tab10"].colors
    left = dict.fromkeys(workloads, 0.0)
    for part, colour in zip(parts.PARTS, colours, strict=False):
        widths = [result["parts_us"][part] for result in workloads.values()]
        axes.barh(list(workloads), widths, left=list(left.values()), color=colour, label=part)
        left = {name: before + width for (name, before), width in zip(left.items(), widths, strict=True)}
    axes.set(xlabel="us of processor time per batch")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)


def training(figure: Figure, documents: dict[str, Any]) -> None:
    """Seconds per epoch of every way; the wait for input is dark."""
    runs = [
        result | {"name": name}
        for document in documents.values()
        if document["script"] == "training"
        for name, result in _workloads(document)
    ]
    for axes, result in zip(figure.subplots(1, len(runs), squeeze=False, sharey=True)[0], runs, strict=True):
        ways = result["ways"]
        colours = [OURS if way.startswith("vlpipe") else OTHERS for way in ways]
        axes.barh(list(ways), [way["seconds"] for way in ways.values()], color=colours)
        axes.barh(list(ways), [way["seconds"] * way["wait_share"] for way in ways.values()], color="#333333")
        axes.set(title=f"{result['name']}, {result['backend']} on {result['device']}", xlabel="s per epoch (dark: waiting for input)")
        axes.invert_yaxis()


def _workloads(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return list(document["results"]["workloads"].items())


def scaling(figure: Figure, documents: dict[str, Any]) -> None:
    """Seconds by number of records, and speed around the base case."""
    series = documents["scaling"]["results"]
    left, right = figure.subplots(1, 2)
    records = [point["records"] for point in series["records"]]
    for key, label in (
        ("plan_seconds", "plan"),
        ("first_batch_seconds", "first batch"),
        ("resume_seconds", "resume"),
        ("order_seconds", "next epoch"),
    ):
        left.loglog(records, [statistics.median(point[key]) for point in series["records"]], marker="o", label=label)
    left.set(xlabel="records", ylabel="s")
    left.legend(frameon=False)
    for name, points in series.items():
        if name != "records":
            right.semilogx([point[name] for point in points], [point["gigabytes_per_second"] for point in points], marker="o", label=name)
    right.set(xlabel="d, length, batch size, shards, cores", ylabel="GB/s", ylim=(0, None))
    right.legend(frameon=False)


def memory(figure: Figure, documents: dict[str, Any]) -> None:
    """Memory of the process after every epoch."""
    axes = figure.subplots()
    for name, engines in documents["memory"]["results"].items():
        for engine, figures in engines.items():
            axes.plot([size / 1e6 for size in figures["anonymous_bytes"]], label=f"{name}, {engine}")
    axes.set(xlabel="epoch", ylabel="anonymous memory, MB", ylim=(0, None))
    axes.legend(frameon=False)


PICTURES: dict[str, Callable[[Figure, dict[str, Any]], None]] = {
    "throughput": throughput,
    "anatomy": anatomy,
    "training": training,
    "scaling": scaling,
    "memory": memory,
}
