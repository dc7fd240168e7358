"""Splits, folds and shares against plain NumPy."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlpipe.sources.partition import partition
from vlpipe.storage.mixture import apportion, exact

WEIGHTS = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=6)


@given(st.integers(0, 10**7), WEIGHTS)
def test_shares_are_exact(total: int, weights: list[float]) -> None:
    counts = apportion(total, [exact(weight) for weight in weights])
    quotas = [total * exact(weight) / sum(map(exact, weights)) for weight in weights]
    assert sum(counts) == total
    assert all(abs(count - quota) < 1 for count, quota in zip(counts, quotas, strict=True))
    # No part with a greater remainder was rounded down while another one was rounded up.
    up = [quota - int(quota) for count, quota in zip(counts, quotas, strict=True) if count > quota]
    down = [quota - int(quota) for count, quota in zip(counts, quotas, strict=True) if count < quota]
    assert not up or not down or min(up) >= max(down)


@pytest.mark.parametrize(
    ("total", "weights", "expected"),
    [(10, [0.8, 0.1, 0.1], [8, 1, 1]), (7, [1, 1], [4, 3]), (3, [1e-6, 1e6], [0, 3]), (0, [1, 2], [0, 0]), (5, [0.1, 0.2, 0.2], [1, 2, 2])],
)
def test_shares(total: int, weights: list[float], expected: list[int]) -> None:
    assert apportion(total, [exact(weight) for weight in weights]) == expected


@given(st.integers(1, 300), WEIGHTS, st.integers(0, 5))
def test_parts_have_their_exact_numbers(count: int, weights: list[float], seed: int) -> None:
    shares = [exact(weight) for weight in weights]
    parts = partition(count, shares, seed=seed)
    assert np.bincount(parts, minlength=len(shares)).tolist() == apportion(count, shares)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=200), st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 5))
def test_strata_have_their_share_in_every_part(strata: list[int], weights: list[int], seed: int) -> None:
    shares = [Fraction(weight) for weight in weights]
    classes = np.array(strata)
    parts = partition(len(strata), shares, strata=classes, seed=seed)
    assert np.bincount(parts, minlength=len(shares)).tolist() == apportion(len(strata), shares)
    for stratum in set(strata):
        size = strata.count(stratum)
        counts = np.bincount(parts[classes == stratum], minlength=len(shares))
        quotas = [size * share / sum(shares) for share in shares]
        assert all(abs(int(count) - quota) < 2 for count, quota in zip(counts, quotas, strict=True))
        if len(weights) == 2:
            assert all(abs(int(count) - quota) < 1 for count, quota in zip(counts, quotas, strict=True))


@given(st.lists(st.integers(0, 20), min_size=8, max_size=200), st.integers(1, 4), st.integers(0, 5), st.booleans())
def test_groups_are_never_divided_and_no_part_is_empty(groups: list[int], parts: int, seed: int, with_strata: bool) -> None:
    numbers = np.unique(groups, return_inverse=True)[1].reshape(-1)
    if numbers.max() + 1 < parts:
        return
    strata = np.arange(len(groups)) % 3 if with_strata else None
    part_of = partition(len(groups), [Fraction(1)] * parts, groups=numbers, strata=strata, seed=seed)
    for group in set(numbers.tolist()):
        assert len(set(part_of[numbers == group].tolist())) == 1
    assert set(part_of.tolist()) == set(range(parts))


def test_groups_of_equal_size_are_shared_exactly() -> None:
    groups = np.repeat(np.arange(100), 7)
    part_of = partition(700, [Fraction(8), Fraction(1), Fraction(1)], groups=groups)
    assert np.bincount(part_of).tolist() == [560, 70, 70]


def test_another_seed_is_another_choice() -> None:
    halves = [Fraction(1)] * 2
    first, again, other = (partition(50, halves, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
