"""`stitch`: the outputs of windows become those of the records."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import vlpipe
from tests.helpers.windows_numpy import places
from vlpipe.errors import ArgumentError


def by_hand(outputs: list[np.ndarray], ids: list[int], starts: list[int], totals: dict[int, int], hop: int, hann: bool) -> list[np.ndarray]:
    """The weighted mean, one frame at a time."""
    stitched = []
    for number, total in sorted(totals.items()):
        frames = []
        for frame in range(-(-total // hop)):
            values, weights = [], []
            for output, record, start in zip(outputs, ids, starts, strict=True):
                place = frame - round(start / hop)
                if record == number and 0 <= place < len(output):
                    values.append(output[place])
                    weights.append(np.sin(np.pi * (place + 0.5) / len(output)) ** 2 if hann else 1.0)
            frames.append(np.average(values, 0, weights) if values else np.full(outputs[0].shape[1:], np.nan))
        stitched.append(np.array(frames).reshape(-1, *outputs[0].shape[1:]))
    return stitched


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=5),
    st.integers(1, 8),
    st.integers(1, 10),
    st.sampled_from(["shift", "keep", "drop"]),
    st.sampled_from([1, 2, 3]),
    st.booleans(),
    st.data(),
)
def test_frames_are_the_weighted_mean_of_their_windows(
    lengths: list[int], frames: int, hop: int, tail: str, stride: int, hann: bool, data: st.DataObject
) -> None:
    found = [(number, *place) for number, length in enumerate(lengths) for place in places(length, frames, hop, tail)[0]]
    if not found:
        return
    random = np.random.default_rng(len(found))
    order = random.permutation(len(found))
    ids, starts, counts = (np.array([found[k][column] for k in order]) for column in range(3))
    outputs = [random.normal(size=(-(-count // stride), 2)) for count in counts]
    form = data.draw(st.sampled_from(["list", "padded", "twice"]))
    given_outputs: object = outputs
    if form == "padded":
        given_outputs = np.full((len(outputs), max(map(len, outputs)) + 3, 2), 1e9)
        for row, output in enumerate(outputs):
            given_outputs[row, : len(output)] = output  # type: ignore[index]
    if form == "twice":  # rows that complete a batch
        given_outputs, ids, starts, counts = outputs * 2, np.tile(ids, 2), np.tile(starts, 2), np.tile(counts, 2)
    windowed = {number: max(start + count for other, start, count in found if other == number) for number in set(ids.tolist())}
    for totals, given_lengths in ((windowed, counts), (dict(enumerate(lengths)), lengths), (windowed, windowed)):
        if given_lengths is lengths and len(lengths) == len(ids):
            continue  # would be taken for those of the windows
        if given_lengths is lengths and len(lengths) != len(windowed):  # some have no window: a dict says which
            with pytest.raises(ArgumentError, match="or for each of the . different ids. Where records have no window, pass a dict"):
                vlpipe.stitch(given_outputs, ids, starts, lengths=lengths, hop=stride)
            given_lengths = totals
        windows = vlpipe.Windows(frames, hop, tail)  # type: ignore[arg-type]
        found_by = vlpipe.stitch(
            given_outputs, ids, starts, lengths=given_lengths, hop=stride, windows=windows, weights="hann" if hann else "mean"
        )
        expected = by_hand(outputs, ids[: len(outputs)].tolist(), starts[: len(outputs)].tolist(), totals, stride, hann)
        assert len(found_by) == len(expected)
        for one, other in zip(found_by, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)


def test_one_vector_or_number_a_window() -> None:
    outputs = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    for given_outputs in (outputs, list(outputs)):
        mean = vlpipe.stitch(given_outputs, [4, 2, 4], [0, 0, 5], lengths=[10, 10, 7])
        assert [y.tolist() for y in mean] == [[0, 1, 0], [0.5, 0, 0.5]]
    assert [float(y) for y in vlpipe.stitch([1.0, 2, 4], [4, 2, 4], [0, 0, 5], lengths=[10, 10, 7])] == [2, 2.5]
    assert vlpipe.stitch([], [], [], lengths=[]) == []


def test_dtypes_and_frames_that_no_window_has() -> None:
    (y,) = vlpipe.stitch([np.ones((2, 1), np.float32)] * 2, [0, 0], [0, 4], lengths={0: 7})
    assert y.dtype == np.float32
    assert y[:, 0].tolist()[:2] == [1, 1]
    assert np.isnan(y[[2, 3, 6]]).all()


def test_refusals() -> None:
    y = np.zeros((2, 3))
    with pytest.raises(ArgumentError, match="stitch: got 2 outputs, 1 ids and 2 starts, expected one of each"):
        vlpipe.stitch(y, [0], [0, 1], lengths=[3, 3])
    with pytest.raises(ArgumentError, match=r"stitch: lengths has 1 entries, none for id 5; expected one for each of the 2 different ids"):
        vlpipe.stitch(y, [5, 6], [0, 1], lengths={6: 3})
    with pytest.raises(ArgumentError, match="stitch: lengths came with 4 entries, expected one for each of the 3 windows"):
        vlpipe.stitch(np.zeros((3, 3)), [0, 0, 2], [0, 1, 0], lengths=[4, 9, 3, 1])  # of record 2 would be 9
    with pytest.raises(ArgumentError, match="stitch: weights came as 'sum', expected one of 'mean', 'hann'"):
        vlpipe.stitch(y, [0, 0], [0, 1], lengths=[3, 3], weights="sum")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="stitch: hop: came as 0"):
        vlpipe.stitch(y, [0, 0], [0, 1], lengths=[3, 3], hop=0)
