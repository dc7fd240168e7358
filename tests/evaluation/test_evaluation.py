"""`predict` and `evaluate`: the answers, losses and metrics of each record alone, whatever it is batched with.

These tests run on any backend: `KERAS_BACKEND=jax python -m pytest tests/evaluation`.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from vlpipe import layers

plain = keras.layers
LENGTHS = [7, 3, 12, 1, 7, 30, 5, 12, 2, 9, 4, 7, 21]
CLASSES = 3


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records with a class, and a class for each frame; in two shards, so that the order of the files is not that of the records."""
    rng = np.random.default_rng(0)
    records = [
        {
            "features": rng.normal(size=(t, 4)).astype("float32"),
            "label": int(rng.integers(CLASSES)),
            "phones": rng.integers(0, CLASSES, t).astype("int32"),
            "halves": rng.integers(0, CLASSES, -(-t // 2)).astype("int32"),
            "target": rng.normal(size=3).astype("float32"),
        }
        for t in LENGTHS
    ]
    path = tmp_path_factory.mktemp("data") / "test"
    schema = vlpipe.Schema(
        features=vlpipe.Sequence(4),
        label=vlpipe.Fixed((), "int64"),
        phones=vlpipe.Sequence((), "int32"),
        halves=vlpipe.Sequence((), "int32"),
        target=vlpipe.Fixed((3,), "float32"),
    )
    vlpipe.write(path, records, schema, num_shards=2)
    return path


def records_of(source: Path) -> list[dict[str, np.ndarray]]:
    """The records in the order of the index, read one by one."""
    return list(vlpipe.open(source))


def scorer() -> keras.Model:
    """One answer a record, which padding would change."""
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [keras.Input((None, 4)), plain.Conv1D(5, 3, padding="same", activation="relu"), plain.GlobalMaxPooling1D(), plain.Dense(CLASSES)]
    )


def tagger(strides: int = 1) -> keras.Model:
    """One answer a frame, or for each two."""
    keras.utils.set_random_seed(2)
    x = keras.Input((None, 4))
    hidden = plain.Conv1D(5, 3, padding="same", strides=strides, activation="relu")(x)
    return keras.Model(x, plain.Dense(CLASSES)(plain.Conv1D(5, 3, padding="same")(hidden)))


def both() -> keras.Model:
    """A dict of both."""
    keras.utils.set_random_seed(3)
    x = keras.Input((None, 4))
    hidden = plain.Conv1D(5, 3, padding="same", activation="relu")(x)
    outputs = {"phones": plain.Dense(CLASSES, name="phones")(hidden)}
    outputs["label"] = plain.Dense(CLASSES, name="label")(plain.GlobalMaxPooling1D()(hidden))
    return keras.Model(x, outputs)


class Own(keras.Model):
    """A model with a call of its own, which cannot be inspected."""

    def __init__(self) -> None:
        super().__init__()
        keras.utils.set_random_seed(4)
        self.convolution = plain.Conv1D(CLASSES, 3, padding="same")

    def call(self, x: Any) -> Any:
        return self.convolution(x)


def alone(model: keras.Model, source: Path) -> list[Any]:
    """The answers of a plain model for each record alone."""
    answers = [model(record["features"][None]) for record in records_of(source)]
    return [keras.tree.map_structure(lambda y: keras.ops.convert_to_numpy(y)[0], y) for y in answers]


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    logits = logits.astype(np.float64)
    return np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, labels[..., None].astype(int), -1)[..., 0]


BATCHINGS: list[dict[str, Any]] = [
    {},
    {"batching": "bucket", "batch_size": 3},
    {"batching": "pad", "batch_size": 4},
    {"batching": "bucket", "pad_to": "boundary", "buckets": [8, 16, 32], "engine": "graph"},
    {"batching": "same_length", "engine": "stream"},
    {"frames_per_batch": 40},
]


