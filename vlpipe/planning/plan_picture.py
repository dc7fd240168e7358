"""The picture of a plan: the histogram of lengths with the buckets over it, and below it the padding of each bucket."""

from __future__ import annotations

from typing import Any

import numpy as np

from vlpipe.errors import counted
from vlpipe.text_tables import BLUE, RED

_BINS = 64  # and the most boundaries that are drawn


def draw(figure: Any, frames: np.ndarray, boundaries: tuple[int, ...], padding: np.ndarray, *, unit: str, title: str) -> None:
    """Draw into an empty figure of matplotlib.

    Args:
        frames: integers `[n]`, the delivered lengths.
        boundaries: inclusive upper lengths of the buckets.
        padding: floats `[buckets]`, percent of the delivered frames that are padding.
        unit: of what the lengths are, such as "records".
    """
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    longest = int(frames.max(initial=1))
    width = -(-longest // _BINS)  # of whole frames: any other would catch 1 length and 2 in turn, and show peaks that are not there
    upper.hist(frames, bins=np.arange(0, longest + width + 1, width) + 0.5, color=BLUE, label=unit)
    for number, boundary in enumerate(boundaries if len(boundaries) <= _BINS else ()):
        upper.axvline(boundary + 0.5, color=RED, linewidth=0.8, label="boundaries of the buckets" if not number else None)
    upper.set_ylabel(f"{unit} in {counted(width, 'frame')}" if width > 1 else unit)
    upper.legend(framealpha=1, edgecolor="none")
    upper.set_title(title)
    edges = np.array([0, *boundaries]) + 0.5
    lower.bar(edges[:-1], padding, width=np.diff(edges), align="edge", color=RED, alpha=0.5, edgecolor=RED, linewidth=0.5)
    lower.set_ylabel("padding in the\nbatches, %")
    lower.set_xlabel("frames")
    for axes in (upper, lower):
        axes.spines[["top", "right"]].set_visible(False)
