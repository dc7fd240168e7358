"""`check_model` and `assert_padding_invariant`, on models that leak padding and on models that do not."""

import doctest
import importlib

import keras
import numpy as np
import pytest
from keras import ops

from tests.layers import zoo
from vlpipe import layers
from vlpipe.errors import ArgumentError

plain = keras.layers


def problems(*stack, **options):
    """Return `(class, problem)` of each finding in a Sequential model of these layers."""
    model = keras.Sequential([keras.Input((None, 4)), *stack])
    return [(finding.kind, finding.problem) for finding in layers.check_model(model, **options).findings]


def length_mask_model(body):
    """Return a model that starts with LengthMask."""
    inputs = {"features": keras.Input((None, 4), name="features"), "lengths": keras.Input((), dtype="int32", name="lengths")}
    return keras.Model(inputs, body(layers.LengthMask()(inputs)))


@pytest.mark.parametrize(
    ("layer", "problem"),
    [
        (plain.Conv1D(2, 3, padding="same"), "reads_padding"),
        (plain.Conv1D(2, 3, padding="same", strides=2), "stride_alignment"),
        (plain.MaxPooling1D(2, padding="same"), "stride_alignment"),
        (plain.Conv1DTranspose(2, 3), "reads_padding"),
        (plain.ZeroPadding1D(1), "reads_padding"),
        (plain.BatchNormalization(), "padding_statistics"),
        (plain.GroupNormalization(2), "padding_statistics"),
        (plain.GlobalAveragePooling1D(), "reads_padding"),
        (plain.GlobalMaxPooling1D(), "reads_padding"),
        (plain.Softmax(axis=1), "reads_padding"),
        (plain.Bidirectional(plain.LSTM(2)), "reads_padding"),
        (plain.Flatten(), "fixed_length"),
        (plain.Permute((2, 1)), "fixed_length"),
        (plain.Reshape((2, -1)), "fixed_length"),
        (plain.Reshape((-1, 8)), "reads_padding"),
        (plain.Lambda(lambda x: x + keras.ops.zeros(keras.ops.shape(x)[0])), "fixed_length"),
        (plain.STFTSpectrogram(frame_length=4, padding="same"), "stride_alignment"),
        (plain.AdaptiveAveragePooling1D(2), "reads_padding"),
        (plain.Dense(2, activity_regularizer="l2"), "padding_statistics"),
        (plain.MaxPooling1D(2, data_format="channels_first"), "unknown"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_each_leak_is_found(layer, problem):
    if isinstance(layer, plain.Lambda) and keras.backend.backend() != "tensorflow":
        pytest.skip("only TensorFlow makes zeros of an unknown shape: the plain model is not built")
    assert problems(layer) == [(type(layer).__name__, problem)]


@pytest.mark.parametrize(
    "layer",
    [
        plain.Conv1D(2, 3),
        plain.Conv1D(2, 3, padding="causal", dilation_rate=2),
        plain.Dense(2),
        plain.LayerNormalization(),
        plain.Dropout(0.1),
    ],
)
def test_layers_without_a_leak_have_no_finding(layer):
    assert problems(layer) == []


def test_a_finding_advises_which_layer_to_use():
    (finding,) = layers.check_model(keras.Sequential([keras.Input((None, 4)), plain.Conv1D(2, 3, padding="same", name="c")])).findings
    assert finding == layers.Finding(
        layer="c",
        kind="Conv1D",
        problem="reads_padding",
        message="reads the padding beyond the last frame",
        advice="Use vlpipe.layers.Conv1D, or mask_aware(model) for all layers at once",
    )


def test_a_lost_mask_is_found():
    lost = layers.check_model(length_mask_model(lambda x: layers.GlobalMaxPooling1D()(plain.Conv1D(2, 3)(x)))).findings
    assert [(f.kind, f.problem) for f in lost] == [("Conv1D", "mask_lost"), ("GlobalMaxPooling1D", "mask_lost")]
    lost = layers.check_model(length_mask_model(lambda x: layers.GlobalMaxPooling1D()(x * 2))).findings
    assert [(f.kind, f.problem) for f in lost] == [("Multiply", "mask_lost"), ("GlobalMaxPooling1D", "mask_lost")]
    lost = layers.check_model(length_mask_model(lambda x: plain.Multiply()([x, layers.GlobalMaxPooling1D()(x)]))).findings
    assert [(f.kind, f.problem) for f in lost] == [("Multiply", "mask_lost")]


def test_keras_pooling_of_an_empty_row_is_found():
    (finding,) = layers.check_model(length_mask_model(plain.GlobalAveragePooling1D())).findings
    assert finding.message == "divides by zero for a row without frames"


def test_masks_that_arrive_are_not_findings():
    model = length_mask_model(lambda x: plain.LSTM(3)(layers.CarryMask()([ops.relu(x), x])))
    assert layers.check_model(model).ok
    assert "No layer lets padding change an answer." in layers.check_model(model).report()


def test_an_input_of_fixed_length_is_found():
    model = keras.Sequential([keras.Input((7, 4), name="x"), plain.Conv1D(2, 3)])
    (finding,) = layers.check_model(model).findings
    assert (finding.layer, finding.problem, finding.message) == ("x", "fixed_length", "takes exactly 7 frames")


def test_branches_that_never_have_equal_lengths_are_found():
    inputs = keras.Input((None, 4))
    x = ops.concatenate([inputs, plain.UpSampling1D(2)(inputs)], axis=-1)
    assert [f.problem for f in layers.check_model(keras.Model(inputs, x)).findings] == ["mismatch"]


def test_nested_layers_have_a_path():
    inner = keras.Sequential([keras.Input((None, 4)), plain.Conv1D(2, 3, padding="same", name="c")], name="encoder")
    assert [f.layer for f in layers.check_model(keras.Sequential([keras.Input((None, 4)), inner])).findings] == ["encoder/c"]


def test_the_receptive_field_is_measured():
    stack = [plain.Conv1D(2, 3), plain.MaxPooling1D(2), plain.Conv1D(2, 3, dilation_rate=2)]
    check = layers.check_model(keras.Sequential([keras.Input((None, 4)), *stack]))
    assert (check.receptive_field, check.shortest) == (12, 12)  # 3, + 1, + 4 windows of 2
    assert problems(*stack, shortest=12) == []
    assert problems(*stack, shortest=11) == [("Conv1D", "too_short")]
    assert problems(plain.Conv1D(2, 5, padding="causal"), shortest=4) == [("Conv1D", "too_short")]


def test_the_receptive_field_by_perturbation():
    """The input frames whose perturbation changes the first output frame are as many as `receptive_field`."""
    model = zoo.build("wav2letter", zoo.Draw(kernel=3, stride=2, padding="valid"))
    field = layers.check_model(model).receptive_field
    x = np.random.default_rng(0).normal(size=(1, field + 20, zoo.FEATURES)).astype("float32")
    before = np.asarray(ops.convert_to_numpy(model(x)))[0, 0]
    changed = []
    for frame in range(field + 4):
        y = x.copy()
        y[0, frame] += 100
        changed.append(not np.array_equal(np.asarray(ops.convert_to_numpy(model(y)))[0, 0], before))
    assert max(np.flatnonzero(changed)) + 1 == field


def spectrogram_problems(layer):
    model = keras.Sequential([keras.Input((None, 6, 2)), layer])
    return [finding.problem for finding in layers.check_model(model).findings]


def test_each_leak_over_spectrograms_is_found():
    leaks = {
        "reads_padding": (
            [
                plain.Conv2D(2, 3, padding="same"),
                plain.Conv2DTranspose(2, 3),
                plain.ZeroPadding2D(1),
                plain.GlobalAveragePooling2D(),
                plain.GlobalMaxPooling2D(),
            ]
        ),
        "stride_alignment": [plain.DepthwiseConv2D(3, strides=2, padding="same"), plain.AveragePooling2D(2, padding="same")],
        "padding_statistics": [plain.BatchNormalization(), plain.GroupNormalization(1)],
        "unknown": [plain.MaxPooling2D(2, data_format="channels_first")],
    }
    for problem, found in leaks.items():
        assert [spectrogram_problems(layer) for layer in found] == [[problem]] * len(found)
    for layer in (plain.Conv2D(2, 3), plain.MaxPooling2D(2), plain.SpatialDropout2D(0.1), plain.Permute((1, 3, 2))):
        assert spectrogram_problems(layer) == []


def test_slices_that_count_from_the_padding_are_found():
    inputs = keras.Input((None, 4))
    for slices, expected in {
        lambda x: x[:, -1]: ["reads_padding"],
        lambda x: x[:, -3:]: ["reads_padding"],
        lambda x: x[:, 1::2]: [],
    }.items():
        assert [finding.problem for finding in layers.check_model(keras.Model(inputs, slices(inputs))).findings] == expected


def test_the_report_has_a_row_for_each_kind_of_finding():
    model = keras.Sequential([keras.Input((None, 4)), *[plain.Conv1D(4, 3, padding="same", name=f"c{n}") for n in range(6)]])
    report = layers.check_model(model).report()
    assert "c0, c1, c2 and 3 more" in report
    assert report.count("reads_padding") == 1
    assert len(layers.check_model(model).findings) == 6


def test_the_report_is_a_table():
    report = layers.check_model(zoo.build("m5")).report()
    expected = (
        "stride_alignment",
        "GlobalAveragePooling1D",
        "Receptive field: 100 frames",
        "Shortest sequence that gives every layer at least one frame",
    )
    for text in expected:
        assert text in report


def test_check_model_refuses_a_model_that_is_not_built():
    with pytest.raises(ArgumentError, match='check_model: the Sequential model "s" is not built'):
        layers.check_model(keras.Sequential([plain.Dense(2)], name="s"))


def test_the_assertion_names_the_case():
    model = keras.Sequential([keras.Input((None, 4)), plain.GlobalAveragePooling1D()])
    with pytest.raises(AssertionError, match=r"A sequence of 3 frames padded by 2 frames of zeros: the output differs by 0\.4 of its"):
        layers.assert_padding_invariant(model, 4, lengths=[3], padding=[2])
    with pytest.raises(AssertionError, match="A sequence of 3 frames in one batch with one of 9"):
        layers.assert_padding_invariant(model, 4, lengths=[3, 9], padding=[])
    layers.assert_padding_invariant(model, 4, lengths=[3, 9], padding=[2], tolerance=1e6)


def test_the_assertion_detects_nan_and_other_shapes():
    model = length_mask_model(plain.GlobalAveragePooling1D())
    with pytest.raises(AssertionError, match="differs by nan"):
        layers.assert_padding_invariant(model, 4, lengths=[0], padding=[2])
    model = keras.Sequential([keras.Input((None, 4)), plain.Flatten()])
    with pytest.raises(AssertionError, match=r"the output has shape \(20,\), but \(12,\) for the sequence alone"):
        layers.assert_padding_invariant(model, 4, lengths=[3], padding=[2])


def test_the_assertion_needs_lengths():
    for lengths in ([], [3, -1]):
        with pytest.raises(ArgumentError, match=r"assert_padding_invariant: lengths=.*expected at least one length, none negative"):
            layers.assert_padding_invariant(None, 4, lengths=lengths)


MODULES = [
    "adaptive",
    "frames",
    "planes",
    "wrappers",
    "base",
    "check",
    "convert",
    "entry",
    "merge",
    "model",
    "normalize",
    "reduce",
    "resize",
    "testing",
    "timewise",
    "windows",
]


@pytest.mark.parametrize("module", MODULES)
def test_the_docstring_examples_are_self_contained_and_run_on_this_backend(module):
    if module == "entry" and keras.backend.backend() != "tensorflow":
        pytest.skip("the example of ToPadded needs ragged tensors, which only TensorFlow has")
    result = doctest.testmod(importlib.import_module(f"vlpipe.layers.{module}"), globs={})
    assert result.attempted > 0
    assert result.failed == 0


def test_every_public_layer_is_documented():
    for name in layers.__all__:
        assert getattr(layers, name).__doc__, name
