"""Draw every picture of the documentation, for a light and for a dark background: `make pictures`.

The same code gives the same bytes. Text is drawn as paths, so that a picture looks alike in a browser and on a slide.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from docs.pictures import buckets, edge, way, windows
from docs.pictures.palette import DARK, LIGHT, Palette

DIRECTORY = Path(__file__).parent
PICTURES: dict[str, Callable[[Palette], Figure]] = {
    "way": way.draw,
    "buckets": buckets.draw,
    "windows": windows.draw,
    "edge": edge.draw,
}


def draw(directory: Path = DIRECTORY) -> None:
    """Write NAME-light.svg and NAME-dark.svg of each picture."""
    for palette in (LIGHT, DARK):
        with matplotlib.rc_context(palette.settings()):
            for name, picture in PICTURES.items():
                path = directory / f"{name}-{palette.name}.svg"
                picture(palette).savefig(path, transparent=True, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    draw(*map(Path, sys.argv[1:]))
