"""`predict` and `evaluate` of models and arguments in which answers could be cut, padded or stale without a word."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from vlpipe import layers
from vlpipe.evaluation.runner import said
from vlpipe.testing import assert_padding_invariant

plain = keras.layers
LENGTHS = [1, 2, 5, 7, 7, 40, 12, 50]
RNG = np.random.default_rng(0)
RECORDS = [
    {
        "x": RNG.normal(size=(t, 5)).astype("float32"),
        "y": RNG.normal(size=(t // 2 + 1, 3)).astype("float32"),
        "label": int(t % 2),
        "vector": RNG.normal(size=3).astype("float32"),
        "four": RNG.normal(size=4).astype("float32"),
    }
    for t in LENGTHS
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("odd") / "data"
    vlpipe.write(path, RECORDS, num_shards=1)
    return path


def numpy(y: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(y))


def alone(model: keras.Model) -> list[np.ndarray]:
    return [numpy(model(record["x"][None], training=False))[0] for record in RECORDS]


def state_of(layer: Any, number: int) -> keras.Model:
    x = keras.Input((None, 5))
    return keras.Model(x, layer(x)[number])


STATES = {
    "state of an LSTM": lambda: state_of(plain.LSTM(3, return_state=True), 1),
    "output beside states": lambda: state_of(plain.LSTM(3, return_state=True), 0),
    "state beside frames": lambda: state_of(plain.GRU(3, return_sequences=True, return_state=True), 1),
    "state of an RNN": lambda: state_of(plain.SimpleRNN(3, return_state=True), 1),
    "state of both directions": lambda: state_of(plain.Bidirectional(plain.LSTM(3, return_state=True)), 2),
    "the last frame": lambda: keras.Model(x := keras.Input((None, 5)), plain.Dense(3)(x)[:, -1]),
}


@pytest.mark.parametrize("name", STATES)
def test_an_answer_without_frames_is_not_cut_to_the_length_of_its_record(source: Path, name: str) -> None:
    model = STATES[name]()
    expected = np.stack(alone(model))
    answers = vlpipe.predict(model, source, features="x")
    assert isinstance(answers, np.ndarray)
    np.testing.assert_allclose(answers, expected, rtol=1e-4, atol=1e-6)
    model.compile(loss="mse")
    targets = np.stack([record["vector"] for record in RECORDS])
    assert vlpipe.evaluate(model, source, features="x", label="vector")["loss"] == pytest.approx(
        ((expected - targets) ** 2).mean(), rel=1e-4
    )


def test_frames_and_states_are_answered_side_by_side(source: Path) -> None:
    x = keras.Input((None, 5))
    model = keras.Model(x, plain.LSTM(3, return_sequences=True, return_state=True)(x))
    frames, hidden, carry = vlpipe.predict(model, source, features="x")
    assert [y.shape for y in frames] == [(t, 3) for t in LENGTHS]
    for record, one, h, c in zip(RECORDS, frames, hidden, carry, strict=True):
        for got, expected in zip((one, h, c), model(record["x"][None]), strict=True):
            np.testing.assert_allclose(got, numpy(expected)[0], rtol=1e-4, atol=1e-6)


def test_the_frames_of_a_slice_are_followed(source: Path) -> None:
    x = keras.Input((None, 5))
    model = keras.Model(x, plain.Dense(3)(x)[:, ::2])
    for got, expected in zip(vlpipe.predict(model, source, features="x"), alone(model), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    assert layers.output_lengths(model, [4, 5]).tolist() == [2, 3]


@pytest.mark.parametrize("stateful", [plain.LSTM(3, stateful=True), plain.Bidirectional(plain.GRU(3, stateful=True))])
def test_stateful_layers_are_refused(source: Path, stateful: Any) -> None:
    x = keras.Input((None, 5), batch_size=1)
    with pytest.raises(vlpipe.ArgumentError, match="is stateful, so its answer for a record depends on those before it"):
        vlpipe.predict(keras.Model(x, plain.Dense(2)(stateful(x))), source, features="x", batch_size=1)


DISTRIBUTED = {
    "a frame": lambda: [plain.TimeDistributed(plain.Dense(3))],
    "a record": lambda: [plain.TimeDistributed(plain.Dense(3)), plain.LayerNormalization(), plain.GlobalMaxPooling1D()],
    "normalized": lambda: [plain.TimeDistributed(plain.LayerNormalization()), plain.GlobalAveragePooling1D()],
}


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_time_distributed_layers_answer_each_record_as_alone(source: Path, name: str) -> None:
    model = keras.Sequential([keras.Input((None, 5)), *DISTRIBUTED[name]()])
    expected = alone(model)
    assert layers.check_model(model).findings[0].problem == "mismatch"
    aware = layers.mask_aware(model)
    assert layers.check_model(aware).ok
    assert {id(weight) for weight in aware.weights} == {id(weight) for weight in model.weights}
    for chosen, arguments in ((model, {}), (model, {"batch_size": 2}), (aware, {"batch_size": 3}), (aware, {"batching": "pad"})):
        answers = vlpipe.predict(chosen, source, features="x", **arguments)
        for got, one in zip(answers, expected, strict=True):
            assert got.shape == one.shape
            np.testing.assert_allclose(got, one, rtol=1e-4, atol=1e-5)


def test_time_distributed_is_found_in_a_call_of_the_users(source: Path) -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inner = plain.TimeDistributed(plain.Dense(3))

        def call(self, x: Any) -> Any:
            return self.inner(x)

        def compute_output_spec(self, x: Any, *_: Any) -> Any:
            return keras.KerasTensor((*x.shape[:2], 3))

    model = Own()
    answers = vlpipe.predict(model, source, features="x")
    for got, one in zip(answers, alone(model), strict=True):
        assert got.shape == one.shape
        np.testing.assert_allclose(got, one, rtol=1e-4, atol=1e-5)


def test_a_time_distributed_layer_sees_each_frame_alone() -> None:
    """Its axis 1 is that of the features, and not of time."""
    model = keras.Sequential([keras.Input((None, 5)), plain.TimeDistributed(plain.LayerNormalization(axis=1))])
    assert_padding_invariant(layers.mask_aware(model), plain=model, skip=("compiled", "saved"))


def test_mask_aware_time_distributed_trains_on_batches_of_any_shape() -> None:
    model = layers.mask_aware(keras.Sequential([keras.Input((None, 5)), plain.TimeDistributed(plain.Dense(3))]))
    model.compile(keras.optimizers.SGD(0.0), loss="mse")
    kernel = numpy(model.weights[0])
    for rows, frames in ((2, 7), (1, 9), (8, 4)):
        x = RNG.normal(size=(rows, frames, 5)).astype("float32")
        loss = model.train_on_batch({"features": x, "lengths": np.full(rows, frames)}, np.zeros((rows, frames, 3), "float32"))
        model.reset_metrics()
        assert float(loss) == pytest.approx(((x @ kernel) ** 2).mean(), rel=1e-4)


def test_mask_aware_time_distributed_is_saved_and_loaded(tmp_path: Path) -> None:
    model = layers.mask_aware(keras.Sequential([keras.Input((None, 5)), plain.TimeDistributed(plain.Dense(3))]))
    batch = {"features": np.ones((2, 9, 5), "float32"), "lengths": np.array([9, 4])}
    model.save(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(keras.saving.load_model(tmp_path / "model.keras")(batch)), numpy(model(batch)), rtol=1e-6)


class Cut(layers.MaskAware, keras.layers.Layer):
    """Loses a frame, and does not say so."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return inputs[:, 1:]


