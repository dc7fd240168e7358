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
    if stride > 1:  # windows have to begin at output frames
        hop, tail = hop * stride, "keep" if tail == "shift" else tail
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
            with pytest.raises(
                ArgumentError, match="or for each record if their ids are 0, 1, 2, .* or a record has no window, pass a dict"
            ):
                vlpipe.stitch(given_outputs, ids, starts, lengths=lengths, hop=stride)
            given_lengths = totals
        windows = vlpipe.Windows(frames, hop, tail)  # type: ignore[arg-type]
        if given_lengths is counts and sorted(ids) == list(range(len(ids))) and (starts.any() or (counts[ids] != counts).any()):
            with pytest.raises(ArgumentError, match="for as many windows as records, which may be those of the windows or"):
                vlpipe.stitch(given_outputs, ids, starts, lengths=counts, windows=windows)
            continue
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
    with pytest.raises(ArgumentError, match=r"stitch: lengths has 1 entries, none for id 5; expected one for each of the 2 records"):
        vlpipe.stitch(y, [5, 6], [0, 1], lengths={6: 3})
    with pytest.raises(ArgumentError, match="stitch: weights came as 'sum', expected one of 'mean', 'hann'"):
        vlpipe.stitch(y, [0, 0], [0, 1], lengths=[3, 3], weights="sum")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="stitch: hop: came as 0"):
        vlpipe.stitch(y, [0, 0], [0, 1], lengths=[3, 3], hop=0)


W4 = vlpipe.Windows(4, 2)
PAIR = np.zeros((2, 4, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"starts": [0, 3], "hop": 2},
            'window 1 starts at frame 3, no multiple of 2, so its output .* tail="keep" or "pad".*vlpipe.Windows.exact',
        ),
        ({"starts": [0, -1]}, "window 1 starts at frame -1, but the record with id 0 has 9 frames"),
        ({"starts": [0, 9]}, "window 1 starts at frame 9, but the record with id 0 has 9 frames"),
        ({"starts": [0, 1.5]}, r"starts came as \[0, 1.5\], expected a list or an array of integers"),
        ({"ids": [0.5, 0]}, r"ids came as \[0.5, 0\], expected a list or an array of integers"),
        ({"ids": [[0], [0, 1]]}, "ids came as .*, expected a list or an array of integers"),
        ({"lengths": [4, -1]}, r"lengths\[1\] is -1, expected a number of frames, 0 or more"),
        ({"lengths": {0: -1}}, r"lengths\[0\]: came as -1, expected an integer >= 0"),
        ({"lengths": {0: 9.5}}, r"lengths\[0\]: came as 9.5"),
        ({"lengths": {"a": 9}}, "an id in lengths: came as 'a'"),
        ({"lengths": [4.0, 4.0]}, "lengths came as"),
        ({"lengths": [5, 4], "ids": [0, 7], "windows": W4}, r"lengths\[0\] is 5, but a window has at most 4 frames"),
        ({"ids": [3, 9], "lengths": [9, 9, 9]}, r"lengths has 3 values for 2 windows of 2 records; .* pass a dict \{id: frames\}"),
        (
            {"ids": [1, 0], "starts": [0, 0], "lengths": [3, 4]},
            r"for as many windows as records, which may be.* \{id: frames\}",
        ),
        (
            {"lengths": [9, 4]},
            "output of window 0 has 4 frames for a length of 9 with hop=1; .* none for window 1, of length 4, but",
        ),
        ({"windows": 4}, r"windows came as 4, expected vlpipe.Windows\(...\)"),
        ({"outputs": 3}, "the output of window 0 is no array"),
        ({"outputs": [np.zeros((4, 1)), [[1], [1, 2]]]}, "the output of window 1 is no array"),
        (
            {"outputs": [np.zeros((4, 2)), np.zeros((4, 3))]},
            r"window 1 has the shape \[4, 3\], that of window 0 \[4, 2\]; expected the same",
        ),
        ({"outputs": [np.zeros(4), np.zeros((4, 1))]}, r"window 1 has the shape \[4, 1\], that of window 0 \[4\]"),
        ({"outputs": np.array([["a", "b"]] * 2)}, "the output of window 0 holds <U1, expected numbers"),
    ],
)
def test_what_does_not_fit(change: dict[str, object], message: str) -> None:
    arguments = {"outputs": PAIR, "ids": [0, 0], "starts": [0, 2], "lengths": {0: 9}} | change
    with pytest.raises(ArgumentError, match=f"^stitch: (the )?.*{message}"):
        vlpipe.stitch(**arguments)  # type: ignore[arg-type]


