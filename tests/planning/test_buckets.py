"""Histogram and boundaries, compared with brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlpipe.inspection.histogram import bin_lengths
from vlpipe.planning.buckets import histogram, optimal_boundaries

LENGTHS = st.lists(st.integers(0, 30) | st.integers(0, 2**31), max_size=12)


def padded_frames(frames: list[int], boundaries: tuple[int, ...]) -> int:
    """Total frames after each sequence is padded to the boundary of its bucket."""
    return sum(min(boundary for boundary in boundaries if length <= boundary) for length in frames)


def least_padded_frames(frames: list[int], buckets: int) -> int:
    """The minimum over every choice of boundaries among the lengths."""
    *lower, longest = sorted(set(frames))
    choices = itertools.chain.from_iterable(itertools.combinations(lower, count) for count in range(min(buckets, len(lower) + 1)))
    return min(padded_frames(frames, (*choice, longest)) for choice in choices)


@given(LENGTHS)
def test_a_histogram_counts_each_length(frames: list[int]) -> None:
    lengths, counts = histogram(np.array(frames, np.int64))
    assert dict(zip(lengths.tolist(), counts.tolist(), strict=True)) == {length: frames.count(length) for length in frames}
    assert lengths.tolist() == sorted(lengths.tolist())
    assert lengths.dtype == counts.dtype == np.int64


@given(LENGTHS, st.integers(1, 9))
def test_bins_hold_each_length_once(frames: list[int], most: int) -> None:
    found = bin_lengths(np.array(frames, np.int64), most)
    assert len(found.first) == len(found.records) <= most
    counts = [sum(first <= length < first + found.width for length in frames) for first in found.first]
    assert list(found.records) == counts
    assert sum(counts) == len(frames)
    if frames:
        assert found.first[0] == min(frames)
        assert found.width == -(-(max(frames) - min(frames) + 1) // most)  # the narrowest that is enough
        assert found.records[0] > 0 < found.records[-1]


@settings(max_examples=200)
@given(LENGTHS.filter(bool), st.integers(1, 6))
def test_no_boundaries_pad_less(frames: list[int], buckets: int) -> None:
    boundaries = optimal_boundaries(*histogram(np.array(frames)), buckets)
    assert padded_frames(frames, boundaries) == least_padded_frames(frames, buckets)


@given(LENGTHS.filter(bool), st.integers(1, 20))
def test_boundaries_ascend_to_the_longest_and_are_lengths(frames: list[int], buckets: int) -> None:
    boundaries = optimal_boundaries(*histogram(np.array(frames)), buckets)
    assert list(boundaries) == sorted(set(boundaries))
    assert boundaries[-1] == max(frames)
    assert set(boundaries) <= set(frames)
    assert len(boundaries) <= buckets
    assert all(type(boundary) is int for boundary in boundaries)


def test_as_many_buckets_as_lengths_pad_nothing() -> None:
    assert optimal_boundaries(np.array([3, 5, 9]), np.array([1, 7, 2]), 3) == (3, 5, 9)
    assert optimal_boundaries(np.array([3, 5, 9]), np.array([1, 7, 2]), 99) == (3, 5, 9)


def test_the_counts_weigh() -> None:
    lengths = np.array([10, 20, 30])
    assert optimal_boundaries(lengths, np.array([1, 1, 100]), 2) == (20, 30)
    assert optimal_boundaries(lengths, np.array([100, 1, 1]), 2) == (10, 30)


def test_no_lengths_have_no_boundaries() -> None:
    assert optimal_boundaries(*histogram(np.empty(0, np.int64)), 4) == ()


def test_sums_beyond_64_bits_are_exact() -> None:
    lengths, counts = np.array([1, 2**40, 2**40 + 1]), np.array([2**40, 2**40, 2**40])
    assert optimal_boundaries(lengths, counts, 2) == (1, 2**40 + 1)


@pytest.mark.parametrize("buckets", [2, 8, 16])
def test_many_lengths_against_the_quadratic_recursion(buckets: int) -> None:
    random = np.random.default_rng(buckets)
    lengths = np.sort(random.choice(3000, 300, replace=False)) + 1
    counts = random.integers(1, 50, 300)
    best = _quadratic_cost(lengths, counts, buckets)
    boundaries = np.array(optimal_boundaries(lengths, counts, buckets))
    assert int(boundaries[np.searchsorted(boundaries, lengths)] @ counts) == best


def _quadratic_cost(lengths: np.ndarray, counts: np.ndarray, buckets: int) -> int:
    totals = np.concatenate([[0], np.cumsum(counts)])
    cost = np.concatenate([[0], lengths * totals[1:]])
    for _ in range(buckets - 1):
        cost = np.array([0, *(min(cost[i] + lengths[j] * (totals[j + 1] - totals[i]) for i in range(j + 1)) for j in range(len(lengths)))])
    return int(cost[-1])