class Fewer(keras.Model):
    """One row, whatever the batch."""

    def call(self, x: Any) -> Any:
        return keras.ops.max(x, axis=(0, 1), keepdims=True)[0]


def test_answers_that_contradict_the_layers_are_refused(source: Path) -> None:
    model = keras.Sequential([keras.Input((None, 5)), Cut()])
    with pytest.raises(vlpipe.ArgumentError, match=r"has 0 frames for a batch of 1, and by its layers 1. Correct the layer that answers"):
        vlpipe.predict(model, source, features="x")
    with pytest.raises(vlpipe.ArgumentError, match=r"has an answer of shape \[1, 5\] for a batch of 2 records, expected a row for each"):
        vlpipe.predict(Fewer(), source, features="x")


def two_inputs() -> keras.Model:
    x, y = keras.Input((None, 5), name="x"), keras.Input((None, 3), name="y")
    pooled = plain.Concatenate()([plain.GlobalAveragePooling1D()(x), plain.GlobalAveragePooling1D()(y)])
    return keras.Model({"x": x, "y": y}, plain.Dense(2, activation="softmax")(pooled))


@pytest.mark.parametrize(
    "arguments", [{}, {"batch_size": 64}, {"buckets": None}, {"frames_per_batch": 500}, {"batch_size": 4, "buckets": None}]
)
def test_a_plain_model_is_not_given_padding_whatever_the_size_of_the_batches(
    source: Path, arguments: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = two_inputs()
    expected = np.concatenate([numpy(model({"x": record["x"][None], "y": record["y"][None]})) for record in RECORDS])
    np.testing.assert_allclose(vlpipe.predict(model, source, features=("x", "y"), **arguments), expected, rtol=1e-5, atol=1e-6)
    model.compile(loss="sparse_categorical_crossentropy")
    loss = -np.log(expected[np.arange(len(RECORDS)), [record["label"] for record in RECORDS]]).mean()
    results = vlpipe.evaluate(model, source, features=("x", "y"), label="label", **arguments)
    assert results["loss"] == pytest.approx(loss, rel=1e-5)
    x = keras.Input((None, 5), name="x")
    one = keras.Model({"x": x}, plain.GlobalAveragePooling1D()(x))
    means = np.stack([record["x"].mean(axis=0) for record in RECORDS])
    np.testing.assert_allclose(vlpipe.predict(one, source, features=("x",), **arguments), means, rtol=1e-4, atol=1e-6)
    assert "padding may change" not in caplog.text


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ({"buckets": 3}, "buckets=3 pads"),
        ({"pad_to": "boundary"}, "pad_to='boundary' pads"),
        ({"batching": "pad", "buckets": None}, "batching='pad' pads"),
        ({"batching": "same_length"}, "batching='same_length' pads"),
    ],
)
def test_the_warning_of_padding_names_what_pads(
    source: Path, arguments: dict[str, Any], chosen: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "vlpipe"):
        vlpipe.predict(two_inputs(), source, features=("x", "y"), **arguments)
    assert chosen in caplog.text


