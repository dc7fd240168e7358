"""The places of windows, compared with a NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.windows_numpy import jittered, places
from vlpipe import Windows
from vlpipe.errors import ArgumentError
from vlpipe.planning.splitmix import CROPS, draws

TAILS = ("shift", "keep", "pad", "drop")


@given(st.lists(st.integers(0, 40), max_size=12), st.integers(1, 12), st.integers(1, 16), st.sampled_from(TAILS))
def test_places_are_those_of_one_record_after_another(lengths: list[int], frames: int, hop: int, tail: str) -> None:
    found = Windows(frames, hop, tail).places(np.array(lengths, np.int64))
    expected = [places(length, frames, hop, tail) for length in lengths]
    windows = [(number, first, count) for number, (record, _) in enumerate(expected) for first, count in record]
    assert list(zip(*(column.tolist() for column in found[:3]), strict=True)) == windows
    assert found.left_out == sum(left_out for _, left_out in expected)
    assert {column.dtype for column in found[:3]} == {np.dtype(np.int32)}


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("hop", [3, 5, 8])
def test_lengths_around_that_of_a_window(hop: int, tail: str) -> None:
    """Frames 5: written out for the lengths 0, 1, F - 1, F, F + 1 and 2 * F + 1."""
    found = {
        length: list(zip(*(column.tolist() for column in Windows(5, hop, tail).places(np.array([length]))[1:3]), strict=True))
        for length in (0, 1, 4, 5, 6, 11)
    }
    short = {length: [] if tail == "drop" else [(0, length)] for length in (0, 1, 4)}
    six = {"shift": [(1, 5)], "keep": [(hop, 6 - hop)] if hop < 6 else [], "drop": []}
    eleven = {
        3: {"shift": [(0, 5), (3, 5), (6, 5)], "keep": [(0, 5), (3, 5), (6, 5)], "drop": [(0, 5), (3, 5), (6, 5)]},
        5: {"shift": [(0, 5), (5, 5), (6, 5)], "keep": [(0, 5), (5, 5), (10, 1)], "drop": [(0, 5), (5, 5)]},
        8: {"shift": [(0, 5), (6, 5)], "keep": [(0, 5), (8, 3)], "drop": [(0, 5)]},
    }
    kind = "keep" if tail == "pad" else tail
    assert found == {**short, 5: [(0, 5)], 6: [(0, 5), *six[kind]], 11: eleven[hop][kind]}


def test_very_long_records() -> None:
    length = 2**31 - 2
    found = Windows(2**30, 2**30 + 5, "keep").places(np.array([length, length]))
    assert found.firsts.tolist() == [0, 2**30 + 5] * 2
    assert found.frames.tolist() == [2**30, length - 2**30 - 5] * 2
    found = Windows(2**29, 2**29, "shift").places(np.array([length, 3, length]))
    assert found.firsts.tolist() == [*(five := [0, 2**29, 2**30, 2**29 * 3 - 2]), 0, *five]


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=12),
    st.integers(1, 9),
    st.integers(1, 16),
    st.sampled_from(TAILS),
    st.integers(0, 2**63 - 1),
    st.integers(0, 2**30),
)
def test_jitter_moves_all_windows_that_fit_by_one_offset(
    lengths: list[int], frames: int, hop: int, tail: str, seed: int, epoch: int
) -> None:
    windows = Windows(frames, hop, tail, jitter=True)
    found = windows.places(np.array(lengths))
    of_record, firsts = np.array(lengths)[found.records], found.firsts.astype(np.int64)
    free = windows.free(firsts, of_record, np.minimum)
    assert free.tolist() == windows.free(tf.constant(firsts), tf.constant(of_record), tf.minimum).numpy().tolist()
    moved = firsts + draws(seed, epoch, CROPS, found.records) * (free + 1) // 2**32
    expected = [
        (record, first, count)
        for record, length in enumerate(lengths)
        for first, count in jittered(length, frames, hop, tail, seed, epoch, record)
    ]
    assert list(zip(found.records.tolist(), moved.tolist(), found.frames.tolist(), strict=True)) == expected
    assert all(first + count <= lengths[record] for record, first, count in expected)
    assert len(set(expected)) == len(expected)


def test_every_offset_is_equally_frequent() -> None:
    windows = Windows(10, 10, "drop", jitter=True)
    free = windows.free(np.zeros(4000, np.int64), np.full(4000, 14), np.minimum)
    offsets = draws(3, 1, CROPS, np.arange(4000)) * (free + 1) // 2**32
    assert ((np.bincount(offsets, minlength=5) - 800) ** 2 / 800).sum() < 18.5  # p = 0.001


def test_refusals() -> None:
    for arguments, text in (
        ({"frames": 0}, "windows: frames: came as 0"),
        ({"frames": 5, "hop": 0}, "windows: hop: came as 0"),
        ({"frames": 5, "tail": "cut"}, "windows: tail came as 'cut', expected one of 'shift', 'keep', 'pad', 'drop'"),
        ({"frames": 5, "jitter": 1}, "windows: jitter came as 1, expected True or False"),
    ):
        with pytest.raises(ArgumentError, match=text):
            Windows(**arguments)  # type: ignore[arg-type]
    assert Windows(5) == Windows(5, 5) == Windows(5, None, "shift", jitter=False)