ANSWERS = [
    *((make, {}) for make in (scorer, tagger, lambda: tagger(2), both)),
    *((tagger, arguments) for arguments in BATCHINGS[1:]),
    *((make, BATCHINGS[2]) for make in (scorer, lambda: tagger(2), both)),
]


@pytest.mark.parametrize(("make", "arguments"), ANSWERS)
def test_answers_are_those_of_each_record_alone_in_the_order_of_the_index(source: Path, make: Any, arguments: dict[str, Any]) -> None:
    model = make()
    answers = vlpipe.predict(layers.mask_aware(model), source, **arguments)
    parts = answers if isinstance(answers, dict) else {"": answers}
    for name, part in parts.items():
        assert part.ids.tolist() == list(range(len(LENGTHS)))
        for got, expected in zip(part, alone(model, source), strict=True):
            expected = expected[name] if name else expected
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [scorer, tagger, lambda: tagger(2), both, Own])
def test_a_plain_model_is_not_given_padding_unless_the_user_asks_for_it(source: Path, make: Any) -> None:
    model = make()
    expected = alone(model, source)
    answers = vlpipe.predict(model, source, batch_size=5)
    parts = answers if isinstance(answers, dict) else {"": answers}
    for name, part in parts.items():
        assert isinstance(part, np.ndarray if name == "label" or make is scorer else list)
        for got, one in zip(part, expected, strict=True):
            np.testing.assert_allclose(got, one[name] if name else one, rtol=1e-4, atol=1e-5)


def test_of_records_outside_of_the_range_no_answer_comes_and_the_ids_say_which(source: Path) -> None:
    model = tagger()
    answers = vlpipe.predict(model, source, length_range=(3, 12), out_of_range="drop", lengths=True, ids=True)
    kept = [row for row, record in enumerate(records_of(source)) if 3 <= len(record["features"]) <= 12]
    assert answers.ids.tolist() == kept
    for got, row in zip(answers, kept, strict=True):
        np.testing.assert_allclose(got, alone(model, source)[row], rtol=1e-4, atol=1e-5)


def test_answers_for_no_records(tmp_path: Path) -> None:
    vlpipe.write(tmp_path / "none", [], vlpipe.Schema(features=vlpipe.Sequence(4)))
    scores, answers = vlpipe.predict(scorer(), tmp_path / "none"), vlpipe.predict(tagger(), tmp_path / "none")
    assert (scores.shape, answers, scores.ids.shape, answers.ids.shape) == ((0, CLASSES), [], (0,), (0,))
    assert set(vlpipe.predict(both(), tmp_path / "none")) == {"label", "phones"}
    assert vlpipe.predict(Own(), tmp_path / "none").shape == (0,)
    model = scorer()
    model.compile(loss="mse")
    with pytest.raises(vlpipe.ArgumentError, match="there is no record, or none has a frame"):
        vlpipe.evaluate(model, tmp_path / "none")


def test_two_sources_are_answered_one_after_the_other(source: Path, tmp_path: Path) -> None:
    model = tagger()
    shutil.copytree(source, tmp_path / "again")
    answers = vlpipe.predict(model, [source, tmp_path / "again"])
    assert answers.ids.tolist() == list(range(2 * len(LENGTHS)))
    for got, expected in zip(answers, 2 * alone(model, source), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def reference(model: keras.Model, source: Path) -> dict[str, float]:
    """The mean loss and accuracy over all frames or records."""
    losses, hits = [], []
    for record, answers in zip(records_of(source), alone(model, source), strict=True):
        label = record["label" if answers.ndim == 1 else "phones" if len(answers) == len(record["features"]) else "halves"]
        losses.append(np.atleast_1d(cross_entropy(answers, np.asarray(label))))
        hits.append(np.atleast_1d(answers.argmax(-1) == label))
    return {"loss": np.concatenate(losses).mean(), "accuracy": np.concatenate(hits).mean()}


def compiled(model: keras.Model, **arguments: Any) -> keras.Model:
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"], **arguments)
    return model


CASES = [(scorer, "label"), (tagger, "phones"), (lambda: tagger(2), "halves")]


LOSSES = [
    *((*case, arguments) for case in CASES for arguments in (BATCHINGS[0], BATCHINGS[2])),
    *((*CASES[1], arguments) for arguments in (*BATCHINGS[3:], {"label_padding": 0, "batch_size": 4})),
    (*CASES[2], BATCHINGS[1]),
]


@pytest.mark.parametrize(("make", "label", "arguments"), LOSSES)
def test_loss_and_metrics_are_those_of_real_frames_and_rows(source: Path, make: Any, label: str, arguments: dict[str, Any]) -> None:
    model = make()
    expected = reference(model, source)
    results = vlpipe.evaluate(compiled(layers.mask_aware(model)), source, label=label, **arguments)
    assert results == pytest.approx(expected, rel=1e-5)
    if not arguments.keys() & {"batching", "pad_to"}:
        assert vlpipe.evaluate(compiled(make()), source, label=label, **arguments) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("make", "label"), CASES)
