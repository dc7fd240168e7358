"""How often the records of a mix come in an epoch: a tree of parts with weights, and exact counts from it.

A part of a mix may be a mix itself. Its count is divided among its own parts, so that the counts are exact on every level.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np


def exact(number: float) -> Fraction:
    """A number as it is meant: 0.1 is a tenth and 1 / 6 a sixth, not the nearest binary fraction."""
    simple = Fraction(float(number)).limit_denominator(10**6)
    return simple if float(simple) == float(number) else Fraction(repr(float(number)))


def tempered(sizes: Sequence[int], temperature: float) -> list[Fraction]:
    """The weights n ** (1 / temperature) of classes of n records, as a share of that of the largest.

    A root of a ratio of two sizes that is a fraction (the square root of 3 / 12) is exactly this fraction: a float beside it would make the
    number of records of an epoch one more.

    Example:
        >>> tempered([3, 12, 27], 2)
        [Fraction(1, 3), Fraction(2, 3), Fraction(1, 1)]
    """
    most = max(sizes)
    weights = []
    for size in sizes:
        weight = float((size / most) ** (1 / temperature))
        near = Fraction(weight).limit_denominator(most)  # the denominator of such a root divides the larger size
        weights.append(near if abs(float(near) - weight) <= 1e-15 else exact(weight))
    return weights


def apportion(total: int, weights: Sequence[Fraction]) -> list[int]:
    """Divide a number of records in proportion to weights, by the largest remainder (the first of equal ones).

    Example:
        >>> apportion(10, [Fraction(1), Fraction(1), Fraction(1)])
        [4, 3, 3]
    """
    whole = sum(weights)
    quotas = [total * weight / whole for weight in weights]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda part: counts[part] - quotas[part])
    for part in by_remainder[: total - sum(counts)]:
        counts[part] += 1
    return counts


@dataclass(frozen=True)
class Part:
    """A part of a mix.

    Attributes:
        name: for people.
        weight: among the parts of the same mix.
        parts: its own parts; of one without, `leaf` counts.
        leaf: its number.
        records: of an epoch of it alone, if it is a mix; None: so many that each record of its largest part can come.
    """

    name: str
    weight: Fraction
    parts: tuple[Part, ...] = ()
    leaf: int = 0
    records: int | None = None

    def leaves(self, prefix: str = "") -> Iterator[tuple[int, str]]:
        """The numbers and the names of the parts that records belong to, in order."""
        name = " / ".join(text for text in (prefix, self.name) if text)
        if not self.parts:
            yield self.leaf, name
        for part in self.parts:
            yield from part.leaves(name)

    def size(self, there: list[int]) -> int:
        """Records of an epoch of this part alone.

        Args:
            there: how many records there are of each leaf.
        """
        if not self.parts:
            return there[self.leaf]
        if self.records is not None:
            return self.records
        sizes = [(part.size(there), part.weight) for part in self._used(there)]
        if not sizes:
            return 0
        largest, weight = max(sizes, key=lambda entry: entry[0])
        return -int(-largest * sum(entry[1] for entry in sizes) // weight)  # rounded up

    def counts(self, total: int, there: list[int]) -> dict[int, int]:
        """How many of `total` records come from each leaf; parts of which there are no records get none."""
        if not self.parts:
            return {self.leaf: total}
        used = self._used(there)
        result: dict[int, int] = {}
        for part, count in zip(used, apportion(total, [part.weight for part in used]) if used else [], strict=True):
            result |= part.counts(count, there)
        return result

    def renumbered(self, first: int) -> Part:
        """With `first` added to the numbers of all leaves."""
        return replace(self, leaf=self.leaf + first, parts=tuple(part.renumbered(first) for part in self.parts))

    def _used(self, there: list[int]) -> list[Part]:
        return [part for part in self.parts if part.weight and part.size(there)]


@dataclass(frozen=True, eq=False)
class Mixture:
    """The parts of a mix, and which record belongs to which.

    Attributes:
        part: the whole mix.
        leaf_of: integers `[records]`, the leaf of each record.
    """

    part: Part
    leaf_of: np.ndarray

    @property
    def names(self) -> list[str]:
        """The names of the leaves."""
        return [name for _, name in sorted(self.part.leaves())]

    def counts(self, leaf_of: np.ndarray) -> np.ndarray:
        """int64 `[leaves]`: how often pieces of each leaf come in an epoch.

        Args:
            leaf_of: integers `[n]`, the leaf of every piece that there is.
        """
        there = np.bincount(leaf_of, minlength=len(self.names)).tolist()
        counts = self.part.counts(self.part.size(there), there)
        return np.array([counts.get(leaf, 0) for leaf in range(len(there))], np.int64)

    def rates(self) -> np.ndarray:
        """float64 `[records]`: how often each record comes in an epoch, on average."""
        there = np.bincount(self.leaf_of, minlength=len(self.names))
        return (self.counts(self.leaf_of) / np.maximum(there, 1))[self.leaf_of]

    def counts_by_name(self) -> dict[str, int]:
        """How many records of each leaf come in an epoch, by its name."""
        return dict(zip(self.names, self.counts(self.leaf_of).tolist(), strict=True))

    def take(self, rows: np.ndarray) -> Mixture:
        """The mix of some of its records, with the same weights."""
        return replace(self, leaf_of=self.leaf_of[rows])
