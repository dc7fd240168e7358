"""What padding changes behind three convolutions: one recording of 12 frames alone, and padded to 18. Computed, not sketched."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from docs.pictures.palette import Palette

FRAMES, PADDED, LAYERS = 12, 18, 3
KERNEL, BIAS = np.array([0.6, -0.4, 0.5]), 0.7


def layers(x: np.ndarray) -> list[np.ndarray]:
    """The input, and the output of each Conv1D(1, 3, padding="same", activation="relu")."""
    outputs = [x]
    for _ in range(LAYERS):
        outputs.append(np.maximum(np.convolve(outputs[-1], KERNEL[::-1], "same") + BIAS, 0))
    return outputs


def draw(palette: Palette) -> Figure:
    x = np.random.default_rng(1).normal(size=FRAMES)
    alone, padded = layers(x), layers(np.pad(x, (0, PADDED - FRAMES)))
    figure = Figure(figsize=(10, 3.9), layout="constrained")
    axes = figure.subplots()
    names = ["padded input", *(f"after Conv1D no. {number}" for number in range(1, LAYERS + 1))]
    for row, (name, exact, seen) in enumerate(zip(names, alone, padded, strict=True)):
        _row(axes, -1.35 * row, exact, seen, palette)
        axes.text(-0.4, -1.35 * row + 0.5, name, ha="right", va="center")
    axes.plot([FRAMES, FRAMES], [-1.35 * LAYERS - 0.15, 1.7], color=palette.ink, linewidth=1.5, linestyle="--")
    axes.text(FRAMES - 0.15, 1.3, "recorded frames", ha="right", fontsize=11)
    axes.text(FRAMES + 0.15, 1.3, "padding", ha="left", fontsize=11)
    note = "orange: a number inside the recording that padding has changed, one frame more with each layer"
    axes.text(0, -4.75, note, color=palette.wrong)
    axes.set(xlim=(-4.6, PADDED + 0.2), ylim=(-5.0, 1.8))
    axes.axis("off")
    return figure


def _row(axes: Axes, bottom: float, exact: np.ndarray, seen: np.ndarray, palette: Palette) -> None:
    for place, value in enumerate(seen):
        inside = place < FRAMES
        wrong = inside and not np.isclose(value, exact[place])
        colour = palette.wrong if wrong else palette.frame if inside else palette.padding
        axes.add_patch(Rectangle((place + 0.04, bottom), 0.92, 1, facecolor=colour, linewidth=0))
        ink = palette.paper if inside else palette.ink
        axes.text(place + 0.5, bottom + 0.5, f"{value:.1f}".replace("-0.0", "0.0"), ha="center", va="center", fontsize=9, color=ink)
