"""Which record goes to which part: integer arithmetic on arrays, for splits, folds and mixes."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from vlpipe.storage.mixture import apportion


def random_order(count: int, seed: int) -> np.ndarray:
    """int64 `[count]`: the numbers below `count` in a random order that depends on the seed alone, on any machine."""
    bits = max(1, count).bit_length()
    # The number of a record in the lowest bits of its key: sorting keys takes a quarter of the time of argsort, and none are equal.
    keys = (np.random.PCG64(seed).random_raw(count) >> np.uint64(bits) << np.uint64(bits)) | np.arange(count, dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64((1 << bits) - 1)).astype(np.int64)


def partition(
    count: int, weights: Sequence[Fraction], *, groups: np.ndarray | None = None, strata: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """int64 `[count]`: the part of each record.

    Without groups, each part has its exact count (`apportion`); and of each stratum its share, rounded down or up.

    Args:
        weights: of the parts.
        groups: int64 `[count]`, the group of each record; a group is not divided. At least as many groups as parts.
        strata: int64 `[count]`, the class of each record.
        seed: of the random choice.
    """
    if groups is not None:
        return _by_group(weights, groups, np.zeros(count, np.int64) if strata is None else strata, seed)
    order, counts = random_order(count, seed), [apportion(count, weights)]
    if strata is not None:
        counts = _rounded(np.bincount(strata).tolist(), weights)
        narrow = strata.astype(np.min_scalar_type(len(counts)))  # a radix sort up to 65,535 strata
        order = order[np.argsort(narrow[order], kind="stable")]
    parts = np.empty(count, np.int64)
    parts[order] = np.repeat(np.tile(np.arange(len(weights)), len(counts)), np.array(counts, np.int64).ravel())
    return parts


def _rounded(sizes: list[int], weights: Sequence[Fraction]) -> list[list[int]]:
    """Records of each stratum in each part: the share of each rounded down or up, so that strata and parts have their exact sums."""
    whole = sum(weights)
    counts = [[int(size * weight / whole) for weight in weights] for size in sizes]
    wanted = [total - sum(column) for total, column in zip(apportion(sum(sizes), weights), zip(*counts, strict=True), strict=True)]
    # The strata with most records left first, each to the parts that lack most: so that no part is left over at the end.
    left = {stratum: size - sum(row) for stratum, (size, row) in enumerate(zip(sizes, counts, strict=True))}
    for stratum in sorted(left, key=lambda stratum: -left[stratum]):
        remainders = [sizes[stratum] * weight / whole - got for weight, got in zip(weights, counts[stratum], strict=True)]
        by_need = sorted(range(len(weights)), key=lambda part: (-wanted[part], -remainders[part]))
        for part in by_need[: left[stratum]]:
            counts[stratum][part] += 1
            wanted[part] -= 1
    return counts


def _by_group(weights: Sequence[Fraction], groups: np.ndarray, strata: np.ndarray, seed: int) -> np.ndarray:
    """The largest groups first, each to the part that then is nearest to its share of every stratum."""
    classes = int(strata.max(initial=0)) + 1
    number = int(groups.max(initial=0)) + 1
    content = np.bincount(groups * classes + strata, minlength=number * classes).reshape(number, classes).astype(np.float64)
    shares = np.array([float(weight / sum(weights)) for weight in weights])
    lacking = shares[:, None] * content.sum(axis=0)
    scale = np.maximum(content.sum(axis=0), 1)
    order = random_order(number, seed)
    order = order[np.argsort(-content.sum(axis=1)[order], kind="stable")]
    empty = set(range(len(weights)))
    part_of_group = np.empty(number, np.int64)
    for position, group in enumerate(order.tolist()):
        # How much nearer each part comes to its share; relative to the share, so that a small part is not always the last.
        gain = ((lacking**2 - (lacking - content[group]) ** 2) / scale**2).sum(axis=1) / shares
        allowed = sorted(empty) if len(empty) >= number - position else range(len(weights))
        part = max(allowed, key=lambda part: gain[part])
        part_of_group[group] = part
        lacking[part] -= content[group]
        empty.discard(part)
    return part_of_group[groups]
