"""The colours of the pictures, on a light and on a dark background."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Palette:
    """Colours by what they stand for.

    Attributes:
        name: "light" or "dark", the background.
        ink: text and lines.
        quiet: text of less weight.
        frame: frames that were recorded.
        other: frames of another recording, or of another kind.
        padding: frames that padding added.
        wrong: what padding has changed.
        paper: what is behind a label.
    """

    name: str
    ink: str
    quiet: str
    frame: str
    other: str
    padding: str
    wrong: str
    paper: str

    def settings(self) -> dict[str, Any]:
        """What Matplotlib is told for a figure."""
        inks = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
        quiet_axes = {"axes.spines.top": False, "axes.spines.right": False, "axes.facecolor": "none"}
        return {"svg.hashsalt": "vlpipe", "svg.fonttype": "path", "font.size": 11, **quiet_axes, **dict.fromkeys(inks, self.ink)}


LIGHT = Palette("light", "#1f2937", "#5b6673", "#2563a8", "#0e8a7d", "#d3dae2", "#d9480f", "#ffffff")
DARK = Palette("dark", "#e8eaed", "#a9b4c0", "#6aa9ee", "#3cc7b5", "#3d4653", "#ff8a4c", "#131416")