def test_lengths_of_records_by_id() -> None:
    """An array is that of the records where their ids are 0, 1, 2, ...; one value a window is that of the window."""
    outputs = [np.full((2, 1), value) for value in (1.0, 2.0)]
    by_id = vlpipe.stitch([*outputs, outputs[0]], [1, 0, 1], [0, 0, 2], lengths=[2, 5])
    assert [len(y) for y in by_id] == [2, 5]
    assert by_id[1][:4, 0].tolist() == [1] * 4
    with pytest.raises(ArgumentError, match="lengths has 4 values for 3 windows of 2 records"):  # of a selection, record 2 is another
        vlpipe.stitch([*outputs, outputs[0]], [0, 0, 2], [0, 1, 0], lengths=[4, 9, 3, 1])
    assert [len(y) for y in vlpipe.stitch(outputs, [7, 3], [0, 0], lengths=[1, 2])] == [2, 1]
    assert [len(y) for y in vlpipe.stitch(outputs, [0, 1], [0, 0], lengths=[2, 5], windows=vlpipe.Windows(2))] == [2, 5]
    assert [len(y) for y in vlpipe.stitch(outputs, [7, 3], [0, 0], lengths={3: 4, 5: 1, 7: 2})] == [4, 1, 2]
    vectors = vlpipe.stitch(np.ones((2, 7)), [0, 0], [0, 3], lengths=[4, 4], hop=2)
    assert vectors[0].tolist() == [1] * 7  # the stride does not matter


def test_the_frames_at_the_end_of_a_valid_convolution_are_nan() -> None:
    """Three frames in, one out: the record of 6 frames has 6 places, of which the model fills 4."""
    (y,) = vlpipe.stitch(np.array([[[0.0], [1]], [[2], [3]]]), [0, 0], [0, 2], lengths=[4, 4])
    assert y[:4, 0].tolist() == [0, 1, 2, 3]
    assert np.isnan(y[4:]).all()


@given(st.integers(0, 30), st.integers(1, 6), st.integers(1, 3), st.integers(0, 3))
def test_windows_of_a_strided_valid_convolution(total: int, kernel: int, stride: int, tail: int) -> None:
    """Its frames are where those of the whole record are; a window that is shorter than the kernel has none."""

    def model(x: np.ndarray) -> np.ndarray:
        return np.array([x[first : first + kernel].sum() for first in range(0, len(x) - kernel + 1, stride)]).reshape(-1, 1)

    x = np.random.default_rng(total).normal(size=total)
    found = places(total, 4 * stride + kernel, 2 * stride, "keep")[0]
    outputs, starts = [model(x[first : first + count]) for first, count in found], [first for first, _ in found]
    (y,) = vlpipe.stitch(
        outputs, [5] * len(found), starts, lengths={5: total}, windows=vlpipe.Windows(4 * stride + kernel, 2 * stride, "keep"), hop=stride
    )
    whole = model(x)
    assert len(y) == -(-total // stride)
    np.testing.assert_allclose(y[: len(whole)], whole, rtol=1e-12, atol=1e-12)
    assert np.isnan(y[len(whole) :]).all()
    assert (total < kernel) == (len(whole) == 0)
