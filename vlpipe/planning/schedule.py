"""The order of an epoch: which pieces make which batch, from (seed, epoch) alone.

Positions are shuffled, never tensors: a true global shuffle without a buffer, the same on every machine, every rank and both engines.
Only the order changes from epoch to epoch, so that any batch of any epoch can be computed directly:

    1. Sort the slots by (bucket, hash of (seed, epoch, slot)), packed into one integer each. A slot is the place of a piece in an epoch.
    2. Cut the sorted slots into batches at fixed positions (`BatchSpans`), each as large as the batch size of its bucket.
    3. Deliver the batches in the order of another hash of (seed, epoch).

The hash is SplitMix64 (see `splitmix`).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from vlpipe.planning.drawing import Drawing
from vlpipe.planning.splitmix import BATCHES, RECORDS, hashes, order_in_groups

ORDER = 1  # version of this recipe, part of saved states: change the number with the recipe


class BatchSpans(NamedTuple):
    """The spans of the sorted slots that make the batches; for several ranks, the steps of one batch a rank.

    Attributes:
        starts: int64 `[steps]`, position of the first slot of each step.
        counts: int64 `[steps]`, slots in it; fewer than `sizes` if the step is short.
        sizes: int64 `[steps]`, rows that all ranks together deliver in a full step.
        buckets: int64 `[steps]`, the bucket whose boundary the step is padded to.
    """

    starts: np.ndarray
    counts: np.ndarray
    sizes: np.ndarray
    buckets: np.ndarray


def cut(slots: Sequence[int], sizes: Sequence[int], *, drop: bool, carry: bool) -> BatchSpans:
    """Cut sorted slots into batches, bucket by bucket.

    Args:
        slots: their number in each bucket.
        sizes: slots in a full batch of each bucket.
        drop: leave out short batches.
        carry: slots that do not fill a batch of their bucket complete the last batch of the next longer bucket. Then at most one batch
            is short: that of the shortest pieces, where a repeated or a missing row costs least. Otherwise each bucket may end in a
            short batch.
    """
    ends = np.cumsum(slots, dtype=np.int64).tolist()
    parts: list[tuple[np.ndarray, np.ndarray, int]] = []  # starts and ends of the batches of a bucket, bucket
    end = ends[-1] if ends else 0
    for bucket in reversed(range(len(slots))):
        begin, size = ends[bucket] - slots[bucket], sizes[bucket]
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
    spans = BatchSpans(starts, counts, np.asarray(sizes, np.int64)[buckets], buckets)
    return BatchSpans(*(column[counts == spans.sizes] for column in spans)) if drop else spans


class Batch(NamedTuple):
    """One batch.

    Attributes:
        pieces: int64 `[B]`, positions among the pieces of the plan.
        real: number of rows with weight 1, the first ones; the rows after them repeat pieces to complete the batch.
        bucket: whose boundary it is padded to.
    """

    pieces: np.ndarray
    real: int
    bucket: int


@dataclass(frozen=True, eq=False)
class Schedule:
    """All epochs of a run, for one of `world` ranks.

    Attributes:
        bucket_of: `[slots]`, the bucket of each slot.
        spans: the spans that make the batches.
        seed: of the order; None: slots keep their order, and a batch is delivered when it is full.
        complete: short batches are completed by repeating their pieces (remainder="pad").
        shard: (rank, world).
        multiple_of: batches that are no multiple of it come last: Keras fails under a strategy whose first batch the replicas cannot share.
        drawing: the pieces of the slots of a mix; None: slot i has piece i.
    """

    bucket_of: np.ndarray
    spans: BatchSpans
    seed: int | None
    complete: bool
    shard: tuple[int, int] = (0, 1)
    multiple_of: int = 1
    drawing: Drawing | None = None
    _recent: dict[int, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @property
    def steps(self) -> int:
        """Batches an epoch."""
        return len(self.spans.starts)

    @property
    def last_bucket(self) -> int:
        """The longest bucket that has slots."""
        return int(self.bucket_of.max(initial=0))

    def pieces_of(self, epoch: int, slots: np.ndarray) -> np.ndarray:
        """int64 `[n]`: the pieces that some slots (int64 `[n]`) stand for in an epoch; `engines.graph` computes the same in the graph.

        Each of the bucket of its slot, so that all epochs have the same steps. Without a mix, each piece has one slot, in every epoch.
        """
        return slots if self.drawing is None else self.drawing.table(epoch)[slots]

    def slots_in_order(self, epoch: int) -> np.ndarray:
        """int64 `[slots]`: sorted by bucket, and randomly within a bucket."""
        if self.seed is None:
            return self._unshuffled[0]
        return order_in_groups(self.bucket_of, hashes(self.seed, epoch, RECORDS, len(self.bucket_of)), self.last_bucket)

    def batches_in_order(self, epoch: int) -> np.ndarray:
        """int64 `[steps]`: the spans in the order of delivery."""
        if self.seed is None:
            return self._unshuffled[1]
        order = np.argsort(hashes(self.seed, epoch, BATCHES, self.steps).view(np.int64), kind="stable")
        return order if self.uneven is None else order[np.argsort(self.uneven[order], kind="stable")]

    @cached_property
    def _unshuffled(self) -> tuple[np.ndarray, np.ndarray]:
        slots = np.argsort(self.bucket_of, kind="stable")
        last = np.array([slots[start : start + count].max() for start, count in zip(*self.spans[:2], strict=True)], np.int64)
        return slots, np.lexsort((last,) if self.uneven is None else (last, self.uneven))

    @cached_property
    def uneven(self) -> np.ndarray | None:
        """bool `[steps]`: the batches that come last, because their rows are no multiple of `multiple_of`; None: there are none."""
        rows = self.spans.sizes if self.complete else self.spans.counts
        uneven = rows // self.shard[1] % self.multiple_of != 0
        return uneven if uneven.any() else None

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of this rank at a step of an epoch."""
        pieces, batches = self._order_of(epoch)
        span = int(batches[step])
        rank, world = self.shard
        rows = int(self.spans.sizes[span]) // world
        real = min(max(int(self.spans.counts[span]) - rank * rows, 0), rows)
        return Batch(pieces[self.rows_of(span, rank)], real, int(self.spans.buckets[span]))

    def rows_of(self, span: int, rank: int) -> np.ndarray:
        """int64 `[B]`: positions among the sorted slots of the rows of a rank's batch."""
        start, count, rows = int(self.spans.starts[span]), int(self.spans.counts[span]), int(self.spans.sizes[span]) // self.shard[1]
        first, end = rank * rows, (rank + 1) * rows
        return start + (np.arange(first, end) % count if self.complete else np.arange(first, min(end, count)))

    def _order_of(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Both orders, cached for two epochs: the first batches of an epoch are made while the last ones of the previous are in use."""
        with self._lock:
            if epoch not in self._recent:
                while len(self._recent) > 1:
                    del self._recent[next(iter(self._recent))]
                self._recent[epoch] = (self.pieces_of(epoch, self.slots_in_order(epoch)), self.batches_in_order(epoch))
            return self._recent[epoch]