def test_of_a_mix_each_record_is_answered_once_whatever_its_weight(source: Path, tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "more", RECORDS[:3], num_shards=1)
    model = keras.Sequential([keras.Input((None, 5)), plain.Dense(2, activation="softmax"), plain.GlobalAveragePooling1D()])
    model.compile(loss="sparse_categorical_crossentropy")
    scores, labels = np.stack(alone(model)), [record["label"] for record in RECORDS]
    whole = vlpipe.open(source)
    cases = [
        (vlpipe.mix({source: 1}, records=3), range(8)),
        (vlpipe.mix({source: 1, tmp_path / "more": 9}), [*range(8), 0, 1, 2]),
        (vlpipe.mix([(whole.select({"frames": (12, 40)}), 1), (whole.select({"frames": [2, 12]}), 7)]), [5, 6, 1]),
        (whole.balance("label"), None),
    ]
    for mix, rows in cases:
        answers = vlpipe.predict(model, mix, features="x")
        ids = answers.ids.tolist()
        expected = list(ids if rows is None else rows)
        assert len(set(ids)) == len(expected) == (8 if rows is None else len(rows))
        np.testing.assert_allclose(answers, scores[expected], rtol=1e-4, atol=1e-6)
        loss = -np.log(scores[expected, np.array(labels)[expected]]).mean()
        assert vlpipe.evaluate(model, mix, features="x", label="label")["loss"] == pytest.approx(loss, rel=1e-4)


