"""Which pieces of a mix come in an epoch, against plain Python."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlpipe.planning.drawing import MixedPart, _shares, draw
from vlpipe.planning.pieces import Pieces
from vlpipe.planning.splitmix import MIXES, hashes_in, sort_bits
from vlpipe.storage.index import Index
from vlpipe.storage.mixture import Mixture, Part, apportion, exact
from vlpipe.storage.schema import Schema, Sequence

MASK = 2**64 - 1


def splitmix(number: int) -> int:
    number &= MASK
    number = (number ^ number >> 30) * 0xBF58476D1CE4E5B9 & MASK
    number = (number ^ number >> 27) * 0x94D049BB133111EB & MASK
    return number ^ number >> 31


def index_of(leaf_of: list[int], ids: list[int] | None = None) -> Index:
    part = Part("", Fraction(1), tuple(Part(f"p{leaf}", Fraction(1), leaf=leaf) for leaf in range(max(leaf_of) + 1)))
    rows = np.zeros(len(leaf_of), [("shard", "<u4")])
    numbers = np.arange(len(leaf_of)) if ids is None else np.array(ids)
    return Index(Schema(x=Sequence()), (), rows, numbers, mixture=Mixture(part, np.array(leaf_of)))


def drawn(leaf_of: list[int], bucket_of: list[int], counts: list[int], seed: int = 3, ids: list[int] | None = None):  # type: ignore[no-untyped-def]
    index = index_of(leaf_of, ids)
    there = np.bincount(leaf_of, minlength=len(counts)).tolist()
    parts = tuple(map(MixedPart, "abcdefgh", there, counts))
    rows = np.arange(len(leaf_of))
    return draw(index.mixture, index.ids, Pieces(rows, rows + 1), parts, np.array(bucket_of, np.uint8), seed)


STRATA = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=40)


@given(STRATA, st.lists(st.integers(0, 120), min_size=3, max_size=3), st.integers(0, 9))
def test_every_epoch_has_the_counts_of_every_part_and_bucket(strata: list[tuple[int, int]], counts: list[int], first: int) -> None:
    leaf_of, bucket_of = [leaf for leaf, _ in strata], [bucket for _, bucket in strata]
    counts = [count if leaf in leaf_of else 0 for leaf, count in enumerate(counts)][: max(leaf_of) + 1]
    mixed = drawn(leaf_of, bucket_of, counts)
    shares = _reference_shares(leaf_of, bucket_of, counts)
    for epoch in range(first, first + 3):
        pieces = mixed.drawing.table(epoch)
        assert len(set(pieces.tolist())) == len(pieces) == len(mixed.slot_buckets)  # a copy comes once
        origin = mixed.positions[pieces]
        assert np.array(bucket_of)[origin].tolist() == mixed.slot_buckets.tolist()
        for leaf, count in enumerate(counts):
            assert np.count_nonzero(np.array(leaf_of)[origin] == leaf) == count
        for stratum in set(strata):
            members = [position for position, entry in enumerate(strata) if entry == stratum]
            times = [np.count_nonzero(origin == member) for member in members]
            assert sum(times) == shares[stratum]
            assert max(times) - min(times) <= 1
            rate = counts[stratum[0]] / leaf_of.count(stratum[0])
            assert all(int(rate) <= time <= -int(-rate // 1) for time in times)


def _reference_shares(leaf_of: list[int], bucket_of: list[int], counts: list[int]) -> dict[tuple[int, int], int]:
    shares = {}
    for leaf, count in enumerate(counts):
        buckets = sorted({bucket for own, bucket in zip(leaf_of, bucket_of, strict=True) if own == leaf})
        sizes = [sum(entry == (leaf, bucket) for entry in zip(leaf_of, bucket_of, strict=True)) for bucket in buckets]
        for bucket, share in zip(buckets, apportion(count, [Fraction(size) for size in sizes]) if sizes else [], strict=True):
            shares[leaf, bucket] = share
    return shares


@given(STRATA, st.lists(st.integers(0, 60), min_size=3, max_size=3), st.integers(0, 2**40), st.integers(0, 2**31))
def test_the_draw_of_an_epoch(strata: list[tuple[int, int]], counts: list[int], epoch: int, seed: int) -> None:
    leaf_of, bucket_of = [leaf for leaf, _ in strata], [bucket for _, bucket in strata]
    counts = [count if leaf in leaf_of else 0 for leaf, count in enumerate(counts)][: max(leaf_of) + 1]
    mixed = drawn(leaf_of, bucket_of, counts, seed)
    drawing, expected = mixed.drawing, list(range(mixed.drawing.fixed))
    shares = _reference_shares(leaf_of, bucket_of, counts)
    number = 0
    for stratum in sorted(shares):
        size = strata.count(stratum)
        extra = shares[stratum] % size
        if not extra:
            continue
        candidates = range(number, number + size)
        number += size
        block = extra if 2 * extra <= size else size - extra
        cycle, place = divmod(epoch, size // block)
        start = splitmix(splitmix(splitmix(seed) + cycle) + MIXES)
        _, hash_bits = sort_bits(len(drawing.stratum_of), len(drawing.strata.sizes))
        order = sorted(candidates, key=lambda j: (splitmix(start + (j + 1) * 0x9E3779B97F4A7C15) >> 64 - hash_bits, j))
        begin = place * block + (0 if 2 * extra <= size else block)
        expected += [drawing.fixed + (order[begin:] + order[:begin])[t] for t in range(extra)]
    assert drawing.table(epoch).tolist() == expected


def test_hashes_of_several_epochs_are_those_of_each() -> None:
    epochs = np.array([0, 5, 5, 2**40])
    expected = [splitmix(splitmix(splitmix(splitmix(7) + e) + 9) + (i + 1) * 0x9E3779B97F4A7C15) for i, e in enumerate(epochs.tolist())]
    assert hashes_in(7, epochs, 9).tolist() == expected


@pytest.mark.parametrize(("count", "size"), [(3, 10), (7, 10), (13, 10), (1, 40), (39, 40), (25, 50), (10, 40)])
def test_pieces_come_equally_often_and_none_waits_long(count: int, size: int) -> None:
    mixed = drawn([0] * size, [0] * size, [count])
    epochs = 40 * size
    comes = np.array([np.bincount(mixed.positions[mixed.drawing.table(epoch)], minlength=size) for epoch in range(epochs)])
    assert (comes.sum(axis=1) == count).all()
    expected = epochs * count / size
    # Chi-square of independent draws would be about size - 1; cycles of an order make it smaller.
    assert ((comes.sum(axis=0) - expected) ** 2 / expected).sum() < size + 4 * np.sqrt(2 * size)
    if count < size and size % count == 0:
        waits = [np.diff(np.flatnonzero(comes[:, piece]), prepend=-1).max() for piece in range(size)]
        assert max(waits) < 2 * size // count


def test_copies_are_numbered_and_those_of_another_part_go_on(tmp_path: object) -> None:
    mixed = drawn([0, 0, 1, 1], [0, 0, 0, 0], [5, 2], ids=[8, 9, 9, 7])
    copies: dict[int, list[int]] = {}
    for position, copy in zip(mixed.positions.tolist(), np.asarray(mixed.pieces.copies).tolist(), strict=True):
        copies.setdefault([8, 9, 9, 7][position], []).append(copy)
    assert {key: sorted(value) for key, value in copies.items()} == {8: [0, 1, 2], 9: [0, 1, 2, 3], 7: [0]}
    assert drawn([0, 0, 1], [0, 0, 0], [1, 1]).pieces.copies is None


WEIGHTS = st.floats(1e-6, 1e6) | st.just(0.0)


@given(st.lists(st.tuples(WEIGHTS, st.integers(1, 10**7)), min_size=1, max_size=5), st.none() | st.integers(1, 10**9))
def test_the_counts_of_a_mix(entries: list[tuple[float, int]], records: int | None) -> None:
    weights, there = [exact(weight) for weight, _ in entries], [size for _, size in entries]
    assert [float(weight) for weight in weights] == [weight for weight, _ in entries]
    if not any(weights):
        return
    part = Part("", Fraction(1), tuple(Part(str(n), weight, leaf=n) for n, weight in enumerate(weights)), records=records)
    total = part.size(there)
    counts = part.counts(total, there)
    largest = max((size, weight) for size, weight in zip(there, weights, strict=True) if weight)
    if records is None:
        (chosen,) = [n for n in range(len(entries)) if weights[n] and there[n] == largest[0]][:1]
        assert counts[chosen] >= there[chosen]
        assert (total - 1) * weights[chosen] < there[chosen] * sum(weights)
    else:
        assert total == records
    assert sum(counts.values()) == total
    for number, weight in enumerate(weights):
        assert abs(counts.get(number, 0) - total * weight / sum(weights)) < 1


def test_a_mix_in_a_mix_has_exact_counts_on_every_level() -> None:
    inner = Part("inner", exact(0.7), (Part("a", exact(1), leaf=0), Part("b", exact(1), leaf=1), Part("c", exact(1), leaf=2)))
    part = Part("", exact(1), (inner, Part("d", exact(0.3), leaf=3)), records=101)
    counts = part.counts(101, [5, 5, 5, 5])
    assert counts[0] + counts[1] + counts[2] == 71
    assert counts == {0: 24, 1: 24, 2: 23, 3: 30}
    assert [name for _, name in part.leaves()] == ["inner / a", "inner / b", "inner / c", "d"]
    assert part.counts(10, [0, 4, 0, 0]) == {1: 10}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 10**6)), min_size=1, max_size=12), st.integers(0, 2**31 - 1))
def test_the_shares_of_strata(strata: list[tuple[int, int]], count: int) -> None:
    strata = sorted(strata)
    leaves, sizes = np.array([leaf for leaf, _ in strata]), np.array([size for _, size in strata])
    counts = np.array([count if leaf in leaves else 0 for leaf in range(4)])
    shares = _shares(counts, leaves, sizes)
    for leaf in set(leaves.tolist()):
        own = leaves == leaf
        assert shares[own].tolist() == apportion(count, [Fraction(int(size)) for size in sizes[own]])
