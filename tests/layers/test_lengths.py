"""Lengths that cannot be lengths, and masks that are no prefixes: an error, or NaN where a compiled graph cannot raise."""

import keras
import numpy as np
import pytest

from tests.layers.layers_tools import numpy
from vlpipe import layers
from vlpipe.errors import ArgumentError

plain = keras.layers
BACKEND = keras.backend.backend()
IMPOSSIBLE = {"beyond T": [3, 7, 2], "below 0": [3, -1, 2], "far below": [3, -(2**31), 2]}
POSSIBLE = [0, 6, 3]  # of 6 frames


def model_of(dtype="float32", given="lengths"):
    first = [keras.Input((None,), dtype="int32"), plain.Embedding(9, 4)] if dtype == "int32" else [keras.Input((None, 4))]
    last = [plain.Conv1D(3, 3, padding="same", activation="relu"), plain.GlobalAveragePooling1D(), plain.Dense(2)]
    model = layers.mask_aware(keras.Sequential([*first, *last]), given=given)
    model.compile("sgd", "mse", jit_compile=False if BACKEND == "tensorflow" else "auto")
    return model


def a_batch(lengths, dtype="float32"):
    x = np.ones((3, 6), "int32") if dtype == "int32" else np.random.default_rng(0).normal(size=(3, 6, 4)).astype("float32")
    return {"features": x, "id": np.arange(3), "lengths": np.array(lengths)}


def refusal():
    """The error of a step: inside a graph of TensorFlow it can only arrive as an OpError."""
    if BACKEND != "tensorflow":
        return ArgumentError
    import tensorflow as tf

    return tf.errors.InvalidArgumentError


TARGET = np.zeros((3, 2), "float32")
STEPS = {
    "fit": lambda model, batch: model.fit(batch, TARGET, verbose=0),
    "evaluate": lambda model, batch: model.evaluate(batch, TARGET, verbose=0),
    "predict": lambda model, batch: model.predict(batch, verbose=0),
    "train_on_batch": lambda model, batch: model.train_on_batch(batch, TARGET),
    "test_on_batch": lambda model, batch: model.test_on_batch(batch, TARGET),
    "predict_on_batch": lambda model, batch: model.predict_on_batch(batch),
}


@pytest.mark.parametrize(("way", "dtype"), [*[(way, "float32") for way in STEPS], ("fit", "int32")])
def test_a_step_refuses_impossible_lengths(way, dtype):
    model = model_of(dtype)
    before = model.get_weights()
    for lengths in (IMPOSSIBLE["beyond T"], IMPOSSIBLE["below 0"]):
        with pytest.raises(refusal(), match="LengthMask.*expected whole numbers from 0 to"):
            STEPS[way](model, a_batch(lengths, dtype))
    for got, want in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, want)
    STEPS[way](model, a_batch(POSSIBLE, dtype))


@pytest.mark.parametrize("steps", [1, 2])
def test_weights_survive_a_refusal_in_mid_epoch(steps):
    """The steps before the refused one count; on JAX, Keras has taken the variables out of the model by then."""
    if steps > 1 and keras.backend.backend() == "torch":
        pytest.skip("Keras refuses steps_per_execution on PyTorch")
    model = model_of()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", steps_per_execution=steps)
    before = model.get_weights()
    good, bad = a_batch(POSSIBLE), a_batch([6, 9, 3])
    with pytest.raises(refusal(), match="LengthMask"):
        model.fit(
            {key: np.concatenate([good[key]] * 3 + [bad[key]]) for key in good}, np.ones((12, 2)), batch_size=3, shuffle=False, verbose=0
        )
    after = model.get_weights()
    assert np.isfinite(np.concatenate([w.ravel() for w in after])).all()
    assert not np.array_equal(after[-1], before[-1])
    assert np.isfinite(model.fit(good, TARGET, verbose=0).history["loss"]).all()


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_outside_of_a_graph_the_row_is_named(name):
    lengths = IMPOSSIBLE[name]
    with pytest.raises(
        ArgumentError, match=rf"row 1 has the length {lengths[1]} in a batch of 6 frames; expected whole numbers from 0 to 6"
    ):
        model_of()(a_batch(lengths))


@pytest.mark.parametrize("value", [2.5, 2**32 + 2])
def test_a_fraction_or_a_wide_integer_is_refused(value):
    """Each would pass as 2 once it is an int32."""
    batch = a_batch([3, value, 2])
    with pytest.raises(ArgumentError, match="row 1 has the length"):
        layers.lengths.check_lengths("entry", batch["lengths"], 6)
    if BACKEND != "jax" or value < 3:  # JAX has no 64-bit integers: what it is given wraps before
        with pytest.raises(ArgumentError, match="row 1 has the length"):
            layers.LengthMask()(batch)


@pytest.mark.parametrize("lengths", [POSSIBLE, [6, 6, 6], [0, 0, 0]])
def test_every_possible_length_passes(lengths):
    y = model_of().predict(a_batch(lengths), verbose=0)
    assert np.isfinite(y).all()


def test_a_batch_without_frames_passes():
    batch = a_batch([0, 0, 0])
    batch["features"] = batch["features"][:, :0]
    assert np.isfinite(model_of().predict(batch, verbose=0)).all()
    with pytest.raises(refusal(), match="LengthMask"):
        model_of().predict(batch | {"lengths": np.array([0, 1, 0])}, verbose=0)


@pytest.mark.skipif(BACKEND == "torch", reason="torch has no XLA")
@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_a_graph_that_cannot_raise_delivers_nan(name):
    """The impossible row is NaN throughout; the other rows are what they are beside a possible one."""
    model = model_of()
    got, want = (compiled_call(model, a_batch(lengths)) for lengths in (IMPOSSIBLE[name], [3, 5, 2]))
    assert np.isnan(got[1]).all()
    np.testing.assert_allclose(got[[0, 2]], want[[0, 2]], rtol=1e-6)
    assert np.isfinite(want).all()


