"""How many of the frames of an epoch are padding."""

from __future__ import annotations

import numpy as np

from vlpipe.planning.options import Options
from vlpipe.planning.schedule import Schedule


def frames_by_bucket(
    schedule: Schedule, frames: np.ndarray, options: Options, boundaries: tuple[int, ...], least: int
) -> tuple[np.ndarray, np.ndarray]:
    """int64 `[buckets]`: real frames, and all frames, of the batches of each bucket in the first epoch, for all ranks together.

    Args:
        frames: integers `[n]`, the delivered lengths of the pieces.
        boundaries: inclusive upper lengths of the buckets.
        least: frames to which every sequence is padded at least.
    """
    spans = schedule.spans
    frames = frames[schedule.pieces_of(0, schedule.slots_in_order(0))]
    totals = np.concatenate([[0], np.cumsum(frames)])
    valid, delivered = np.zeros((2, len(boundaries)), np.int64)
    np.add.at(valid, spans.buckets, totals[spans.starts + spans.counts] - totals[spans.starts])
    if options.batching == "ragged":
        return valid, valid
    if options.pad_to == "boundary":
        rows = spans.sizes if options.remainder == "pad" else spans.counts
        np.add.at(delivered, spans.buckets, rows * np.asarray(boundaries, np.int64)[spans.buckets])
        return valid, delivered
    full = spans.counts == spans.sizes
    for rank in range(options.shard[1]):
        rows = spans.sizes[full] // options.shard[1]
        firsts = spans.starts[full] + rank * rows
        # reduceat reduces [edge, next edge) for every edge: every second of these intervals is a batch.
        edges = np.stack([firsts, firsts + rows], axis=1).ravel()
        longest = np.maximum(np.maximum.reduceat(np.append(frames, 0), edges)[::2], least) if len(edges) else rows
        np.add.at(delivered, spans.buckets[full], rows * longest)
        for step in np.flatnonzero(~full):
            rows_of_rank = schedule.rows_of(int(step), rank)
            delivered[spans.buckets[step]] += len(rows_of_rank) * max(least, int(frames[rows_of_rank].max()))
    return valid, delivered
