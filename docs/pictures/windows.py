"""Windows of 300 frames, half-overlapping, on a recording of 820 frames, for each `tail`. Where they are is asked of `vlpipe.plan`."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import vlpipe
from docs.pictures.palette import Palette

FRAMES, WINDOW, HOP = 820, 300, 150
TAILS: dict[str, str] = {
    "shift": "one more at the end",
    "keep": "a shorter one",
    "pad": "padded to the length of the others",
    "drop": "the rest is left out, and counted",
}


def places(tail: Any) -> tuple[np.ndarray, np.ndarray]:
    """First frame and number of recorded frames of each window."""
    with tempfile.TemporaryDirectory() as folder:
        vlpipe.write(Path(folder) / "d", [{"x": np.zeros((FRAMES, 1), np.uint8)}], num_shards=1)
        pieces = vlpipe.plan(Path(folder) / "d", windows=vlpipe.Windows(WINDOW, hop=HOP, tail=tail)).pieces
    order = np.argsort(pieces.firsts)
    return pieces.firsts[order], np.minimum(WINDOW, FRAMES - pieces.firsts[order])


def draw(palette: Palette) -> Figure:
    figure = Figure(figsize=(10, 6), layout="constrained")
    for axes, tail in zip(figure.subplots(4, 1, sharex=True), TAILS, strict=True):
        _panel(axes, tail, palette)
    figure.axes[-1].set_xlabel(f"frames of one recording: {FRAMES};   vlpipe.Windows({WINDOW}, hop={HOP}, tail=...)")
    return figure


def _panel(axes: Axes, tail: str, palette: Palette) -> None:
    firsts, counts = places(tail)
    axes.add_patch(Rectangle((0, 0), FRAMES, 0.5, color=palette.quiet, alpha=0.45, linewidth=0))
    for number, (first, count) in enumerate(zip(firsts.tolist(), counts.tolist(), strict=True)):
        last = number == len(firsts) - 1 and tail != "drop"
        level = 2 if last and first % HOP else number % 2  # a window that is shifted overlaps both of those before it
        bottom = 0.75 + 0.62 * level
        colour = palette.other if last else palette.frame
        if tail == "pad" and count < WINDOW:
            axes.add_patch(Rectangle((first, bottom), WINDOW - 3, 0.5, facecolor=palette.padding, linewidth=0))
        axes.add_patch(Rectangle((first, bottom), count - 3, 0.5, facecolor=colour, linewidth=0))
        axes.text(first + 6, bottom + 0.24, str(first), va="center", fontsize=9, color=palette.paper)
    axes.axvline(FRAMES, color=palette.quiet, linewidth=1, linestyle=":")
    axes.set(xlim=(-5, 920), ylim=(-0.1, 2.6), yticks=[])
    axes.set_title(f'tail="{tail}": {TAILS[tail]}', loc="left", fontsize=11)
    axes.spines["left"].set_visible(False)