@pytest.mark.parametrize("arguments", [{"batch_size": 5}, {"batching": "pad", "batch_size": 8, "remainder": "pad"}])
def test_a_dataset_is_evaluated_without_its_padding_and_its_repeated_rows(
    source: Path, make: Any, label: str, arguments: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    model = make()
    dataset = vlpipe.make_dataset(source, label=label, lengths=True, ids=True, seed=1, **arguments)
    assert vlpipe.evaluate(compiled(layers.mask_aware(model)), dataset) == pytest.approx(reference(model, source), rel=1e-5)
    assert ("its repeated rows of weight 0 are left out" in caplog.text) == ("remainder" in arguments)


def test_keras_own_evaluation_of_repeated_rows_is_warned_of_once(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    layers.model.warn_of_repeated_rows.cache_clear()
    model = compiled(layers.mask_aware(scorer()))
    for remainder in ("keep", "pad", "pad"):
        model.evaluate(vlpipe.make_dataset(source, label="label", lengths=True, remainder=remainder), verbose=0)
        assert caplog.text.count("Keras counts these in the denominator") == (remainder == "pad")


def test_several_outputs_each_with_its_own_number_of_units(source: Path) -> None:
    model = both()
    rows = list(zip(records_of(source), alone(model, source), strict=True))
    frames = np.concatenate([cross_entropy(answers["phones"], record["phones"]) for record, answers in rows])
    scores = np.array([cross_entropy(answers["label"], np.asarray(record["label"])) for record, answers in rows])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for names, weights in ((("phones", "label"), {"phones": 0.5, "label": 2.0}), (("label", "phones"), None)):
        aware = layers.mask_aware(model)
        aware.compile(loss=dict.fromkeys(names, loss), loss_weights=weights, metrics={"phones": ["accuracy"]})
        results = vlpipe.evaluate(aware, source, label=names, batch_size=4)
        wanted = {"phones_loss": frames.mean(), "label_loss": scores.mean()}
        wanted["loss"] = sum((weights or {}).get(name, 1.0) * wanted[f"{name}_loss"] for name in names)
        hits = np.concatenate([answers["phones"].argmax(-1) == record["phones"] for record, answers in rows])
        assert results == pytest.approx({**wanted, "phones_accuracy": hits.mean()}, rel=1e-5)


def test_outputs_in_a_list_and_labels_by_name(source: Path) -> None:
    parts = both()
    model = keras.Model(parts.inputs, [parts.output["phones"], parts.output["label"]])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    parts.compile(loss={"phones": loss, "label": loss})
    model.compile(loss=[loss, loss])
    expected = vlpipe.evaluate(parts, source, label=("label", "phones"))
    assert vlpipe.evaluate(model, source, label=("label", "phones")) == pytest.approx(expected, rel=1e-6)
    answers = vlpipe.predict(model, source)
    assert [type(part).__name__ for part in answers] == ["RecordList", "RecordArray"]


def test_metrics_that_are_no_means_and_losses_of_other_reductions(source: Path) -> None:
    model = scorer()
    answers, targets = np.stack(alone(model, source)), np.stack([record["target"] for record in records_of(source)])
    squares = (answers - targets) ** 2
    for reduction, expected in (("sum", squares.mean(1).sum()), ("sum_over_batch_size", squares.mean())):
        loss = keras.losses.MeanSquaredError(reduction=reduction)
        model.compile(loss=loss, metrics=[keras.metrics.RootMeanSquaredError(), keras.metrics.R2Score()])
        results = vlpipe.evaluate(model, source, label="target")
        r2 = 1 - squares.sum(0) / ((targets - targets.mean(0)) ** 2).sum(0)
        assert results["loss"] == pytest.approx(expected, rel=1e-5)
        assert results["root_mean_squared_error"] == pytest.approx(np.sqrt(squares.mean()), rel=1e-5)
        assert results["r2_score"] == pytest.approx(r2.mean(), rel=1e-4)


def test_answers_without_a_last_axis_and_a_loss_that_takes_the_mean_itself(source: Path) -> None:
    model = tagger()
    flat = keras.Model(model.inputs[0], plain.Reshape((-1,))(plain.Dense(1)(model.output)))
    rows = [(record["phones"], answers) for record, answers in zip(records_of(source), alone(flat, source), strict=True)]
    expected = np.concatenate([(label - answers) ** 2 for label, answers in rows]).mean()
    flat.compile(loss=lambda y, y_pred: keras.ops.mean(keras.ops.square(y - y_pred)), metrics=["mse"])
    results = vlpipe.evaluate(flat, source, label="phones")
    assert [results["loss"], results["mse"]] == pytest.approx([expected] * 2, rel=1e-5)


def test_sample_weights_count_in_the_loss_and_in_weighted_metrics(source: Path) -> None:
    model = tagger()
    weights = np.array([0.5, 1.0, 3.0])
    rows = [(record["phones"], answers) for record, answers in zip(records_of(source), alone(model, source), strict=True)]
    of_frames = np.concatenate([weights[label] for label, _ in rows])
    losses = np.concatenate([cross_entropy(answers, label) for label, answers in rows])
    hits = np.concatenate([answers.argmax(-1) == label for label, answers in rows])
    aware = compiled(layers.mask_aware(model), weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="weighted")])
    dataset = vlpipe.make_dataset(source, label="phones", lengths=True, label_padding=0, batch_size=4)
    table = tf.constant(weights, tf.float32)
    results = vlpipe.evaluate(aware, dataset.map(lambda x, y: (x, y, tf.gather(table, y))))
    expected = {"loss": (of_frames * losses).mean(), "accuracy": hits.mean(), "weighted": (of_frames * hits).sum() / of_frames.sum()}
    assert results == pytest.approx(expected, rel=1e-5)


