"""The pieces of which an epoch is made, and the numbers from which the random numbers of each are drawn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vlpipe.planning.frame_plan import FrameRange


@dataclass(frozen=True, eq=False)
class Pieces:
    """Frames of records, each of which becomes one sequence of a batch: NumPy arrays, or the same as tensors, one value a piece.

    A plan has them in narrow dtypes: an epoch may have 10**8.

    Attributes:
        rows: integers `[n]`, the row of its record in the index.
        frames: integers `[n]`, the frames of the key feature that are read.
        firsts: integers `[n]`, the first of them, before a random crop moves it; None: frame 0 of every piece.
        copies: integers `[n]`, which of several equal pieces it is, from 0; None: there are no equal pieces. With s speeds
            (`SpeedPerturb`), copy c has speed c % s.
    """

    rows: Any
    frames: Any
    firsts: Any = None
    copies: Any = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, positions: np.ndarray) -> Pieces:
        """The pieces at some positions, as int64."""
        return self.map(lambda column: column.take(positions).astype(np.int64, copy=False))

    def map(self, function: Callable[[Any], Any]) -> Pieces:
        """With a function of every column that there is."""
        columns = (self.rows, self.frames, self.firsts, self.copies)
        return Pieces(*(None if column is None else function(column) for column in columns))

    def copy_numbers(self, ids: Any, part_numbers: Callable[[Any], Any]) -> Any:
        """int64 `[n]`: the numbers from which random crops are drawn, equal for all pieces of a copy of a record.

        Args:
            ids: int64 `[n]`, those of the records; they are the numbers of copy 0.
            part_numbers: that of `splitmix`, or of `splitmix_graph` for tensors.
        """
        return ids if self.copies is None else ids + part_numbers(self.copies * 2**32)

    def numbers(self, ids: Any, part_numbers: Callable[[Any], Any]) -> Any:
        """int64 `[n]`: the numbers from which masks are drawn, one for each piece; arguments as for `copy_numbers`.

        That of a piece that begins at frame 0 is the number of its copy.
        """
        if self.firsts is None:
            return self.copy_numbers(ids, part_numbers)
        return ids + part_numbers(self.firsts if self.copies is None else self.firsts + self.copies * 2**32)


def at_speeds(pieces: Pieces, speeds: int) -> Pieces:
    """Each piece once at each of several speeds, one after another."""
    repeated = pieces.map(lambda column: np.repeat(column, speeds))
    return Pieces(repeated.rows, repeated.frames, repeated.firsts, np.tile(np.arange(speeds, dtype=np.uint8), len(pieces)))


def pieces_of(rows: np.ndarray, frames: np.ndarray, frame_range: FrameRange) -> tuple[Pieces, int]:
    """The pieces of some records, in their order, and how many windows are left out.

    Args:
        rows: int64 `[n]`, their rows in the index.
        frames: int64 `[n]`, their frames.
    """
    if frame_range.windows is None:
        return Pieces(rows, frame_range.counts(frames, np.minimum)), 0
    places = frame_range.windows.places(frames)
    narrow = rows.astype(np.min_scalar_type(int(rows.max(initial=0))))
    return Pieces(narrow[places.records], places.frames, places.firsts), places.left_out
