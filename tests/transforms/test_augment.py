"""SpecAugment: its masks, compared with the reference and with the documented distribution."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.transforms_numpy import MASK, augmented, draw
from vlpipe import ArgumentError, SpecAugment
from vlpipe.engines import splitmix_graph
from vlpipe.planning import splitmix
from vlpipe.transforms.augment import masked


def masks_of(augment: SpecAugment, lengths: list[int], d: int, seed: int = 1, epoch: int = 0) -> list[np.ndarray]:
    """bool `[T, d]` for each of the records 0, 1, ...: True where it is masked."""
    ones = tf.RaggedTensor.from_row_lengths(tf.ones([sum(lengths), d]), tf.constant(lengths, tf.int64))
    numbers = splitmix_graph.draws(seed, tf.constant(epoch, tf.int64), MASK, tf.range(len(lengths), dtype=tf.int64), augment.draws)
    values = masked(augment, ones, tf.zeros([len(lengths), d]), numbers).numpy()
    return [part == 0 for part in np.split(values, np.cumsum(lengths)[:-1])]


@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    d=st.integers(1, 5),
    masks=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    width=st.integers(0, 25),
    share=st.sampled_from([0, 0.1, 0.29, 0.5, 1]),
    seed=st.integers(0, 2**63 - 1),
    epoch=st.integers(0, 2**40),
)
def test_the_masks_are_those_of_the_reference(
    lengths: list[int], d: int, masks: tuple[int, int], width: int, share: float, seed: int, epoch: int
) -> None:
    augment = SpecAugment(masks[0], width, share, masks[1], min(width, d), fill="zero")
    for record, found in enumerate(masks_of(augment, lengths, d, seed, epoch)):
        draws = [draw(seed, epoch, MASK + number, record) for number in range(augment.draws)]
        assert np.array_equal(found, augmented(np.ones((lengths[record], d)), augment, draws) == 0)


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 2**62), records=st.lists(st.integers(0, 2**40), min_size=1, max_size=5))
def test_numpy_graph_and_reference_draw_the_same_numbers(seed: int, epoch: int, records: list[int]) -> None:
    in_graph = splitmix_graph.draws(seed, tf.constant(epoch, tf.int64), 3, tf.constant(records, tf.int64), 2).numpy()
    for purpose in (3, 4):
        expected = [draw(seed, epoch, purpose, record) for record in records]
        assert splitmix.draws(seed, epoch, purpose, np.array(records)).tolist() == expected == in_graph[:, purpose - 3].tolist()


def test_ten_thousand_masks_have_the_documented_distribution() -> None:
    length, widest, size, band, count = 50, 8, 10, 4, 10_000
    found = masks_of(SpecAugment(1, widest, 1.0, 0, 0), [length] * count, size)
    times = np.array([mask.any(1) for mask in found])  # [count, T]
    assert all(np.array_equal(mask.any(1), mask.all(1)) for mask in found)
    widths = times.sum(1)
    share = np.bincount(widths, minlength=widest + 1) / count
    assert len(share) == widest + 1
    assert np.abs(share - 1 / (widest + 1)).max() < 0.015  # five deviations of a share of 1/9 of 10,000
    assert times.mean() == pytest.approx(widest / 2 / length, rel=0.03)
    begins = np.argmax(times[widths == 3], axis=1)
    assert set(begins) == set(range(length - 3 + 1))
    assert begins.mean() == pytest.approx((length - 3) / 2, rel=0.05)
    edges = np.abs(np.diff(np.pad(times, [(0, 0), (1, 1)]).astype(int), axis=1)).sum(1)
    assert np.array_equal(edges, np.where(widths > 0, 2, 0))  # each mask is contiguous
    bands = np.array([mask.any(0) for mask in masks_of(SpecAugment(0, 0, 1.0, 1, band), [2] * count, size)])
    assert bands.mean() == pytest.approx(band / 2 / size, rel=0.03)
    assert (bands[:, 0].any(), bands[:, -1].any()) == (True, True)


def test_masks_stay_inside_and_within_their_share() -> None:
    lengths = np.random.default_rng(0).integers(0, 100, 10_000).tolist()
    for length, mask in zip(lengths, masks_of(SpecAugment(1, 12, 0.2, 0), lengths, 1), strict=True):
        assert mask.shape == (length, 1)
        assert mask.sum() <= min(12, 0.2 * length)
    short = masks_of(SpecAugment(5, 70, 0.2, 0), [0, 1, 4], 3)
    assert not any(mask.any() for mask in short)


def test_the_same_seed_masks_the_same_and_other_epochs_and_records_others() -> None:
    augment, lengths = SpecAugment(time_width=10, time_share=1.0, frequency_width=4), [40] * 200

    def masks(seed: int, epoch: int) -> list[bytes]:
        return [mask.tobytes() for mask in masks_of(augment, lengths, 12, seed, epoch)]

    assert masks(3, 5) == masks(3, 5)
    assert len({*masks(3, 5), *masks(3, 6), *masks(4, 5)}) > 590


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"time_masks": -1}, "time_masks: came as -1, expected an integer >= 0, at most 1000"),
        ({"frequency_masks": 1.0}, "frequency_masks: came as 1.0, expected an integer >= 0"),
        ({"time_width": True}, "time_width: came as True"),
        ({"frequency_width": "27"}, "frequency_width: came as '27'"),
        ({"time_masks": 1001}, "time_masks: came as 1001"),
        ({"time_share": 1.5}, "time_share came as 1.5, expected a share of the length from 0 to 1"),
        ({"time_share": float("nan")}, "time_share came as nan"),
        ({"time_share": None}, "time_share came as None"),
        ({"fill": "noise"}, "fill came as 'noise', expected one of 'mean', 'zero'"),
        ({"fill": ["mean"]}, "fill came as "),
    ],
)
def test_what_it_refuses(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        SpecAugment(**arguments)
    assert str(caught.value).startswith("SpecAugment: ")
    assert said in str(caught.value)


def test_it_is_plain_and_immutable() -> None:
    augment = SpecAugment(np.int64(3), time_share=1)
    assert (augment, type(augment.time_masks), type(augment.time_share)) == (SpecAugment(3, time_share=1.0), int, float)
    with pytest.raises(dataclasses.FrozenInstanceError):
        augment.fill = "zero"  # type: ignore[misc]


def test_frames_that_have_no_frequencies_or_too_few() -> None:
    with pytest.raises(ArgumentError, match=r'augment: "x" has frames of shape \[\], expected \[d\]: SpecAugment masks time and frequency'):
        SpecAugment().check("x", ())
    with pytest.raises(
        ArgumentError,
        match=r'augment: frequency_width=15 exceeds the 13 dimensions of "x". Pass SpecAugment\(frequency_width=...\) of at most 13',
    ):
        SpecAugment().check("x", (13,))
    SpecAugment(frequency_masks=0).check("x", (13,))
    SpecAugment().check("x", (15,))