def test_labels_of_another_length_are_evaluated_record_by_record(source: Path) -> None:
    model = tagger()
    ctc = keras.losses.CTC()
    expected = []
    for record, answers in zip(records_of(source), alone(model, source), strict=True):
        expected.append(float(ctc(record["halves"][None], answers[None])))
    model.compile(loss=ctc)
    assert vlpipe.evaluate(model, source, label="halves") == pytest.approx({"loss": np.mean(expected)}, rel=1e-4)
    aware = layers.mask_aware(model)
    aware.compile(loss=ctc)
    assert vlpipe.evaluate(aware, source, label="halves", batch_size=4) == pytest.approx({"loss": np.mean(expected)}, rel=1e-4)


def test_regularization_is_part_of_the_loss(source: Path) -> None:
    model = scorer()
    without = vlpipe.evaluate(compiled(model), source, label="label")["loss"]
    kernel = model.layers[0].kernel
    kernel.regularizer = keras.regularizers.L2(0.1)
    expected = without + 0.1 * float((keras.ops.convert_to_numpy(kernel).astype(float) ** 2).sum())
    assert vlpipe.evaluate(compiled(model), source, label="label")["loss"] == pytest.approx(expected, rel=1e-5)


def test_predicting_with_ragged_batches_and_with_several_features(source: Path) -> None:
    model = tagger()
    inputs = {"features": keras.Input((None, 4), name="features"), "phones": keras.Input((None,), dtype="float32", name="phones")}
    two = keras.Model(inputs, plain.Concatenate()([model(inputs["features"]), plain.Reshape((-1, 1))(inputs["phones"])]))
    answers = vlpipe.predict(two, source, features=("features", "phones"))
    for got, record, expected in zip(answers, records_of(source), alone(model, source), strict=True):
        np.testing.assert_allclose(got[:, :CLASSES], expected, rtol=1e-4, atol=1e-5)
        assert got[:, CLASSES].tolist() == record["phones"].tolist()
    if keras.backend.backend() == "tensorflow":
        ragged = keras.Input((None, 4), ragged=True)
        whole = keras.Model(ragged, layers.mask_aware(model)(layers.ToPadded()(ragged)))
        for got, expected in zip(vlpipe.predict(whole, source, batching="ragged"), alone(model, source), strict=True):
            np.testing.assert_allclose(got[: len(expected)], expected, rtol=1e-4, atol=1e-5)