def compiled_call(model, batch):
    """The output of a model as one XLA program, without the checks around a step."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return numpy(tf.function(model, jit_compile=True)({key: tf.constant(value) for key, value in batch.items()}))
    import jax

    variables = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]
    return numpy(jax.jit(model.stateless_call)(*variables, batch)[0])


MASK = np.arange(6) < np.array([3, 5, 2])[:, None]
HOLE = MASK ^ (np.arange(6) == np.array([9, 2, 9])[:, None])


def test_a_mask_with_a_hole_is_refused():
    model = model_of(given="mask")
    batch = {"features": a_batch(POSSIBLE)["features"], "mask": MASK}
    assert np.isfinite(model.predict(batch, verbose=0)).all()
    with pytest.raises(ArgumentError, match="the mask of row 1 is true after it was false; expected a mask that is true for the"):
        model(batch | {"mask": HOLE})
    with pytest.raises(refusal(), match="row (1 )?is true after it was false"):
        model.predict(batch | {"mask": HOLE}, verbose=0)


@pytest.mark.parametrize(
    ("key", "values", "text"),
    [
        ("lengths", np.array([3]), r"the lengths have the shape \(1,\), the features \(3, 6, 4\); expected \(3,\)"),
        ("lengths", np.array([[3], [2], [1]]), r"the lengths have the shape \(3, 1\)"),
        ("mask", MASK[:, :1], r"the mask have the shape \(3, 1\), the features \(3, 6, 4\); expected \(3, 6\)"),
    ],
)
def test_another_shape_is_refused(key, values, text):
    """Each would broadcast over the batch."""
    with pytest.raises(ArgumentError, match=text):
        layers.LengthMask()({"features": a_batch(POSSIBLE)["features"], key: values})


def test_lengths_and_a_mask_together_are_refused():
    with pytest.raises(ArgumentError, match=r"called on \['features', 'lengths', 'mask'\]; expected"):
        layers.LengthMask()({"features": np.ones((3, 6, 4)), "lengths": np.array(POSSIBLE), "mask": MASK})


@pytest.mark.parametrize("value", [-1, 2.5])
def test_impossible_lengths_have_no_output_lengths(value):
    model = keras.Sequential([keras.Input((None, 4)), plain.Dense(2)])
    for function in (layers.output_lengths, layers.sample_weight):
        for lengths in ([3, value], np.array([3, value])):
            with pytest.raises(
                ArgumentError, match=f"output_lengths: length 1 is {value}.*; expected whole numbers of frames, none negative"
            ):
                function(model, lengths)


@pytest.mark.parametrize(
    ("way", "value"),
    [
        *[(way, 2.5) for way in ("call", "fit", "predict", "train_on_batch")],
        *[(way, 2**32 + 2) for way in ("call", "fit", "predict", "test_on_batch", "train_on_batch", "predict_on_batch")],
        ("evaluate", float("nan")),
    ],
)
def test_a_model_refuses_what_its_cast_would_make_possible(way, value):
    """Keras casts what comes to the dtype of keras.Input, int32, in which each would be the length 2 or 0."""
    model = model_of()
    before = model.get_weights()
    with pytest.raises((ArgumentError, refusal()), match=r"LengthMask.*(row \d has the length|lengths that cannot be lengths)") as caught:
        {"call": lambda model, batch: model(batch), **STEPS}[way](model, a_batch([3, value, 2]))
    assert str(value) in str(caught.value)
    for got, want in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["int64", "uint64", "float32"])
def test_lengths_of_another_dtype_are_the_same_lengths(dtype):
    model, batch = model_of(), a_batch(POSSIBLE)
    expected = numpy(model(batch | {"lengths": np.array(POSSIBLE, "int32")}))
    other = batch | {"lengths": np.array(POSSIBLE, dtype)}
    if BACKEND == "torch" and dtype == "uint64":
        np.testing.assert_array_equal(numpy(model(other)), expected)  # in a step, PyTorch has no such tensors to shuffle
        return
    for got in (numpy(model(other)), model.predict_on_batch(other)):
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    np.testing.assert_allclose(numpy(model(other | {"lengths": other["lengths"][:, None]})), expected, rtol=1e-6)
    assert np.isfinite(model.train_on_batch(other, TARGET)).all()


@pytest.mark.skipif(BACKEND == "torch", reason="torch has no XLA")
def test_a_fraction_in_a_graph_that_cannot_raise_delivers_nan():
    model = model_of()
    got, want = (compiled_call(model, a_batch(lengths)) for lengths in ([3.0, 2.5, 2.0], [3, 5, 2]))
    assert np.isnan(got[1]).all()
    np.testing.assert_allclose(got[[0, 2]], want[[0, 2]], rtol=1e-6)


def test_two_sequences_are_checked_each():
    inputs = [keras.Input((None, 2), name=name) for name in ("a", "b")]
    model = layers.mask_aware(keras.Model(inputs, [plain.GlobalMaxPooling1D()(x) for x in inputs]))
    batch = {"a": np.ones((2, 3, 2)), "b": np.ones((2, 4, 2)), "a_lengths": np.array([3, 3]), "b_lengths": np.array([4, 4])}
    assert all(np.isfinite(numpy(y)).all() for y in model(batch))
    with pytest.raises(ArgumentError, match='"b_mask_entry": row 1 has the length 0.5 in a batch of 4 frames'):
        model(batch | {"b_lengths": np.array([4, 0.5])})
