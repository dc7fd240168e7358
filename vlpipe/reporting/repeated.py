"""Records that are there twice: equal checksum and number of bytes in the index, then compared byte by byte as far as a limit goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vlpipe.errors import DatasetError
from vlpipe.sources.records import Records
from vlpipe.storage.index import Index

MAX_COMPARED = 200  # pairs of records that are read
_MAX_BYTES = 64 << 20  # of them together


@dataclass(frozen=True)
class Pair:
    """Two records with the same checksum and number of bytes.

    Attributes:
        first, second: their rows.
        is_equal: whether all bytes are equal; None: they were not compared.
    """

    first: int
    second: int
    is_equal: bool | None


@dataclass(frozen=True)
class Repeated:
    """The repeated records of a source, or the common ones of two.

    Attributes:
        records: records that match an earlier one (of two sources: records of the second that match one of the first).
        pairs: the first of them with what they match, after those that turned out to be different.
        different: compared pairs that are different records whose checksums happen to be equal.
        compared: pairs that were read and compared.
        by_chance: how many pairs would have equal checksums if all records were different, on average.
    """

    records: int
    pairs: tuple[Pair, ...]
    different: int
    compared: int
    by_chance: float


def repeated_in(index: Index) -> Repeated:
    """The records of one source that match an earlier one; the copies of one record in a mix are one record."""
    rows = _once(index)
    keys = _keys(index)[rows]
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    earlier = first[group.reshape(-1)]
    later = np.flatnonzero(earlier != np.arange(len(rows)))
    sizes = np.unique(keys & _SIZE, return_counts=True)[1].astype(np.float64)
    return _compared(index, index, rows[earlier[later]], rows[later], float((sizes * (sizes - 1)).sum()) / 2 / 2**32)


def repeated_across(first: Index, second: Index) -> Repeated:
    """The records of the second source that match one of the first."""
    ours, rows = _once(first), _once(second)
    mine, theirs = _keys(first)[ours], _keys(second)[rows]
    known, at = np.unique(mine, return_index=True)
    place = np.searchsorted(known, theirs).clip(0, max(0, len(known) - 1))
    found = np.flatnonzero(known[place] == theirs) if len(known) else np.zeros(0, np.int64)
    sizes, counts = np.unique(mine & _SIZE, return_counts=True)
    others, other_counts = np.unique(theirs & _SIZE, return_counts=True)
    _, here, there = np.intersect1d(sizes, others, assume_unique=True, return_indices=True)
    by_chance = float((counts[here].astype(np.float64) * other_counts[there]).sum()) / 2**32
    return _compared(first, second, ours[at[place[found]]], rows[found], by_chance)


_SIZE = np.uint64(2**32 - 1)


def _once(index: Index) -> np.ndarray:
    """int64: the rows without further copies of a record in a mix, ascending."""
    return np.sort(np.unique(index.ids, return_index=True)[1])


def _keys(index: Index) -> np.ndarray:
    """uint64 `[records]`: the checksum, and the number of bytes in the lower half."""
    return (index.rows["checksum"].astype(np.uint64) << np.uint64(32)) | index.rows["bytes"].astype(np.uint64)


def _compared(first: Index, second: Index, earlier: np.ndarray, later: np.ndarray, by_chance: float) -> Repeated:
    pairs, read = [], 0
    with Records(first) as ours, Records(second) as theirs:
        for a, b in zip(earlier[:MAX_COMPARED].tolist(), later[:MAX_COMPARED].tolist(), strict=True):
            read += 2 * int(first.rows["bytes"][a])
            pairs.append(Pair(a, b, _is_equal(ours, a, theirs, b) if read <= _MAX_BYTES else None))
    compared = sum(pair.is_equal is not None for pair in pairs)
    different = sum(pair.is_equal is False for pair in pairs)
    kept = tuple(pair for pair in pairs if pair.is_equal is not False)
    return Repeated(len(later) - different, kept, different, compared, by_chance)


def _is_equal(ours: Records, first: int, theirs: Records, second: int) -> bool | None:
    try:
        return ours.data(first) == theirs.data(second)
    except DatasetError:  # a damaged record: --verify describes it
        return None
