"""Lengths of sequences: their histogram, and the bucket boundaries that pad them least."""

from __future__ import annotations

from collections import deque

import numpy as np


def histogram(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct lengths in ascending order, and how many sequences have each (int64 `[L]`, int64 `[L]`)."""
    lengths, counts = np.unique(np.asarray(frames, np.int64), return_counts=True)
    return lengths, counts.astype(np.int64)


def optimal_boundaries(lengths: np.ndarray, counts: np.ndarray, buckets: int) -> tuple[int, ...]:
    """The inclusive upper lengths of at most `buckets` buckets which together pad the least.

    Exact: minimises the frames after padding, each sequence to the boundary of its bucket, by dynamic programming.
    With the sequences in order of length, N[j] of them among the first j + 1 lengths, the best cost of covering these by k buckets is

        cost[k][j] = min over i < j of  cost[k - 1][i] + lengths[j] * (N[j] - N[i]).

    For a fixed i that is a line in lengths[j], so that each k takes one pass over a lower envelope (the convex-hull trick)
    instead of a pass for every j. Python's integers keep it exact.

    Args:
        lengths: distinct lengths, ascending.
        counts: sequences of each length.
        buckets: how many buckets at the most, >= 1.

    Returns:
        Ascending boundaries; the last is the greatest length. Empty if there are no lengths.
    """
    xs = [int(length) for length in lengths]
    totals = [int(total) for total in np.cumsum(counts)]
    count = len(xs)
    cost = [x * total for x, total in zip(xs, totals, strict=True)]
    choices: list[list[int]] = []
    for k in range(1, min(buckets, count)):
        cost, choice = _add_bucket(xs, totals, cost, k)
        choices.append(choice)
    boundaries = []
    j = count - 1
    for choice in reversed(choices):
        boundaries.append(xs[j])
        j = choice[j]
    if count:
        boundaries.append(xs[j])
    return tuple(reversed(boundaries))


def _add_bucket(xs: list[int], totals: list[int], cost: list[int], k: int) -> tuple[list[int], list[int]]:
    """From the costs of covering by k buckets, those by k + 1, and where the last of them then begins."""
    count = len(xs)
    new_cost, choice = list(cost), list(range(count))
    envelope: deque[int] = deque()  # positions i of the lines cost[i] - x * totals[i], steeper and steeper
    for j in range(k, count):
        _push(envelope, j - 1, totals, cost)
        x = xs[j]
        while len(envelope) > 1 and cost[envelope[1]] - x * totals[envelope[1]] <= cost[envelope[0]] - x * totals[envelope[0]]:
            envelope.popleft()
        best = envelope[0]
        new_cost[j], choice[j] = cost[best] + x * (totals[j] - totals[best]), best
    return new_cost, choice


def _push(envelope: deque[int], new: int, totals: list[int], cost: list[int]) -> None:
    """Add a line that is steeper than all before, and drop those that are now nowhere the lowest."""
    while len(envelope) > 1:
        before, last = envelope[-2], envelope[-1]
        # `last` is useless if the new line crosses `before` no later than `last` does.
        if (cost[new] - cost[before]) * (totals[last] - totals[before]) <= (cost[last] - cost[before]) * (totals[new] - totals[before]):
            envelope.pop()
        else:
            break
    envelope.append(new)