def test_what_a_model_or_a_loss_cannot_take_is_an_error_of_its_own(source: Path, tmp_path: Path) -> None:
    tagger = keras.Sequential([keras.Input((None, 5)), plain.Conv1D(1, 3, padding="same")])
    tagger.compile(loss="mse")
    match = r"a loss or metric of model .* cannot compare labels of the shape \(1, 4\) with answers of the shape \(1, 1, 1\)"
    targets = {"features": "x", "label": "four", "length_range": (7, 7), "out_of_range": "drop"}
    with pytest.raises(vlpipe.ArgumentError, match=match.replace("1, 1, 1", "1, 7, 1")):
        vlpipe.evaluate(tagger, source, **targets)
    with pytest.raises(vlpipe.ArgumentError, match='is dense, and batching="ragged" gives it a ragged batch'):
        vlpipe.predict(tagger, source, features="x", batching="ragged")
    aware = layers.mask_aware(tagger)
    aware.compile(loss="mse")
    with pytest.raises(vlpipe.ArgumentError, match='its input "features" is dense'):
        vlpipe.evaluate(aware, vlpipe.make_dataset(source, features="x", label="four", batching="ragged", lengths=True))
    vlpipe.write(tmp_path / "empty", [{"x": np.zeros((0, 5), "float32")}], vlpipe.Schema(x=vlpipe.Sequence(5)))
    recurrent = keras.Sequential([keras.Input((None, 5)), plain.LSTM(3)])
    with pytest.raises(vlpipe.ArgumentError, match=r"cannot answer a batch of the shape \[1, 0, 5\] \(records of 0 frames\)"):
        vlpipe.predict(recurrent, tmp_path / "empty", length_range=(0, None))
    wide = keras.Sequential([keras.Input((None, 8)), plain.Conv1D(1, 3)])
    with pytest.raises(
        vlpipe.ArgumentError, match=r"the shape \[2, 7, 5\] .*: it takes \[\?, \?, 8\]\. Pass what the model was trained with"
    ):
        vlpipe.predict(wide, source, **targets)
    assert vlpipe.predict(tagger, tmp_path / "empty", length_range=(0, None))[0].shape == (0, 1)


def test_an_error_of_a_graph_is_shown_without_its_traceback() -> None:
    @tf.function(input_signature=[tf.TensorSpec([None])])
    def multiplied(x: tf.Tensor) -> tf.Tensor:
        return tf.matmul(x[None], tf.ones([7, 1]))

    with pytest.raises(tf.errors.InvalidArgumentError, match="most recent call last") as raised:
        multiplied(tf.ones(3))
    assert said(raised.value) == "Matrix size-incompatible: In[0]: [1,3], In[1]: [7,1]"


def test_ragged_batches_still_reach_a_model_of_ragged_inputs(source: Path) -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("no other backend has ragged tensors")
    tagger = keras.Sequential([keras.Input((None, 5)), plain.Conv1D(2, 3, padding="same")])
    ragged = keras.Input((None, 5), ragged=True)
    whole = keras.Model(ragged, layers.mask_aware(tagger)(layers.ToPadded()(ragged)))
    for got, expected in zip(vlpipe.predict(whole, source, features="x", batching="ragged"), alone(tagger), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    assert isinstance(next(iter(vlpipe.make_dataset(source, features="x", label="label", batching="ragged")))[0], tf.RaggedTensor)
