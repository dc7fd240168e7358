"""The builders, compared with a NumPy reference, and with `make_dataset` on records in the same order."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

import vlpipe
from tests.helpers.numpy_reference import bucket_order, equal, pad_rows, plain_order
from vlpipe import builders

pytestmark = pytest.mark.usefixtures("quick_graphs")

BATCHINGS = ("bucket", "pad", "ragged", "same_length")


def make_examples(lengths: list[int], d: int = 2) -> list[tuple[np.ndarray, int]]:
    random = np.random.default_rng(0)
    return [(random.standard_normal((length, d)).astype(np.float32), number) for number, length in enumerate(lengths)]


def dataset_of(examples: list[tuple[np.ndarray, Any]], label: tf.TensorSpec | None = None) -> tf.data.Dataset:
    d = examples[0][0].shape[1]
    specs = (tf.TensorSpec([None, d], tf.float32), label or tf.TensorSpec([], tf.int64))
    return tf.data.Dataset.from_generator(lambda: iter(examples), output_signature=specs)


@pytest.mark.parametrize("batching", BATCHINGS)
@given(
    lengths=st.lists(st.integers(0, 8), min_size=1, max_size=15),
    batch_size=st.integers(1, 4),
    remainder=st.sampled_from(["keep", "drop", "pad"]),
    pad_to=st.sampled_from(["longest", "boundary"]),
    padding_value=st.sampled_from([0.0, 3.5]),
)
def test_batches_equal_the_reference(
    batching: str, lengths: list[int], batch_size: int, remainder: str, pad_to: str, padding_value: float
) -> None:
    examples = make_examples(lengths)
    arguments: dict[str, Any] = {"batch_size": batch_size, "remainder": remainder, "lengths": True}
    boundaries = sorted(set(lengths)) if batching == "same_length" else [2, 8] if batching == "bucket" else [8]
    if batching != "ragged":
        arguments["padding_value"] = padding_value
    if batching == "bucket":
        arguments |= {"buckets": boundaries, "pad_to": pad_to}
    elements = list(getattr(builders, batching)(dataset_of(examples), **arguments))
    batches = bucket_order(lengths, boundaries, [batch_size] * len(boundaries))
    if batching in ("pad", "ragged"):
        batches = plain_order(len(lengths), batch_size)
    if remainder == "drop":
        batches = [batch for batch in batches if len(batch) == batch_size]
    assert len(elements) == len(batches)
    if batching == "same_length":  # the order of its short batches is unspecified
        elements.sort(key=lambda element: element[1].numpy().tolist())
        batches.sort()
    for element, batch in zip(elements, batches, strict=True):
        rows = [batch[number % len(batch)] for number in range(batch_size)] if remainder == "pad" else batch
        x, y = element[:2]
        longest = max(lengths[row] for row in rows)
        if batching == "bucket" and pad_to == "boundary":
            longest = next(boundary for boundary in boundaries if longest <= boundary)
        features = x["features"].to_tensor(shape=[None, longest, 2]) if batching == "ragged" else x["features"]
        value = 0.0 if batching == "ragged" else padding_value
        assert equal(features, pad_rows([examples[row][0] for row in rows], longest, value, "float32"))
        assert x["lengths"].numpy().tolist() == [lengths[row] for row in rows]
        assert y.numpy().tolist() == rows
        if remainder == "pad":
            assert element[2].numpy().tolist() == [1.0] * len(batch) + [0.0] * (batch_size - len(batch))


@pytest.mark.parametrize(
    ("batching", "remainder"), [*((batching, "pad") for batching in BATCHINGS), ("bucket", "keep"), ("ragged", "drop")]
)
def test_the_same_batches_as_make_dataset_on_the_same_order(tmp_path: Path, batching: str, remainder: str) -> None:
    examples = make_examples([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9])
    vlpipe.write(tmp_path / "d", ({"features": x, "label": y} for x, y in examples), num_shards=1)
    arguments: dict[str, Any] = {"batch_size": 2, "remainder": remainder, "lengths": True}
    if batching == "bucket":
        arguments["buckets"] = [4, 9]
    expected = vlpipe.make_dataset(tmp_path / "d", batching=batching, shuffle=False, engine="stream", **arguments)
    built = getattr(builders, batching)(dataset_of(examples), **arguments)
    # make_dataset knows the lengths, so that its spec states the number of rows where all batches have the same.
    specs = [tf.nest.flatten(dataset.element_spec) for dataset in (expected, built)]
    assert all(second.is_compatible_with(first) for first, second in zip(*specs, strict=True))
    elements = [[tf.nest.flatten(element, expand_composites=True) for element in dataset] for dataset in (expected, built)]
    assert len(elements[0]) == len(elements[1]) == len(expected)
    for first, second in zip(*elements, strict=True):
        assert all(equal(a, b) for a, b in zip(first, second, strict=True))


def test_for_apply_without_the_dataset() -> None:
    examples = make_examples([3, 1, 2])
    applied = dataset_of(examples).apply(builders.pad(batch_size=2))
    assert [x.shape.as_list() for x, _ in applied] == [[2, 3, 2], [1, 2, 2]]


def test_a_label_of_varying_length_is_padded_with_label_padding() -> None:
    examples: list[tuple[np.ndarray, Any]] = [(np.ones((4, 2), "f4"), [7, 8]), (np.ones((3, 2), "f4"), [9])]
    dataset = dataset_of(examples, tf.TensorSpec([None], tf.int64))
    for builder, arguments in ((builders.bucket, {"buckets": [10], "pad_to": "boundary"}), (builders.pad, {}), (builders.ragged, {})):
        ((x, y),) = list(builder(dataset, batch_size=2, lengths=True, label_padding=-5, **arguments))
        assert y.numpy().tolist() == [[7, 8], [9, -5]]
        assert x["label_lengths"].numpy().tolist() == [2, 1]


def test_bare_tensors_dicts_and_further_parts() -> None:
    frames = tf.data.Dataset.from_tensor_slices([3, 9, 4]).map(lambda t: tf.ones([t, 8]))
    assert [batch.shape.as_list() for batch in builders.bucket(frames, batch_size=2, buckets=[5, 10])] == [[2, 4, 8], [1, 9, 8]]
    waves = tf.data.Dataset.from_tensor_slices([3, 2]).map(lambda t: ({"a": tf.ones([t, 1]), "b": tf.ones([2 * t]), "c": t}, t, "text"))
    ((x, y, text),) = list(builders.pad(waves, lengths=True))
    assert {name: value.shape.as_list() for name, value in x.items()} == {
        "a": [2, 3, 1],
        "b": [2, 6],
        "c": [2],
        "a_lengths": [2],
        "b_lengths": [2],
    }
    assert y.numpy().tolist() == [3, 2]
    assert text.numpy().tolist() == [b"text", b"text"]


def test_frames_per_batch_limits_the_batches() -> None:
    dataset = dataset_of(make_examples([2, 2, 2, 2, 7, 7, 30]))
    shapes = [x.shape.as_list()[:2] for x, _ in builders.bucket(dataset, buckets=[2, 7, 30], frames_per_batch=6)]
    assert shapes == [[3, 2], [1, 7], [1, 7], [1, 30], [1, 2]]
    shapes = [x.shape.as_list()[:2] for x, _ in builders.same_length(dataset, frames_per_batch=14, batch_size=3)]
    assert sorted(shapes) == [[1, 2], [1, 30], [2, 7], [3, 2]]


def test_boundaries_come_from_the_first_elements(caplog: pytest.LogCaptureFixture) -> None:
    dataset = dataset_of(make_examples([1] * 40 + [9] * 40))
    with caplog.at_level("INFO", "vlpipe"):
        shapes = {tuple(x.shape) for x, _ in builders.bucket(dataset, batch_size=4)}
    assert shapes == {(4, 1, 2), (4, 9, 2)}
    assert "boundaries [1, 9] chosen from the lengths of the first 80 elements" in caplog.text


def test_longer_than_the_last_boundary() -> None:
    dataset = dataset_of(make_examples([1, 9]))
    assert {tuple(x.shape) for x, _ in builders.bucket(dataset, buckets=[4])} == {(1, 1, 2), (1, 9, 2)}
    with pytest.raises(tf.errors.InvalidArgumentError, match="longer than the last boundary"):
        list(builders.bucket(dataset, buckets=[4], pad_to="boundary"))


@pytest.mark.parametrize("batching", BATCHINGS)
def test_other_datasets_are_refused(batching: str) -> None:
    builder = getattr(builders, batching)
    with pytest.raises(vlpipe.ArgumentError, match="the dataset is a list, expected a tf.data.Dataset"):
        builder([1, 2, 3])
    with pytest.raises(vlpipe.ArgumentError, match="whose T is None in the spec"):
        builder(tf.data.Dataset.range(3))
    with pytest.raises(vlpipe.ArgumentError, match="batch_size: came as 0, expected an integer >= 1"):
        builder(dataset_of(make_examples([1])), batch_size=0)


class Pair(NamedTuple):
    x: tf.Tensor
    y: tf.Tensor


@pytest.mark.parametrize(
    ("element", "arguments", "message"),
    [
        (
            lambda t: (tf.ones([t, 2]), tf.ones([t], tf.uint8)),
            {},
            'label_padding: is -1, which "label" of dtype uint8 cannot hold. Pass another value, such as label_padding={"label": 0}.',
        ),
        (lambda t: tf.ones([t, 2], tf.uint8), {"padding_value": -3}, 'padding_value: is -3, which "features" of dtype uint8 cannot hold'),
        (
            lambda t: tf.ones([t, 2], tf.float16),
            {"padding_value": 1e30},
            'padding_value: is 1e.30, which "features" of dtype float16 cannot hold',
        ),
        (lambda t: Pair(tf.ones([t, 2]), t), {}, "features of the elements is Pair.*expected dense tensors of known rank"),
        (lambda t: {"a": tf.ones([t, 2]), "b": (t, t)}, {}, "b of the elements is .* expected dense tensors"),
        (lambda t: (tf.ones([t, 2]), tf.RaggedTensor.from_row_lengths([1], [1])), {}, "label of the elements is RaggedTensorSpec"),
        (
            lambda t: (tf.ones([t, 2]), t, 1.0),
            {"remainder": "pad"},
            "adds a sample weight after .x, y., but the elements already have 3 parts",
        ),
        (
            lambda t: {"a": tf.ones([t, 2]), "a_lengths": t},
            {"lengths": True},
            "adds .'a_lengths'. to x, which already has features of these names. Rename",
        ),
    ],
)
def test_elements_that_cannot_be_batched_are_refused(element: Any, arguments: dict[str, Any], message: str) -> None:
    dataset = tf.data.Dataset.from_tensor_slices([3, 2]).map(element)
    with pytest.raises(vlpipe.ArgumentError, match=message):
        builders.pad(dataset, **arguments)


def sequences(first: list[Any], second: list[Any], dtype: tf.DType) -> tf.data.Dataset:
    """Two elements `[T]`, of a dtype that tf.ones may not have."""
    return tf.data.Dataset.from_generator(lambda: iter([np.array(first), np.array(second)]), output_signature=tf.TensorSpec([None], dtype))


@pytest.mark.parametrize("batching", BATCHINGS)
def test_what_stands_beside_x_is_padded_by_what_it_is(batching: str) -> None:
    """A bool per frame once arrived as True (-1 cast), a weight per frame as -1: Keras then counted frames that are not there."""
    x = tf.data.Dataset.from_tensor_slices([2, 2]).map(lambda t: tf.ones([t, 1]))
    labels = {"voiced": sequences([True, True, True], [True], tf.bool), "words": sequences([4, 5, 6], [7], tf.int64)}
    labels |= {"phones": sequences([4, 5], [], tf.int64)}
    weights = sequences([0.5, 0.5, 0.5], [0.5], tf.float32)
    dataset = tf.data.Dataset.zip((x, labels, weights, sequences([1, 2], [3], tf.int32)))
    ((_, y, weight, further),) = list(getattr(builders, batching)(dataset, batch_size=2, label_padding={"phones": 0, "part 4": -9}))
    assert y["voiced"].numpy().tolist() == [[True] * 3, [True, False, False]]
    assert y["words"].numpy().tolist() == [[4, 5, 6], [7, -1, -1]]
    assert y["phones"].numpy().tolist() == [[4, 5], [0, 0]]
    assert weight.numpy().tolist() == [[0.5] * 3, [0.5, 0.0, 0.0]]
    assert further.numpy().tolist() == [[1, 2], [3, -9]]
    ((_, y, _, _),) = list(getattr(builders, batching)(dataset, batch_size=2, label_padding={"voiced": True}))
    assert y["voiced"].numpy().tolist() == [[True] * 3] * 2


def test_features_have_their_own_paddings_in_their_own_dtypes() -> None:
    """The number was once converted to float32, whatever the dtype of the feature."""
    parts = {"a": sequences([1], [1, 1], tf.int64), "b": sequences([1.0], [1.0, 1.0], tf.float64), "c": sequences([1], [1, 1], tf.uint64)}
    wide = {"a": 2**53 + 1, "b": 1e300, "c": 2**64 - 1}
    (x,) = list(builders.pad(tf.data.Dataset.zip(parts), padding_value=wide))
    assert {name: int(x[name][0, 1]) for name in "ac"} | {"b": float(x["b"][0, 1])} == wide
    (x,) = list(builders.bucket(tf.data.Dataset.zip(parts), buckets=[5], pad_to="boundary", padding_value={"a": 7}))
    assert x["a"].numpy().tolist() == [[1, 7, 7, 7, 7], [1, 1, 7, 7, 7]]
    assert x["b"].numpy().tolist() == [[1, 0], [1, 1]]


def test_minus_zero_stays_minus_zero() -> None:
    tf.constant(0.0, tf.float64)  # TensorFlow keeps it, and returns it for -0.0
    (x,) = list(builders.pad(sequences([1.0], [1.0, 1.0], tf.float32), padding_value=-0.0))
    assert np.signbit(x.numpy()).tolist() == [[False, True], [False, False]]


def test_an_inner_axis_is_padded_and_checked_too() -> None:
    x = tf.data.Dataset.from_tensor_slices([1, 2])
    dataset = x.map(lambda t: (tf.ones([t, 2]), tf.ensure_shape(tf.ones([3, t], tf.uint8), [3, None])))
    with pytest.raises(vlpipe.ArgumentError, match='label_padding: is -1, which "label" of dtype uint8 cannot hold'):
        builders.pad(dataset)
    ((_, y),) = list(builders.pad(dataset, label_padding={"label": 9}))
    assert y[0].numpy().tolist() == [[1, 9]] * 3


def test_paddings_of_unknown_names_are_refused() -> None:
    dataset = tf.data.Dataset.from_tensor_slices([1, 2]).map(lambda t: (tf.ones([t, 2]), {"u": (t, t)}, tf.ones([t])))
    with pytest.raises(
        vlpipe.ArgumentError, match=r"names \['u', 'sample_weight'\], but the labels that are delivered are \['u/0', 'u/1'\]"
    ):
        builders.pad(dataset, label_padding={"u": 0, "u/0": 0, "sample_weight": 1})
    with pytest.raises(vlpipe.ArgumentError, match=r"names \['x'\], but the features that are delivered are \['features'\]"):
        builders.pad(dataset, padding_value={"x": 0})