def test_a_transform_decides_about_the_frames_of_the_answers(source: Path) -> None:
    model = layers.mask_aware(tagger())
    thirds = vlpipe.Transform(lambda x: x[::3], frames=lambda t: -(-t // 3))
    answers = vlpipe.predict(model, source, transform=thirds, batch_size=4)
    for got, record in zip(answers, records_of(source), strict=True):
        x = record["features"][::3]
        expected = keras.ops.convert_to_numpy(model({"features": x[None], "lengths": np.array([len(x)])}))[0]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_rows_of_an_index_that_are_a_part_or_come_twice_keep_their_ids(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A selection keeps the ids of its whole; of copies of a record, each has its place."""
    import dataclasses

    from vlpipe.evaluation import batches
    from vlpipe.sources.open import open_anywhere

    rows = np.array([5, 2, 9, 2, 0, 12])
    index = open_anywhere(source)
    part = dataclasses.replace(index, rows=np.asarray(index.rows)[rows], ids=np.asarray(index.ids)[rows])
    monkeypatch.setattr(batches, "open_anywhere", lambda *_: part)
    model = tagger()
    answers = vlpipe.predict(layers.mask_aware(model), source, batch_size=2)
    assert answers.ids.tolist() == rows.tolist()
    for got, row in zip(answers, rows, strict=True):
        np.testing.assert_allclose(got, alone(model, source)[row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"shuffle": True},
            "shuffle: came as True, which predict and evaluate cannot follow: the order of the result is that",
        ),
        ({"repeat": True}, "each record is taken once, not again and again"),
        ({"resume": {}}, "each record is taken, from the first on"),
        ({"remainder": "pad"}, r'repeated rows \("pad"\) would count twice, left-out ones \("drop"\) not at all'),
        ({"remainder": "drop"}, "left-out ones"),
        ({"shard": (0, 2)}, "a rank would take only its own records: select them, or run on one rank"),
        ({"batch_sise": 2}, "unknown argument batch_sise"),
    ],
)
def test_arguments_that_contradict_every_record_once_are_refused(source: Path, arguments: dict[str, Any], message: str) -> None:
    model = compiled(scorer())
    for call in (vlpipe.predict, vlpipe.evaluate):
        with pytest.raises(vlpipe.ArgumentError, match=message):
            call(model, source, **arguments)
    vlpipe.predict(model, source, shuffle=False, shard=[0, 1], repeat=False, resume=None, remainder="keep")


def test_a_dataset_of_windows_is_evaluated_window_by_window(source: Path) -> None:
    """Windows of one length are not padded, so that they suit any model."""
    arguments: dict[str, Any] = {"windows": vlpipe.Windows(2, tail="drop"), "lengths": True, "shuffle": False, "batch_size": 3}
    model = compiled(scorer())
    figures = [vlpipe.evaluate(model, vlpipe.make_dataset(source, ids=ids, **arguments)) for ids in (False, True)]
    assert figures[0] == figures[1]


def test_what_cannot_be_predicted_is_refused_by_name(source: Path) -> None:
    with pytest.raises(vlpipe.ArgumentError, match="model: came as str, expected a Keras model"):
        vlpipe.predict("model.keras", source)
    with pytest.raises(vlpipe.ArgumentError, match="predict: came with a tf.data.Dataset, expected a source"):
        vlpipe.predict(scorer(), vlpipe.make_dataset(source))
    with pytest.raises(vlpipe.ArgumentError, match=r"are real cannot be known: its layers cannot be followed, and the batch is padded"):
        vlpipe.predict(Own(), source, batching="pad")
    with pytest.raises(vlpipe.ArgumentError, match=r"has one input, but the batches have the features \['features', 'phones'\]"):
        vlpipe.predict(scorer(), source, features=("features", "phones"))
    inputs = {"mel": keras.Input((None, 4), name="mel")}
    named = keras.Model(inputs, plain.Dense(2)(inputs["mel"]))
    with pytest.raises(vlpipe.ArgumentError, match=r'its input "mel" is not among the parts of a batch: \[\'features\''):
        vlpipe.predict(named, source)

    class Fixed(keras.Model):
        def call(self, x: Any) -> Any:
            raise TypeError("no symbols here")

    with pytest.raises(vlpipe.ArgumentError, match="the shape of its output cannot be known for sequences of any length"):
        vlpipe.predict(Fixed(), source)


def test_what_cannot_be_evaluated_is_refused_by_name(source: Path) -> None:
    model = compiled(tagger())
    with pytest.raises(vlpipe.ArgumentError, match='model "tagged" is not compiled'):
        vlpipe.evaluate(keras.Model(model.inputs[0], model.output, name="tagged"), source)
    with pytest.raises(vlpipe.ArgumentError, match="evaluate: batch_size, label came with a dataset, which is already made"):
        vlpipe.evaluate(model, vlpipe.make_dataset(source), label="phones", batch_size=3)
    with pytest.raises(vlpipe.ArgumentError, match="evaluate: the dataset never ends"):
        vlpipe.evaluate(model, vlpipe.make_dataset(source, repeat=True))
    with pytest.raises(vlpipe.ArgumentError, match="has one answer a frame, but the dataset delivers no lengths"):
        vlpipe.evaluate(model, vlpipe.make_dataset(source, label="phones"))
    with pytest.raises(vlpipe.ArgumentError, match="evaluate: there is no label, expected one for each output of the model"):
        vlpipe.evaluate(model, source, label=False)
    with pytest.raises(vlpipe.ArgumentError, match=r"the labels are \['phones', 'label'\], expected a single one, as the outputs of model"):
        vlpipe.evaluate(model, source, label=("phones", "label"))
    rows = {"features": np.ones((2, 4, 4), "float32"), "lengths": np.array([4, 4])}, np.zeros((2, 4), int)
    more = {"features": np.ones((2, 4, 4), "float32"), "lengths": np.array([4, 4])}, np.zeros((2, 3), int)
    uneven = tf.data.Dataset.from_tensors(rows).concatenate(tf.data.Dataset.from_tensors(more))
    with pytest.raises(vlpipe.ArgumentError, match="has 4 frames and its label 3 in one batch, but equally many in the batches before"):
        vlpipe.evaluate(model, uneven)

    class OwnLoss(keras.Sequential):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(*args, **kwargs)

    own = OwnLoss(scorer().layers)
    own.compile(loss="mse")
    with pytest.raises(vlpipe.ArgumentError, match="has its own compute_loss, which expects batches as they are padded"):
        vlpipe.evaluate(own, source)
    active = keras.Sequential([keras.Input((None, 4)), plain.Dense(CLASSES, activity_regularizer="l2"), plain.GlobalMaxPooling1D()])
    with pytest.raises(vlpipe.ArgumentError, match="add losses of their own .add_loss or activity_regularizer., over padded batches"):
        vlpipe.evaluate(compiled(active), source, label="label")


def test_padding_that_the_user_asked_for_is_warned_of(source: Path, caplog: pytest.LogCaptureFixture) -> None:
    vlpipe.predict(layers.mask_aware(tagger()), source, batching="bucket")
    assert "padding may change its answers" not in caplog.text
    answers = vlpipe.predict(tagger(), source, batching="pad", batch_size=4)
    assert "padding may change its answers" in caplog.text
    assert [len(y) for y in answers] == [len(record["features"]) for record in records_of(source)]


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_on_another_backend(backend: str) -> None:
    if importlib.util.find_spec(backend) is None or os.environ.get("KERAS_BACKEND") == backend:
        pytest.skip(f"{backend} is not installed, or these tests run on it")
    chosen = "arguments1 and (real_frames_and_rows or alone_in_the_order and lambda) or several_outputs"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--tb=short", __file__, "-k", chosen, "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, "KERAS_BACKEND": backend})
    assert done.returncode == 0, done.stdout[-3000:]


def test_under_a_strategy_of_two_replicas(source: Path) -> None:
    if keras.backend.backend() != "tensorflow":
        pytest.skip("strategies are TensorFlow's")
    script = f"""
import numpy as np, tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
import keras, vlpipe
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    model = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(3, 3, padding="same")])
    model.compile(loss="mse")
answers = vlpipe.predict(model, {str(source)!r}, label=False)
again = vlpipe.predict(keras.Sequential([keras.Input((None, 4)), *model.layers]), {str(source)!r})
assert len(answers) == {len(LENGTHS)} and all(np.allclose(a, b, atol=1e-6) for a, b in zip(answers, again))
print("once")
"""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=200, env=environment)
    assert done.stdout.strip() == "once", done.stderr[-3000:]


def test_windows_are_answered_one_by_one_and_stitch_to_the_records(source: Path) -> None:
    x = keras.Input((None, 4))
    framewise = keras.Model(x, plain.Dense(CLASSES)(x))
    for engine, jitter in (("mapped", False), ("graph", True)):
        windows = vlpipe.Windows(5, hop=2, jitter=jitter)
        answers = vlpipe.predict(framewise, source, windows=windows, batch_size=4, engine=engine, seed=1)
        for got, row, start in zip(answers, answers.ids.tolist(), answers.starts.tolist(), strict=True):
            features = records_of(source)[row]["features"]
            expected = keras.ops.convert_to_numpy(framewise(features[None]))[0][start : start + 5]
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        assert np.array_equal(np.lexsort((answers.starts, answers.ids)), np.arange(len(answers)))
        if not jitter:
            lengths = [len(record["features"]) for record in records_of(source)]
            stitched = vlpipe.stitch(answers, answers.ids, answers.starts, lengths=lengths, windows=windows)
            for got, expected in zip(stitched, alone(framewise, source), strict=True):
                np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(vlpipe.ArgumentError, match="windows: frames that several windows have would count several times in evaluate"):
        vlpipe.evaluate(compiled(framewise), source, label="phones", windows=5)


def test_labels_that_are_cut_with_the_frames_still_belong_to_them(source: Path) -> None:
    model = tagger()
    rows = [(record["phones"][:6], record["features"][:6]) for record in records_of(source)]
    answers = [keras.ops.convert_to_numpy(model(features[None]))[0] for _, features in rows]
    losses = np.concatenate([cross_entropy(y, label) for y, (label, _) in zip(answers, rows, strict=True)])
    hits = np.concatenate([y.argmax(-1) == label for y, (label, _) in zip(answers, rows, strict=True)])
    for arguments in ({}, {"engine": "graph"}, {"engine": "stream"}):
        results = vlpipe.evaluate(compiled(layers.mask_aware(model)), source, label="phones", crop=6, batch_size=4, **arguments)
        assert results == pytest.approx({"loss": losses.mean(), "accuracy": hits.mean()}, rel=1e-5)
