"""The order of an epoch: which records make which batch, from (seed, epoch) alone.

Row ids are shuffled, never tensors: a true global shuffle with no buffer, the same on every machine, every rank and both engines.
Everything but the order itself is the same in every epoch, so that any batch of any epoch can be had at once:

    1. Sort the records by (bucket, hash of (seed, epoch, record)). Packed into one integer each, that is one sort.
    2. Cut the sorted records into batches at fixed places (`BatchSpans`), as many records as a batch of the bucket holds.
    3. Deliver the batches in an order that is another hash of (seed, epoch).

The hash is SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, OOPSLA 2014): integer arithmetic
modulo 2**64, which NumPy and a TensorFlow graph compute alike, now and in later versions. `ORDER` names this recipe in a
saved state: whoever changes the recipe changes the number.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from vlpipe.planning.splitmix import BATCHES, RECORDS, hashes

ORDER = 1


class BatchSpans(NamedTuple):
    """Where the sorted records are cut into batches; for several ranks, into steps of one batch a rank.

    Attributes:
        starts: int64 `[steps]`, position of the first record of each.
        counts: int64 `[steps]`, records in it; fewer than `sizes` where it is short.
        sizes: int64 `[steps]`, rows that all ranks together deliver of it when it is full.
        buckets: int64 `[steps]`, the bucket that it is padded and counted as.
    """

    starts: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray
    buckets: np.ndarray


def cut(records: Sequence[int], sizes: Sequence[int], *, drop: bool, carry: bool) -> BatchSpans:
    """Cut sorted records into batches, bucket by bucket.

    Args:
        records: how many there are in each bucket.
        sizes: how many make a full batch of each.
        drop: leave out what does not fill a batch.
        carry: what does not fill a batch of a bucket completes the last batch of the next longer one. So at most one batch is short, and
            that of the shortest, where a repeated or a missing row costs least. Otherwise each bucket may end in a short batch.
    """
    ends = np.cumsum(records, dtype=np.int64).tolist()
    parts: list[tuple[np.ndarray, np.ndarray, int]] = []  # starts and ends of its batches, bucket
    end = ends[-1] if ends else 0
    for bucket in reversed(range(len(records))):
        begin, size = ends[bucket] - records[bucket], sizes[bucket]
        end = end if carry else ends[bucket]
        if carry:
            starts = end - size * np.arange(-((begin - end) // size), 0, -1, dtype=np.int64)  # the first may reach below `begin`
            stops = starts + size
            starts = np.maximum(starts, 0)
            end = int(starts[0]) if len(starts) else end
        else:
            starts = np.arange(begin, end, size, dtype=np.int64)
            stops = np.minimum(starts + size, end)
        parts.append((starts, stops, bucket))
    parts.reverse()
    empty = np.zeros(0, np.int64)
    starts = np.concatenate([empty, *(part[0] for part in parts)])
    counts = np.concatenate([empty, *(part[1] for part in parts)]) - starts
    buckets = np.repeat(np.array([part[2] for part in parts], np.int64), [len(part[0]) for part in parts])
    cuts = BatchSpans(starts, counts, np.asarray(sizes, np.int64)[buckets], buckets)
    return BatchSpans(*(column[counts == cuts.sizes] for column in cuts)) if drop else cuts


class Batch(NamedTuple):
    """One batch: the records that are its rows, how many of these count, and its bucket.

    Attributes:
        records: int64 `[B]`, positions among the records that the schedule was made of.
        real: the first so many rows count; those after repeat them, to complete the batch.
        bucket: the bucket that it is padded as.
    """

    records: np.ndarray
    real: int
    bucket: int


@dataclass(frozen=True, eq=False)
class Schedule:
    """All epochs of a run, for one of `world` ranks.

    Attributes:
        bucket_of: `[records]`, the bucket of each record.
        cuts: see there.
        seed: of the order; None: the records stay in the order in which they are given, a batch comes when it is full.
        complete: a short batch is completed by repeating its records (remainder="pad").
        shard: (rank, world).
    """

    bucket_of: np.ndarray
    cuts: BatchSpans
    seed: int | None
    complete: bool
    shard: tuple[int, int] = (0, 1)
    _recent: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return len(self.cuts.starts)

    @property
    def index_bits(self) -> int:
        """Bits of a packed sort key that hold the record's position: the lowest."""
        return max(1, len(self.bucket_of)).bit_length()

    @property
    def hash_bits(self) -> int:
        """Bits that hold its hash: as many as the bucket and the position leave of 63. Equal ones leave the order to the position."""
        return 63 - self.index_bits - int(self.bucket_of.max(initial=0)).bit_length()

    def records_in_order(self, epoch: int) -> np.ndarray:
        """int64 `[records]`: positions of the records, sorted by bucket and in a bucket at random."""
        if self.seed is None:
            return self._still[0]
        packed = hashes(self.seed, epoch, RECORDS, len(self.bucket_of))
        packed >>= np.uint64(64 - self.hash_bits)
        packed |= self.bucket_of.astype(np.uint64) << np.uint64(self.hash_bits)
        packed <<= np.uint64(self.index_bits)
        packed |= np.arange(len(packed), dtype=np.uint64)
        ordered = packed.view(np.int64)
        ordered.sort()
        ordered &= (1 << self.index_bits) - 1
        return ordered

    def batches_in_order(self, epoch: int) -> np.ndarray:
        """int64 `[steps]`: the cuts in the order in which they are delivered."""
        if self.seed is None:
            return self._still[1]
        return np.argsort(hashes(self.seed, epoch, BATCHES, self.steps).view(np.int64), kind="stable")

    @cached_property
    def _still(self) -> tuple[np.ndarray, np.ndarray]:
        records = np.argsort(self.bucket_of, kind="stable")
        last = np.array([records[start : start + count].max() for start, count in zip(*self.cuts[:2], strict=True)], np.int64)
        return records, np.argsort(last, kind="stable")

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of this rank at a step of an epoch."""
        records, batches = self._order_of(epoch)
        cut = int(batches[step])
        rank, world = self.shard
        rows = int(self.cuts.sizes[cut]) // world
        real = min(max(int(self.cuts.counts[cut]) - rank * rows, 0), rows)
        return Batch(records[self.places(cut, rank)], real, int(self.cuts.buckets[cut]))

    def places(self, cut: int, rank: int) -> np.ndarray:
        """int64 `[B]`: where among the sorted records the rows of a rank's batch stand."""
        start, count, rows = int(self.cuts.starts[cut]), int(self.cuts.counts[cut]), int(self.cuts.sizes[cut]) // self.shard[1]
        first, end = rank * rows, (rank + 1) * rows
        return start + (np.arange(first, end) % count if self.complete else np.arange(first, min(end, count)))

    def _order_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """The two orders, kept for two epochs: batches of the next are made while those of the last are still under way."""
        with self._lock:
            if epoch not in self._recent:
                while len(self._recent) > 1:
                    del self._recent[next(iter(self._recent))]
                self._recent[epoch] = (self.records_in_order(epoch), self.batches_in_order(epoch))
            return self._recent[epoch]
