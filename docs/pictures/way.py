"""The way of a record into a batch: shards, index, plan, batch, model."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

from docs.pictures.palette import Palette

LENGTHS = (7, 3, 9, 4, 8, 3)  # of the records of the picture; the rows of the batch are 0, 2 and 4
CHOSEN = (0, 4, 2)
UNIT = 0.26


def draw(palette: Palette) -> Figure:
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    axes = figure.subplots()
    _shard(axes, palette)
    _index(axes, palette)
    _plan(axes, palette)
    _batch(axes, palette)
    for start, end in ((2.9, 3.75), (6.05, 6.9), (9.35, 10.2), (13.15, 13.9)):
        axes.add_patch(FancyArrowPatch((start, 2.2), (end, 2.2), arrowstyle="-|>", mutation_scale=16, color=palette.quiet, linewidth=1.5))
    axes.add_patch(Rectangle((14.1, 1.45), 1.6, 1.5, fill=False, edgecolor=palette.ink, linewidth=1.5))
    axes.text(14.9, 2.2, "model\n(None, d)", ha="center", va="center")
    axes.set(xlim=(-0.1, 15.9), ylim=(-0.65, 5.3))
    axes.axis("off")
    return figure


def _title(axes: Axes, left: float, name: str, what: str, palette: Palette) -> None:
    axes.text(left, 4.9, name, weight="bold", fontsize=12)
    axes.text(left, 4.75, what, fontsize=9.5, color=palette.quiet, va="top")


def _shard(axes: Axes, palette: Palette) -> None:
    _title(axes, 0, "shards", "TFRecord files;\none record a recording", palette)
    for row, length in enumerate(LENGTHS):
        colour = palette.frame if row in CHOSEN else palette.other
        axes.add_patch(Rectangle((0, 3.25 - 0.62 * row), 0.22, 0.42, facecolor=palette.padding, linewidth=0))
        axes.add_patch(Rectangle((0.24, 3.25 - 0.62 * row), length * UNIT, 0.42, facecolor=colour, linewidth=0))


def _index(axes: Axes, palette: Palette) -> None:
    _title(axes, 3.9, "index", "one row a record: where it is,\nhow many frames it has", palette)
    axes.text(3.9, 3.72, "id   frames  label", fontsize=9, color=palette.quiet, family="monospace")
    for row, length in enumerate(LENGTHS):
        text = f"{row:>2}   {length * 10:>6}  {row % 3:>5}"
        weight = "bold" if row in CHOSEN else "normal"
        axes.text(3.9, 3.36 - 0.62 * row, text, fontsize=10, family="monospace", weight=weight)


def _plan(axes: Axes, palette: Palette) -> None:
    _title(axes, 7.0, "plan", "which records share a batch;\nnothing has been read yet", palette)
    for top, name, rows in ((3.4, "bucket 2: up to 90 frames", CHOSEN), (1.3, "bucket 1: up to 40 frames", (3, 1, 5))):
        axes.text(7.0, top, name, fontsize=9.5)
        for place, row in enumerate(rows):
            colour = palette.frame if row in CHOSEN else palette.other
            axes.add_patch(Rectangle((7.0 + 0.75 * place, top - 0.85), 0.62, 0.62, facecolor=colour, linewidth=0))
            axes.text(7.31 + 0.75 * place, top - 0.54, str(row), ha="center", va="center", color=palette.paper)


def _batch(axes: Axes, palette: Palette) -> None:
    _title(axes, 10.3, "batch [B, T, d]", "frames copied from the shards,\nthen padded to the longest", palette)
    longest = max(LENGTHS[row] for row in CHOSEN)
    for place, row in enumerate(CHOSEN):
        bottom = 2.75 - 0.75 * place
        axes.add_patch(Rectangle((10.3, bottom), longest * 0.3, 0.6, facecolor=palette.padding, linewidth=0))
        axes.add_patch(Rectangle((10.3, bottom), LENGTHS[row] * 0.3, 0.6, facecolor=palette.frame, linewidth=0))
    axes.text(10.3, 0.75, "grey: padding", fontsize=9.5, color=palette.quiet)
    axes.text(10.3, 0.3, "lengths=True delivers [70, 80, 90] too", fontsize=9.5, color=palette.quiet)
