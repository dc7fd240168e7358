"""Buckets of lengths: the histogram of lengths, and the boundaries that pad them least."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from vlpipe.planning.options import Options


@dataclass(frozen=True)
class Bucket:
    """Sequences of similar length, which are batched together.

    Attributes:
        upper: its boundary: the most frames of a sequence in it (inclusive).
        batch_size: sequences in a full batch (of one rank).
        records: sequences in it.
        longest: frames of the longest of them; 0 for an empty bucket.
        steps: batches of this bucket in an epoch (of one rank).
        rows: the different numbers of rows of these batches.
    """

    upper: int
    batch_size: int
    records: int
    longest: int
    steps: int
    rows: tuple[int, ...]


def histogram(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct lengths in ascending order, and how many sequences have each (int64 `[L]`, int64 `[L]`)."""
    frames = np.asarray(frames, np.int64)
    if frames.max(initial=0) <= max(4 * len(frames), 1 << 16):  # a tenth of the time that sorting takes
        counts = np.bincount(frames)
        lengths = np.flatnonzero(counts)
        return lengths, counts[lengths].astype(np.int64)
    lengths, counts = np.unique(frames, return_counts=True)
    return lengths, counts.astype(np.int64)


def weighted_histogram(frames: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct lengths of sequences that come at all, and about how many of an epoch have each, at least 1.

    Args:
        frames: integers `[n]`.
        rates: float64 `[n]`, how often each comes.
    """
    comes = rates > 0
    lengths, inverse = np.unique(np.asarray(frames, np.int64)[comes], return_inverse=True)
    counts = np.bincount(inverse.reshape(-1), weights=rates[comes], minlength=len(lengths))
    return lengths, np.maximum(1, np.rint(counts)).astype(np.int64)


def buckets_of(frames: np.ndarray, uppers: tuple[int, ...]) -> np.ndarray:
    """Unsigned integers `[n]`: the bucket of each sequence, the first whose upper length (inclusive) it does not exceed."""
    dtype, longest = np.min_scalar_type(len(uppers)), int(frames.max(initial=0))
    if longest <= max(4 * len(frames), 1 << 16):  # a sixth of the time of searching for each
        return np.searchsorted(uppers, np.arange(longest + 1), side="left").astype(dtype)[frames]
    return np.searchsorted(uppers, frames, side="left").astype(dtype)


def rows_of_whole_batches(counts: np.ndarray, batch_size: int, remainder: str) -> np.ndarray:
    """int64 `[L]`: rows of the batches whose longest record has each length, if every batch but one is full; 0 for other lengths.

    Batches are cut from the longest sequence down, each filled with shorter ones; the shortest make a short batch. With these numbers
    instead of the counts, `optimal_boundaries` minimises the padding of whole batches.
    """
    total = int(counts.sum())
    longer = total - np.cumsum(counts)
    taken = -(-longer // batch_size) * batch_size  # rows in batches of longer sequences
    whole = {"keep": total, "pad": -(-total // batch_size) * batch_size, "drop": total // batch_size * batch_size}[remainder]
    return np.diff(np.maximum(whole - taken, 0), prepend=0)


# With more distinct lengths (waveforms have lengths in samples), boundaries are chosen among this many, at equal steps of records.
MAX_LENGTHS = 8192


def optimal_boundaries(lengths: np.ndarray, counts: np.ndarray, buckets: int, least: np.ndarray | int = 1) -> tuple[int, ...]:
    """The inclusive upper lengths of at most `buckets` buckets that minimise padding.

    Exact up to 8,192 distinct lengths. Dynamic programming minimises the total frames after each sequence is padded to the boundary of its
    bucket. With N[j] sequences of the first j + 1 lengths, the lowest cost of covering them with k buckets is

        cost[k][j] = min over i < j with N[j] - N[i] >= least[j] of  cost[k - 1][i] + lengths[j] * (N[j] - N[i]).

    For a fixed i this is a line in lengths[j], so that each k takes one pass over a lower envelope (the convex-hull trick) instead of one
    pass for every j. Python's integers keep it exact.

    Args:
        lengths: distinct lengths, ascending.
        counts: sequences of each length.
        buckets: maximum number of buckets, >= 1.
        least: sequences that a bucket must have, by its upper length, not ascending; with fewer sequences in total there is one bucket.

    Returns:
        Ascending boundaries; the last is the greatest length. Empty if there are no lengths.
    """
    if not len(lengths):
        return ()
    lengths, totals, least = _thinned(lengths, np.cumsum(counts), np.broadcast_to(least, len(lengths)))
    xs, ns, needed = lengths.tolist(), totals.tolist(), least.tolist()
    count = len(xs)
    cost = [x * n if n >= need else math.inf for x, n, need in zip(xs, ns, needed, strict=True)]
    best, best_k = cost[-1], 0
    choices: list[list[int]] = []
    for k in range(1, min(buckets, count)):
        cost, choice = _add_bucket(xs, ns, needed, cost)
        choices.append(choice)
        if cost[-1] < best:
            best, best_k = cost[-1], k
    j = count - 1
    boundaries = [xs[j]]
    for choice in reversed(choices[:best_k]):
        j = choice[j]
        boundaries.append(xs[j])
    return tuple(reversed(boundaries))


def _thinned(*columns: np.ndarray) -> list[np.ndarray]:
    """The columns (lengths, records up to each, ...) at no more than MAX_LENGTHS of the lengths, the greatest included."""
    totals = columns[1]
    if len(totals) > MAX_LENGTHS:
        steps = totals[-1] * np.arange(1, MAX_LENGTHS + 1) // MAX_LENGTHS
        kept = np.unique(np.searchsorted(totals, steps))
        columns = tuple(column[kept] for column in columns)
    return list(columns)


def _add_bucket(xs: list[int], ns: list[int], needed: list[int], cost: list[float]) -> tuple[list[float], list[int]]:
    """From the costs of k buckets, the costs of k + 1, and where the last of these buckets begins."""
    new_cost, choice = [math.inf] * len(xs), [-1] * len(xs)
    envelope: deque[int] = deque()  # positions i of the lines cost[i] - x * ns[i], of increasing steepness
    ready = 0  # the first position that leaves too few sequences for the bucket
    for j, x in enumerate(xs):
        while ready < j and ns[ready] <= ns[j] - needed[j]:
            if cost[ready] < math.inf:
                _push(envelope, ready, ns, cost)
            ready += 1
        while len(envelope) > 1 and cost[envelope[1]] - x * ns[envelope[1]] <= cost[envelope[0]] - x * ns[envelope[0]]:
            envelope.popleft()
        if envelope:
            best = envelope[0]
            new_cost[j], choice[j] = cost[best] + x * (ns[j] - ns[best]), best
    return new_cost, choice


def _push(envelope: deque[int], new: int, ns: list[int], cost: list[float]) -> None:
    """Add a line that is steeper than all others, and drop lines that are no longer lowest anywhere."""
    if envelope and ns[new] == ns[envelope[-1]]:
        if cost[new] >= cost[envelope[-1]]:
            return  # parallel and not lower
        envelope.pop()
    while len(envelope) > 1:
        before, last = envelope[-2], envelope[-1]
        # `last` is useless if the new line crosses `before` no later than `last` does.
        if (cost[new] - cost[before]) * (ns[last] - ns[before]) <= (cost[last] - cost[before]) * (ns[new] - ns[before]):
            envelope.pop()
        else:
            break
    envelope.append(new)


# Default maximum of buckets. "boundary" makes as many static shapes, and XLA compiles each of them. "longest" has enough that little is
# padded; but the stream engine ends each bucket with a short batch, and holds a batch of each in memory.
DEFAULT_BUCKETS = {"longest": 64, "boundary": 8}
STREAM_BUCKETS = {"longest": 16, "boundary": 8}
# Few records get fewer buckets. Two records that share a batch do so again in the next epoch with a probability of about 1 in this.
BATCHES_PER_BUCKET = {"longest": 2, "boundary": 4}
STREAM_BATCHES_PER_BUCKET = {"longest": 4, "boundary": 4}


def boundaries_of(lengths: np.ndarray, counts: np.ndarray, options: Options, engine: str) -> tuple[int, ...]:
    if not len(lengths):
        return ()
    if options.batching == "same_length":
        return tuple(lengths.tolist())
    if options.batching == "bucket":
        return boundaries_for(lengths, counts, options, engine)
    return (int(lengths[-1]),)


def boundaries_for(lengths: np.ndarray, counts: np.ndarray, options: Options, engine: str = "stream") -> tuple[int, ...]:
    """Inclusive upper lengths of the buckets for a histogram of lengths.

    The user's boundaries are kept; if a sequence is longer than the last one, a further bucket reaches to the longest. Otherwise the
    boundaries are chosen that pad least, among those that give every bucket a full batch (for every rank).
    """
    buckets = options.buckets
    if isinstance(buckets, tuple):
        longest = int(lengths[-1]) if len(lengths) else 0
        return buckets if longest <= buckets[-1] else (*buckets, longest)
    world = options.shard[1]
    least = np.array([options.batch_size_for(length) * world for length in lengths.tolist()], np.int64)
    if buckets is None and len(lengths):
        most, batches = (STREAM_BUCKETS, STREAM_BATCHES_PER_BUCKET) if engine == "stream" else (DEFAULT_BUCKETS, BATCHES_PER_BUCKET)
        records = int(counts.sum())
        mean = int(lengths @ counts) // records
        buckets = records // (batches[options.pad_to] * options.batch_size_for(mean) * world)
        buckets = max(1, min(buckets, most[options.pad_to]))
    if engine != "stream" and options.frames_per_batch is None and len(lengths):
        counts = rows_of_whole_batches(counts, int(least[0]), options.remainder)
    return optimal_boundaries(lengths, counts, buckets or 1, least)
