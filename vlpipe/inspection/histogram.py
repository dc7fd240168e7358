"""Histograms of lengths, on a terminal and as a picture."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlpipe.errors import SchemaError
from vlpipe.planning.buckets import histogram
from vlpipe.sources.open import open_anywhere
from vlpipe.storage.paths import Source
from vlpipe.text_tables import BLUE, columns, picture, text


def plot_lengths(name: str, bins: Bins, path: str | os.PathLike[str]) -> None:
    """Draw a histogram of lengths.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ArgumentError: the file cannot be written.
    """
    with picture(path, 4, "A picture of lengths") as figure:
        axes = figure.subplots()
        axes.bar(bins.first, bins.records, width=bins.width, align="edge", color=BLUE)
        axes.set_ylabel("records")
        axes.set_xlabel(f"frames of {_literal(name)}")
        axes.set_title(f"{sum(bins.records):,} records")


def _literal(text: str) -> str:
    return text.replace("$", r"\$")  # matplotlib reads mathematics between two of these


def lengths_table(bins: Bins) -> str:
    """A histogram of lengths as bars of text."""
    from rich.bar import Bar

    most = max(bins.records, default=1)
    last = bins.width - 1
    rows = [
        (f"{first:,} to {first + last:,}" if last else first, count, Bar(most, 0, count, width=50))
        for first, count in zip(bins.first, bins.records, strict=True)
    ]
    return text(columns("frames", "records", "", rows=rows, most=len(rows)))


@dataclass(frozen=True)
class Bins:
    """A histogram of lengths in bins of the same width.

    Attributes:
        width: how many lengths fall into one bin.
        first: the shortest length of each; the longest is `first + width - 1`.
        records: how many sequences are in each.
    """

    width: int
    first: tuple[int, ...]
    records: tuple[int, ...]


def bins(frames: np.ndarray, most: int) -> Bins:
    """The lengths (int64 `[N]`) in at most so many bins, from the shortest to the longest; no bin if there are no lengths."""
    lengths, counts = histogram(frames)
    if not len(lengths):
        return Bins(1, (), ())
    shortest, longest = int(lengths[0]), int(lengths[-1])
    width = -(-(longest - shortest + 1) // most)
    records = np.bincount((lengths - shortest) // width, weights=counts).astype(np.int64)
    return Bins(width, tuple(range(shortest, longest + 1, width)), tuple(records.tolist()))


def bin_lengths(source: Source, most: int, name: str | None = None, layout: Any = None) -> tuple[str, Bins]:
    """The lengths of a sequence in at most so many bins; None: the first of the schema. With its name.

    Raises:
        SchemaError: the schema has no such sequence.
        DatasetError: the source is no dataset.
    """
    index = open_anywhere(source, layout)
    name = next(iter(index.schema.sequences)) if name is None else name
    if name not in index.schema.sequences:
        raise SchemaError(f"features: {name!r} is no sequence of the schema, which has {list(index.schema.sequences)}.")
    return name, bins(index.frames(name), most)
