"""Histograms of sequence lengths, as text and as pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vlpipe.arguments import integer
from vlpipe.errors import SchemaError, counted
from vlpipe.planning.buckets import histogram as histogram_of
from vlpipe.sources.open import open_anywhere
from vlpipe.storage.paths import Source
from vlpipe.text_tables import BLUE, columns, picture, text

if TYPE_CHECKING:
    from vlpipe.layouts.base import Layout

MAX_BINS = 10_000


@dataclass(frozen=True, repr=False)
class Bins:
    """A histogram of lengths, in bins of equal width; it prints as `vlpipe histogram` does.

    Attributes:
        width: number of lengths in a bin.
        first: the shortest length of each bin; the longest is `first + width - 1`.
        records: number of sequences in each bin.
        features: name of the sequence.
    """

    width: int
    first: tuple[int, ...]
    records: tuple[int, ...]
    features: str = "sequences"

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

    def __repr__(self) -> str:
        return self.report()

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the histogram.

        Args:
            path: a .png, .svg or .pdf file.

        Raises:
            MissingExtraError: matplotlib is not installed.
            ArgumentError: the file cannot be written.
        """
        with picture(path, 4, "A histogram of lengths") as figure:
            axes = figure.subplots()
            axes.bar(self.first, self.records, width=self.width, align="edge", color=BLUE)
            axes.set_ylabel("records")
            axes.set_xlabel(f"frames of {_literal(self.features)}")
            axes.set_title(counted(sum(self.records), "record"))
            axes.spines[["top", "right"]].set_visible(False)


def bin_lengths(lengths: np.ndarray, max_bins: int, features: str = "sequences") -> Bins:
    """Count lengths (int64 `[N]`) in at most `max_bins` bins, from the shortest to the longest; without lengths, there are no bins.

    `features` is the name of the sequence that has them.
    """
    distinct, counts = histogram_of(lengths)
    if not len(distinct):
        return Bins(1, (), (), features)
    shortest, longest = int(distinct[0]), int(distinct[-1])
    width = -(-(longest - shortest + 1) // max_bins)
    records = np.bincount((distinct - shortest) // width, weights=counts).astype(np.int64)
    return Bins(width, tuple(range(shortest, longest + 1, width)), tuple(records.tolist()), features)


def histogram(source: Source, *, bins: int = 20, features: str | None = None, layout: str | Layout | None = None) -> Bins:
    """A histogram of the lengths of one sequence of a source; no record is read.

    Args:
        source, layout: as for `make_dataset`; a selection too.
        bins: maximum number of bins; all have the same width.
        features: name of the sequence; None: the first of the schema.

    Raises:
        SchemaError: the schema has no such sequence.
        DatasetError: the source is not a dataset.
        ArgumentError: `bins` is not from 1 to 10,000.

    Example:
        >>> vlpipe.write("data/train", [{"features": np.zeros((n, 80), np.float32)} for n in (2, 3, 3, 9)])
        >>> lengths = vlpipe.histogram("data/train", bins=2)
        >>> lengths.width, lengths.first, lengths.records
        (4, (2, 6), (3, 1))
    """
    bins = integer("bins", bins, 1, MAX_BINS)
    index = open_anywhere(source, layout)
    name = next(iter(index.schema.sequences)) if features is None else features
    if name not in index.schema.sequences:
        raise SchemaError(f"features: {name!r} is not a sequence of the schema, expected one of {list(index.schema.sequences)}.")
    return bin_lengths(index.frames(name), bins, name)


def _literal(name: str) -> str:
    return name.replace("$", r"\$")  # matplotlib would typeset text between two dollar signs as mathematics
