"""Which pieces of a mix come in an epoch: exact counts of each part in each bucket, and a draw of the pieces that come once more.

The pieces of one part in one bucket are a stratum. It has the same number of slots in every epoch, so that steps and shapes are those of
the plan. With n pieces and q = f * n + k slots, each piece comes f times, and k of them come once more. Epoch by epoch these k are the next
ones of a random order, until fewer than k are left: then comes another order. (Where k is more than half of n, the n - k that do not come
once more are chosen in this way.) So each piece comes equally often in the long run, and none waits long for its turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import google_crc32c
import numpy as np

from vlpipe.errors import ArgumentError
from vlpipe.planning.pieces import Pieces
from vlpipe.planning.splitmix import MIXES, hashes_in, order_in_groups
from vlpipe.storage.mixture import Mixture

MAX_SLOTS = 2**31 - 1


class MixedPart(NamedTuple):
    """A part of a mix.

    Attributes:
        name: of the part; those of a mix in a mix are "outer / inner".
        pieces: how many there are.
        delivered: how many come in an epoch.
    """

    name: str
    pieces: int
    delivered: int

    @property
    def rate(self) -> float:
        """How often each of its pieces comes in an epoch, on average."""
        return self.delivered / self.pieces if self.pieces else 0.0


class Strata(NamedTuple):
    """The strata of which some pieces are drawn, int64 `[strata]`.

    Attributes:
        firsts: first candidate, where they are sorted by stratum.
        sizes: candidates.
        drawn: how many of them an epoch has.
    """

    firsts: np.ndarray
    sizes: np.ndarray
    drawn: np.ndarray

    @property
    def _is_small(self) -> np.ndarray:
        return 2 * self.drawn <= self.sizes

    @property
    def blocks(self) -> np.ndarray:
        """int64 `[strata]`: the pieces of which an epoch has the next ones: those that are drawn, or those that are not."""
        return np.where(self._is_small, self.drawn, self.sizes - self.drawn)

    @property
    def cycles(self) -> np.ndarray:
        """int64 `[strata]`: epochs with one order of the candidates."""
        return self.sizes // self.blocks

    @property
    def skipped(self) -> np.ndarray:
        """int64 `[strata]`: what is added to the beginning of the block of an epoch: where the block is left out, it is skipped."""
        return np.where(self._is_small, 0, self.blocks)


@dataclass(frozen=True, eq=False)
class Drawing:
    """The pieces of the slots of each epoch.

    Attributes:
        seed: of the draw.
        fixed: number of slots that have the same piece in every epoch: slot i has piece i.
        stratum_of: integers `[candidates]`, the stratum of each piece after the fixed ones.
        strata: of the candidates.
        slot_strata: integers `[drawn slots]`, the stratum of each slot after the fixed ones, ascending.
        slot_places: integers `[drawn slots]`, which of the slots of its stratum it is.
    """

    seed: int
    fixed: int
    stratum_of: np.ndarray
    strata: Strata
    slot_strata: np.ndarray
    slot_places: np.ndarray

    def table(self, epoch: int) -> np.ndarray:
        """int64 `[slots]`: the piece of each slot in an epoch; `engines.graph` computes the same in the graph."""
        fixed = np.arange(self.fixed, dtype=np.int64)
        if not len(self.slot_strata):
            return fixed
        strata = self.strata
        hashed = hashes_in(self.seed, (epoch // strata.cycles)[self.stratum_of], MIXES)
        order = order_in_groups(self.stratum_of, hashed, len(strata.sizes))
        begins = epoch % strata.cycles * strata.blocks + strata.skipped
        places = (begins[self.slot_strata] + self.slot_places) % strata.sizes[self.slot_strata]
        return np.concatenate([fixed, self.fixed + order[strata.firsts[self.slot_strata] + places]])

    @property
    def digest(self) -> str:
        """Identifies the draw, with its seed."""
        crc = 0
        for part in (self.stratum_of, *self.strata, self.slot_strata):
            crc = google_crc32c.extend(crc, np.asarray(part).astype("<i8").tobytes())
        return f"{self.fixed} and {len(self.slot_strata)} of {len(self.stratum_of)} crc32c:{crc:08x}, seed {self.seed}"


class Mixed(NamedTuple):
    """The pieces of an epoch of a mix.

    Attributes:
        positions: int64 `[pieces]`, the piece without copies that each piece is.
        pieces: those that can come: the fixed ones, then the candidates.
        slot_buckets: `[slots]`, the bucket of each slot.
        drawing: which pieces the slots have.
    """

    positions: np.ndarray
    pieces: Pieces
    slot_buckets: np.ndarray
    drawing: Drawing


def parts_of(mixture: Mixture, pieces: Pieces) -> tuple[np.ndarray, tuple[MixedPart, ...]]:
    """The leaf of each piece of a mix, integers `[n]`, and the counts of all leaves.

    Raises:
        ArgumentError: none of the records of a part is delivered, or an epoch would have too many pieces.
    """
    leaf_of = mixture.leaf_of[pieces.rows]
    counts, there = mixture.counts(leaf_of), np.bincount(leaf_of, minlength=len(mixture.names))
    for name, planned, found in zip(mixture.names, mixture.counts(mixture.leaf_of).tolist(), there.tolist(), strict=True):
        if planned and not found and len(pieces):
            raise ArgumentError(
                f'mix: of the part "{name}" no record is delivered, because of length_range or windows, so it cannot have its share. '
                "Leave the part out, or use a wider length_range."
            )
    if counts.sum() > MAX_SLOTS:
        raise ArgumentError(
            f"mix: an epoch would have {counts.sum():,} pieces, at most {MAX_SLOTS:,} can be planned. Pass records=..., the number that an "
            "epoch is to have."
        )
    return leaf_of, tuple(map(MixedPart, mixture.names, there.tolist(), counts.tolist()))


def rates_of(parts: tuple[MixedPart, ...]) -> np.ndarray:
    """float64 `[leaves]`: how often each piece of a leaf comes in an epoch, on average."""
    return np.array([part.rate for part in parts])


def draw(
    mixture: Mixture, ids: np.ndarray, pieces: Pieces, parts: tuple[MixedPart, ...], bucket_of: np.ndarray, seed: int, speeds: int = 1
) -> Mixed:
    """The pieces and slots of a mix.

    Args:
        ids: int64 `[records]`, of its records.
        pieces: without copies but those of the speeds.
        parts: the counts of all leaves.
        bucket_of: `[n]`, the bucket of each.
        seed: of the draw.
        speeds: at how many speeds each piece comes.
    """
    leaf_of = mixture.leaf_of[pieces.rows]
    buckets = int(bucket_of.max(initial=0)) + 1
    strata, stratum_of = np.unique(leaf_of.astype(np.int64) * buckets + bucket_of, return_inverse=True)
    stratum_of = stratum_of.reshape(-1)
    sizes = np.bincount(stratum_of, minlength=len(strata))
    counts = np.array([part.delivered for part in parts], np.int64)
    times, drawn = np.divmod(_shares(counts, strata // buckets, sizes), np.maximum(sizes, 1))
    repeats = times[stratum_of]
    fixed = np.repeat(np.arange(len(stratum_of)), repeats)
    candidates = np.flatnonzero(drawn[stratum_of])
    candidates = candidates[np.argsort(stratum_of[candidates], kind="stable")]
    copies = np.concatenate([_within(repeats), times[stratum_of[candidates]]])
    positions = np.concatenate([fixed, candidates])
    used = np.flatnonzero(drawn)
    number = np.zeros(len(strata), np.int64)
    number[used] = np.arange(len(used))
    slot_strata = np.repeat(np.arange(len(used)), drawn[used])
    drawing = Drawing(
        seed=seed,
        fixed=len(fixed),
        stratum_of=number[stratum_of[candidates]],
        strata=Strata(np.cumsum(sizes[used]) - sizes[used], sizes[used], drawn[used]),
        slot_strata=slot_strata,
        slot_places=_within(drawn[used]),
    )
    slot_buckets = np.concatenate([bucket_of[fixed], (strata % buckets)[used][slot_strata].astype(bucket_of.dtype)])
    copies = copies + _copies_before(mixture, ids, parts)[pieces.rows[positions]]
    taken = pieces.map(lambda column: column[positions])
    if taken.copies is not None:
        copies = copies * speeds + taken.copies
    narrow = copies.astype(np.min_scalar_type(int(copies.max(initial=0))))
    needed = taken.copies is not None or narrow.any()
    return Mixed(positions, Pieces(taken.rows, taken.frames, taken.firsts, narrow if needed else None), slot_buckets, drawing)


def _shares(counts: np.ndarray, leaves: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """int64 `[strata]`: the count of each leaf, divided among its strata by the largest remainder.

    Args:
        counts: int64 `[leaves]`.
        leaves: int64 `[strata]`, the leaf of each, ascending.
        sizes: int64 `[strata]`, its pieces.
    """
    there = np.bincount(leaves, weights=sizes, minlength=len(counts)).astype(np.int64)
    shares, remainders = np.divmod(counts[leaves] * sizes, there[leaves])
    lacking: np.ndarray = counts - np.bincount(leaves, weights=shares, minlength=len(counts)).astype(np.int64)
    order = np.lexsort((-remainders, leaves))
    rank = np.arange(len(order)) - np.searchsorted(leaves, leaves)
    shares[order] += rank < lacking[leaves]
    return shares


def _within(counts: np.ndarray) -> np.ndarray:
    """int64 `[sum of counts]`: 0, 1, ... for each count."""
    ends = np.cumsum(counts)
    return np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - counts, counts)


def _copies_before(mixture: Mixture, ids: np.ndarray, parts: tuple[MixedPart, ...]) -> np.ndarray:
    """int64 `[records]`: the number of the first copy of each row; above 0 where another part has the same record."""
    before = np.zeros(len(ids), np.int64)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    if (ids[1:] != ids[:-1]).all():
        return before
    most = np.array([-(-part.delivered // max(1, part.pieces)) for part in parts], np.int64)[mixture.leaf_of[order]]
    sums = np.cumsum(most) - most
    before[order] = sums - sums[np.searchsorted(ids, ids)]
    return before
