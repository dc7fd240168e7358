"""The pieces of a batch in a TensorFlow graph: what is read of which record, and from which numbers its random numbers are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from vlpipe.engines.splitmix_graph import draws, part_numbers
from vlpipe.planning.frame_plan import PieceFrames
from vlpipe.planning.pieces import Pieces
from vlpipe.planning.plan import Plan
from vlpipe.planning.splitmix import CROPS


class PieceBatch(NamedTuple):
    """The pieces of a batch.

    Attributes:
        records: int64 `[B]`, their records, by the positions in the tables of the engine.
        ids: int64 `[B]`, of their records.
        numbers: int64 `[B]`, from which masks are drawn.
        frames: those of the key feature that are read.
        copies: int64 `[B]`, which of several equal pieces each is; None: there are no equal ones.
    """

    records: tf.Tensor
    ids: tf.Tensor
    numbers: tf.Tensor
    frames: PieceFrames
    copies: tf.Tensor | None = None


class GraphPieces:
    """The pieces of a plan. The positions of records are their rows in the index."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._columns = plan, plan.pieces.map(tf.constant)
        self._ids, self._frames = tf.constant(plan.index.ids), tf.constant(plan.index.frames(plan.selection.key))

    def take(self, pieces: tf.Tensor, epoch: tf.Tensor) -> PieceBatch:
        """The pieces at some positions (int64 `[B]`), as they are read in an epoch (int64 scalar)."""
        taken = self._columns.map(lambda column: tf.cast(tf.gather(column, pieces), tf.int64))
        ids = tf.gather(self._ids, taken.rows)
        frames = self._plan.frame_plan.frame_range.moved(
            PieceFrames(taken.firsts, taken.frames),
            lambda: tf.gather(self._frames, taken.rows),
            tf.minimum,
            _draws(self._plan, epoch, taken.copy_numbers(ids, part_numbers)),
        )
        return PieceBatch(taken.rows, ids, taken.numbers(ids, part_numbers), frames, taken.copies)


def pieces_of_records(
    plan: Plan, records: tf.Tensor, ids: tf.Tensor, frames: tf.Tensor, epoch: tf.Tensor, copies: tf.Tensor | None = None
) -> PieceBatch:
    """One piece of each record.

    Args:
        records: int64 `[B]`, positions.
        ids: int64 `[B]`.
        frames: int64 `[B]`, all that they have of the key feature.
        epoch: int64 scalar.
        copies: int64 `[B]`, which of several equal pieces each is; None: the only one.
    """
    numbers = Pieces(records, frames, copies=copies).copy_numbers(ids, part_numbers)
    return PieceBatch(records, ids, numbers, plan.frame_plan.frame_range.pieces(frames, tf.minimum, _draws(plan, epoch, numbers)), copies)


def _draws(plan: Plan, epoch: tf.Tensor, numbers: tf.Tensor) -> Callable[[], tf.Tensor]:
    return lambda: draws(plan.options.seed or 0, epoch, CROPS, numbers, 1)[:, 0]
