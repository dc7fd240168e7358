"""Each layer gives each row of a padded batch the output that its NumPy twin computes for the row alone."""

import keras
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.layers import layers_numpy as twin
from tests.layers.layers_tools import EXTRA, LENGTHS, WIDTH, ExtractMask, few, numpy, padded
from vlpipe import layers
from vlpipe.errors import ArgumentError
from vlpipe.layers.replace import Unfilled


def run(layer, batch, entry=layers.LengthMask):
    """Return the real output frames of each row."""
    y = layer(entry()(batch))
    mask, y = numpy(ExtractMask()(y)), numpy(y)
    assert np.isfinite(y).all()
    assert mask.shape == y.shape[:2]
    counts = mask.sum(1)
    np.testing.assert_array_equal(mask, np.arange(mask.shape[1]) < counts[:, None])
    return [row[:count] for row, count in zip(y, counts, strict=True)]


def check(layer, lengths, extra, expected):
    rows, batch = padded(lengths, extra)
    for row, got in zip(rows, run(layer, batch), strict=True):
        want = expected(row)
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def weights(layer):
    layer.build((None, None, WIDTH))
    rng = np.random.default_rng(1)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    return layer.get_weights()


@few(40)
@given(LENGTHS, EXTRA, st.integers(1, 8), st.integers(1, 5), st.integers(1, 3), st.sampled_from(["valid", "same", "causal"]))
def test_conv(lengths, extra, size, stride, dilation, padding):
    stride = stride if dilation == 1 else 1  # Keras refuses both at once
    layer = layers.Conv1D(4, size, strides=stride, dilation_rate=dilation, padding=padding)
    kernel, bias = weights(layer)
    check(layer, lengths, extra, lambda x: twin.conv(x, kernel, bias, stride, dilation, padding))


@few(15)
@given(LENGTHS, EXTRA, st.integers(1, 6), st.integers(1, 3), st.sampled_from(["valid", "same"]))
def test_depthwise_and_separable(lengths, extra, size, stride, padding):
    layer = layers.DepthwiseConv1D(size, strides=stride, padding=padding, depth_multiplier=2)
    kernel, bias = weights(layer)
    check(layer, lengths, extra, lambda x: twin.depthwise(x, kernel, bias, stride, 1, padding))
    layer = layers.SeparableConv1D(4, size, strides=stride, padding=padding)
    kernel, point, bias = weights(layer)
    check(layer, lengths, extra, lambda x: twin.depthwise(x, kernel, 0, stride, 1, padding) @ point[0] + bias)


@few(20)
@given(LENGTHS, EXTRA, st.integers(1, 6), st.integers(1, 4), st.sampled_from(["valid", "same"]))
def test_pooling(lengths, extra, size, stride, padding):
    options = {"strides": stride, "padding": padding}
    check(layers.MaxPooling1D(size, **options), lengths, extra, lambda x: twin.pool(x, size, stride, padding, np.max))
    check(layers.AveragePooling1D(size, **options), lengths, extra, lambda x: twin.pool(x, size, stride, padding, np.mean))


@few(20)
@given(LENGTHS, EXTRA, *[st.integers(1, 5)] * 2, *[st.integers(1, 4)] * 3)
@example([3, 6], 0, 2, 4, 2, 1, 3)  # along the second axis, windows begin before the first value
def test_pooling_of_planes(lengths, extra, size, across, stride, step, bins):
    """A maximum and a mean over a rectangle are those over its columns of those over its rows."""
    rows, batch = padded(lengths, extra)
    planes = {"features": batch["features"][..., None] * np.linspace(1, 2, bins), "lengths": batch["lengths"]}
    options = {"strides": (stride, step), "padding": "same"}
    for kind, reduce in (layers.MaxPooling2D, np.max), (layers.AveragePooling2D, np.mean):
        got = run(kind((size, across), **options), planes, Unfilled)
        for row, y in zip(rows, got, strict=True):
            x = row[..., None] * np.linspace(1, 2, bins)
            x = twin.pool(x.reshape(len(row), WIDTH * bins), size, stride, "same", reduce).reshape(-1, WIDTH, bins)
            want = [twin.pool(plane, across, step, "same", reduce) for plane in x]
            np.testing.assert_allclose(y, np.reshape(want, y.shape), rtol=2e-5, atol=2e-5)


@few(20)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), EXTRA, st.integers(1, 6), st.integers(1, 4), st.sampled_from(["valid", "same"]))
@example([5, 1], 2, 2, 4, "same")  # a kernel shorter than the stride: gaps between its copies
def test_conv_transpose(lengths, extra, size, stride, padding):
    """Each row equals the Keras layer on the row alone; except on torch, which shifts some "same" outputs, also the NumPy twin."""
    options = {"strides": stride, "padding": padding}
    layer, parent = layers.Conv1DTranspose(4, size, **options), keras.layers.Conv1DTranspose(4, size, **options)
    kernel, bias = weights(layer)
    parent.build((None, None, WIDTH))
    parent.set_weights([kernel, bias])
    check(layer, lengths, extra, lambda x: numpy(parent(x[None]))[0])
    if keras.backend.backend() != "torch":
        check(layer, lengths, extra, lambda x: twin.transpose(x, kernel, bias, stride, padding))


@few(10)
@given(LENGTHS, EXTRA, st.integers(0, 3), st.integers(0, 3))
def test_padding_cropping_repeating(lengths, extra, before, after):
    check(layers.ZeroPadding1D((before, after)), lengths, extra, lambda x: np.pad(x, [(before, after), (0, 0)]))
    check(layers.Cropping1D((before, after)), lengths, extra, lambda x: x[before : max(len(x) - after, before)])
    check(layers.UpSampling1D(after + 1), lengths, extra, lambda x: np.repeat(x, after + 1, axis=0))


@pytest.mark.parametrize("stride", [7, 16])
def test_conv_with_a_wide_stride_aligns_every_length(stride):
    layer = layers.Conv1D(4, 21, strides=stride, padding="same")
    kernel, bias = weights(layer)
    check(layer, list(range(1, 40)), 3, lambda x: twin.conv(x, kernel, bias, stride, 1, "same"))


def test_without_a_mask_the_layer_is_its_parent():
    _, batch = padded([9])
    for name in ("Conv1D", "SeparableConv1D"):
        ours = getattr(layers, name)(4, 3, strides=2, padding="same")
        theirs = getattr(keras.layers, name)(4, 3, strides=2, padding="same")
        theirs.build((None, None, WIDTH))
        ours.build((None, None, WIDTH))
        ours.set_weights(theirs.get_weights())
        np.testing.assert_array_equal(*[numpy(layer(batch["features"])) for layer in (ours, theirs)])


def test_channels_first_is_refused():
    with pytest.raises(
        ArgumentError,
        match=r'Conv1D "c": data_format="channels_first" puts the frames on the last axis; expected .batch, frames, features.',
    ):
        layers.Conv1D(4, 3, data_format="channels_first", name="c")
