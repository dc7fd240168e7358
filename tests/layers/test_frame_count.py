"""How many frames each tensor of a deep model has: every layer is asked once, however many layers and merges follow it."""

import keras
import numpy as np
import pytest
from keras import layers as plain

from vlpipe import layers
from vlpipe.layers.frame_count import FrameCount, shortest_length

STRIDES = (2, 3, 5, 7)


class Counted(layers.MaskAware, plain.Layer):
    """Drops a frame, and counts how often it is asked how many frames it leaves of several sequences."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.asked = 0

    def call(self, inputs, mask=None):
        return layers.base.pad_to_minimum(inputs, 2)[:, 1:]

    def output_frames(self, frames):
        self.asked += np.size(frames) > 1
        return frames - 1


def uneven(depth):
    """Return a model of which each merge leaves fewer frames than one of its branches has, and its first layer."""
    first = Counted()
    inputs = keras.Input((None, 2))
    x = first(inputs)
    for number in range(depth):
        stride = STRIDES[number % len(STRIDES)]
        x = plain.Average()([plain.UpSampling1D(stride)(plain.MaxPooling1D(stride)(x)), x])
    return keras.Model(inputs, x), first


def frames_of_uneven(frames, depth):
    frames = np.maximum(frames - 1, 0)
    for number in range(depth):
        frames = frames // STRIDES[number % len(STRIDES)] * STRIDES[number % len(STRIDES)]
    return frames


@pytest.mark.parametrize("depth", [4, 40])
def test_a_layer_is_asked_as_often_in_a_deep_model(depth):
    model, first = uneven(depth)
    aware = layers.mask_aware(model)
    assert first.asked == 1
    layers.check_model(model)
    assert first.asked == 2
    lengths = np.arange(700)
    expected = frames_of_uneven(lengths, depth)
    np.testing.assert_array_equal(layers.output_lengths(aware, lengths), expected)
    assert layers.check_model(aware).shortest == np.argmax(expected > 0)
    tensor = layers.output_lengths(aware, keras.ops.convert_to_tensor(lengths))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(tensor), expected)


def test_branches_that_need_more_frames_than_are_kept():
    def model(kernel):
        inputs = keras.Input((None, 1))
        x = plain.Conv1D(1, 2, dilation_rate=10_000)(inputs)
        wide = plain.ZeroPadding1D((kernel - 1, 0))(x) if kernel == 3 else x
        return keras.Model(inputs, plain.Add()([plain.Conv1D(1, kernel)(wide), x]))

    assert layers.check_model(model(3)).shortest == 10_001
    np.testing.assert_array_equal(layers.output_lengths(model(3), [10_000, 10_001, 10_005]), [0, 1, 5])
    assert [finding.problem for finding in layers.check_model(model(4)).findings] == ["mismatch"]


def test_shortest_length():
    root = FrameCount()
    halved, behind = root.after(lambda frames: frames // 2), root.after(lambda frames: frames - 20_000)
    assert [shortest_length([halved], frames) for frames in (1, 3, 5_000)] == [2, 6, 10_000]
    assert shortest_length([halved, behind]) == 20_001
    assert shortest_length([root.after(lambda frames: 0 * frames)]) == 0
    assert shortest_length([]) == 1
    assert root.after(lambda frames: keras.ops.maximum(frames - 2, 0)).table[:4].tolist() == [0, 0, 1, 2]
    assert root.after(None).after(None)(np.array([-3, 0, 4])).tolist() == [0, 0, 4]
