"""Lengths of sequences: their histogram, and the bucket boundaries that pad them least."""

from __future__ import annotations

import math
from collections import deque

import numpy as np

from vlpipe.planning.options import Options


def histogram(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct lengths in ascending order, and how many sequences have each (int64 `[L]`, int64 `[L]`)."""
    frames = np.asarray(frames, np.int64)
    if frames.max(initial=0) <= max(4 * len(frames), 1 << 16):  # a tenth of the time that sorting takes
        counts = np.bincount(frames)
        lengths = np.flatnonzero(counts)
        return lengths, counts[lengths].astype(np.int64)
    lengths, counts = np.unique(frames, return_counts=True)
    return lengths, counts.astype(np.int64)


def rows_of_whole_batches(counts: np.ndarray, batch_size: int, remainder: str) -> np.ndarray:
    """Rows of the batches that reach just to each length, where every batch but one is full (int64 `[L]`, some of them 0).

    Batches are cut from the longest sequence down, each filled up with shorter ones; what is left is a short batch of the shortest. With
    these in the place of the counts, `optimal_boundaries` pads least in whole batches.
    """
    total = int(counts.sum())
    longer = total - np.cumsum(counts)
    taken = -(-longer // batch_size) * batch_size  # by the batches of longer sequences
    whole = {"keep": total, "pad": -(-total // batch_size) * batch_size, "drop": total // batch_size * batch_size}[remainder]
    return np.diff(np.maximum(whole - taken, 0), prepend=0)


# Beyond so many distinct lengths (waveforms: samples) the boundaries are chosen among so many of them, at equal steps of records.
MAX_LENGTHS = 8192


def optimal_boundaries(lengths: np.ndarray, counts: np.ndarray, buckets: int, least: np.ndarray | int = 1) -> tuple[int, ...]:
    """The inclusive upper lengths of at most `buckets` buckets which together pad the least.

    Exact, up to 8,192 distinct lengths: minimises the frames after padding, each sequence to the boundary of its bucket, by dynamic
    programming. With the sequences in order of length, N[j] of them among the first j + 1 lengths, the best cost of covering these by
    k buckets is

        cost[k][j] = min over i < j with N[j] - N[i] >= least[j] of  cost[k - 1][i] + lengths[j] * (N[j] - N[i]).

    For a fixed i that is a line in lengths[j], so that each k takes one pass over a lower envelope (the convex-hull trick)
    instead of a pass for every j. Python's integers keep it exact.

    Args:
        lengths: distinct lengths, ascending.
        counts: sequences of each length.
        buckets: how many buckets at the most, >= 1.
        least: how many sequences a bucket must have, by its upper length, not ascending; if there are fewer in all, one bucket has them.

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
    """Lengths, records up to each and so on, of at most MAX_LENGTHS of the lengths, the greatest among them."""
    totals = columns[1]
    if len(totals) > MAX_LENGTHS:
        steps = totals[-1] * np.arange(1, MAX_LENGTHS + 1) // MAX_LENGTHS
        kept = np.unique(np.searchsorted(totals, steps))
        columns = tuple(column[kept] for column in columns)
    return list(columns)


def _add_bucket(xs: list[int], ns: list[int], needed: list[int], cost: list[float]) -> tuple[list[float], list[int]]:
    """From the costs of covering by k buckets, those by k + 1, and where the last of them then begins."""
    new_cost, choice = [math.inf] * len(xs), [-1] * len(xs)
    envelope: deque[int] = deque()  # positions i of the lines cost[i] - x * ns[i], steeper and steeper
    ready = 0  # the first position that is not yet far enough behind
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
    """Add a line that is steeper than all before, and drop those that are now nowhere the lowest."""
    if envelope and ns[new] == ns[envelope[-1]]:
        if cost[new] >= cost[envelope[-1]]:
            return  # parallel, and nowhere lower
        envelope.pop()
    while len(envelope) > 1:
        before, last = envelope[-2], envelope[-1]
        # `last` is useless if the new line crosses `before` no later than `last` does.
        if (cost[new] - cost[before]) * (ns[last] - ns[before]) <= (cost[last] - cost[before]) * (ns[new] - ns[before]):
            envelope.pop()
        else:
            break
    envelope.append(new)


# How many there are at the most where the user does not say. "boundary" makes as many static shapes, each of which XLA compiles. For
# "longest", so many that little is padded; but the stream engine ends each bucket in a short batch, and holds a batch of each in memory.
DEFAULT_BUCKETS = {"longest": 64, "boundary": 8}
STREAM_BUCKETS = {"longest": 16, "boundary": 8}
# With few records there are fewer. Two that share a batch do so again in the next epoch with a probability of about 1 in these.
BATCHES_PER_BUCKET = {"longest": 2, "boundary": 4}
STREAM_BATCHES_PER_BUCKET = {"longest": 4, "boundary": 4}


def _boundaries(lengths: np.ndarray, counts: np.ndarray, options: Options, engine: str) -> tuple[int, ...]:
    if not len(lengths):
        return ()
    if options.batching == "same_length":
        return tuple(lengths.tolist())
    if options.batching == "bucket":
        return boundaries_for(lengths, counts, options, engine)
    return (int(lengths[-1]),)


def boundaries_for(lengths: np.ndarray, counts: np.ndarray, options: Options, engine: str = "stream") -> tuple[int, ...]:
    """Inclusive upper lengths of the buckets for a histogram of lengths.

    Boundaries that were given are kept; if some sequence is longer than the last, one more bucket reaches to the longest. Those that are
    chosen pad least among those that leave no bucket without a full batch (for every rank).
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
