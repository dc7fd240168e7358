"""Histograms of sequence lengths, as text and as pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlpipe.errors import SchemaError, counted
from vlpipe.planning.buckets import histogram
from vlpipe.sources.open import open_anywhere
from vlpipe.storage.paths import Source
from vlpipe.text_tables import BLUE, columns, picture, text


@dataclass(frozen=True)
class Bins:
    """A histogram of lengths, in bins of equal width.

    Attributes:
        width: number of lengths in a bin.
        first: the shortest length of each bin; the longest is `first + width - 1`.
        records: number of sequences in each bin.
    """

    width: int
    first: tuple[int, ...]
    records: tuple[int, ...]

    def report(self) -> str:
        """The histogram as horizontal bars of text."""
        from rich.bar import Bar

        tallest = max(self.records, default=1)
        last = self.width - 1
        rows = [
            (f"{first:,} to {first + last:,}" if last else first, count, Bar(tallest, 0, count, width=50))
            for first, count in zip(self.first, self.records, strict=True)
        ]
        return text(columns("frames", "records", "", rows=rows, most=len(rows)))

    def plot(self, name: str, path: str | os.PathLike[str]) -> None:
        """Draw the histogram.

        Args:
            name: name of the sequence, for the axis label.
            path: a .png, .svg or .pdf file.

        Raises:
            MissingExtraError: matplotlib is not installed.
            ArgumentError: the file cannot be written.
        """
        with picture(path, 4, "A histogram of lengths") as figure:
            axes = figure.subplots()
            axes.bar(self.first, self.records, width=self.width, align="edge", color=BLUE)
            axes.set_ylabel("records")
            axes.set_xlabel(f"frames of {_literal(name)}")
            axes.set_title(counted(sum(self.records), "record"))
            axes.spines[["top", "right"]].set_visible(False)


def bin_lengths(lengths: np.ndarray, max_bins: int) -> Bins:
    """Count lengths (int64 `[N]`) in at most `max_bins` bins, from the shortest to the longest; without lengths, there are no bins."""
    distinct, counts = histogram(lengths)
    if not len(distinct):
        return Bins(1, (), ())
    shortest, longest = int(distinct[0]), int(distinct[-1])
    width = -(-(longest - shortest + 1) // max_bins)
    records = np.bincount((distinct - shortest) // width, weights=counts).astype(np.int64)
    return Bins(width, tuple(range(shortest, longest + 1, width)), tuple(records.tolist()))


def bin_sequence(source: Source, max_bins: int, name: str | None = None, layout: Any = None) -> tuple[str, Bins]:
    """Count the lengths of one sequence of a source.

    Args:
        source, layout: as for `make_dataset`.
        max_bins: maximum number of bins.
        name: name of the sequence; None: the first of the schema.

    Returns:
        The name of the sequence, and the histogram of its lengths.

    Raises:
        SchemaError: the schema has no such sequence.
        DatasetError: the source is not a dataset.
    """
    index = open_anywhere(source, layout)
    name = next(iter(index.schema.sequences)) if name is None else name
    if name not in index.schema.sequences:
        raise SchemaError(f"features: {name!r} is not a sequence of the schema, expected one of {list(index.schema.sequences)}.")
    return name, bin_lengths(index.frames(name), max_bins)


def _literal(name: str) -> str:
    return name.replace("$", r"\$")  # matplotlib would typeset text between two dollar signs as mathematics
