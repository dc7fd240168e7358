"""The way out that each error of `predict` and `evaluate` names, run; every ArgumentError of `vlpipe.evaluation` has its row here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import vlpipe
from tests.evaluation.test_evaluation import CLASSES, LENGTHS, Own, alone, compiled, cross_entropy, records_of, scorer, source, tagger  # noqa: F401
from tests.test_messages import known_messages, occurs, words
from vlpipe import layers

plain = keras.layers
PHONES = {"label": "phones"}
numpy = keras.ops.convert_to_numpy


class Cut(layers.MaskAware, plain.Layer):
    """Loses a frame, and does not say so."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return inputs[:, 1:]


class Counted(Cut):
    def output_frames(self, frames: Any) -> Any:
        return frames - 1


class OneRow(keras.Model):
    def call(self, x: Any) -> Any:
        return keras.ops.max(x, axis=(0, 1), keepdims=True)[0]


class Unknown(Own):
    """Its shapes cannot be known."""

    def call(self, x: Any) -> Any:
        return keras.ops.convert_to_tensor(numpy(super().call(x)))


class Told(Unknown):
    def compute_output_spec(self, x: Any, *_: Any, **__: Any) -> Any:
        return keras.KerasTensor((*x.shape[:2], CLASSES))


class OwnLoss(keras.Sequential):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


def sequential(*parts: Any, width: int = 4) -> keras.Model:
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((None, width)), *parts])


def active() -> keras.Model:
    return compiled(sequential(plain.Dense(CLASSES, activity_regularizer="l2"), plain.GlobalMaxPooling1D()))


def named(name: str) -> keras.Model:
    inputs = {name: keras.Input((None, 4), name=name)}
    return keras.Model(inputs, plain.Dense(2)(inputs[name]))


def uneven(data: Path) -> tf.data.Dataset:
    """Two batches: in the first, as many labels as frames, in the second fewer."""
    x = {"features": np.ones((2, 4, 4), "float32"), "lengths": np.array([4, 4])}
    parts = [tf.data.Dataset.from_tensors((x, np.zeros((2, n), int))) for n in (4, 3)]
    return parts[0].concatenate(parts[1])


def with_an_empty_record(data: Path) -> Path:
    vlpipe.write(data.parent / "empty", [{"features": np.zeros((0, 4), "float32")}], vlpipe.Schema(features=vlpipe.Sequence(4)))
    return data.parent / "empty"


def ragged() -> keras.Model:
    inputs = keras.Input((None, 4), ragged=True)
    return keras.Model(inputs, layers.mask_aware(tagger())(layers.ToPadded()(inputs)))


def predicted(model: keras.Model, data: Path, expected: Any = None, **arguments: Any) -> tuple[list[Any], list[Any]]:
    """The answers of `predict`, and those of a model for each record alone."""
    return list(vlpipe.predict(model, data, **arguments)), alone(expected or model, data)


def loss_of(model: keras.Model, data: Path, label: str, dataset: Any = None, **arguments: Any) -> tuple[Any, Any]:
    """The loss of `evaluate`, and the mean over the frames or records of those that the model has alone."""
    losses = [np.atleast_1d(cross_entropy(y, record[label])) for y, record in zip(alone(model, data), records_of(data), strict=True)]
    figures = vlpipe.evaluate(model, data, label=label, **arguments) if dataset is None else vlpipe.evaluate(model, dataset)
    return [figures["loss"]], [np.concatenate(losses).mean()]


def of_its_answers(model: keras.Model, data: Path) -> tuple[Any, Any]:
    """The loss as computed from `predict`: as `evaluate` gives it for the same layers in a plain model."""
    usual = compiled(keras.Sequential([keras.Input((None, 4)), *model.layers]))
    for layer in usual.layers:
        layer.activity_regularizer = None
    labels = np.array([record["label"] for record in records_of(data)])
    return [cross_entropy(vlpipe.predict(model, data), labels).mean()], [vlpipe.evaluate(usual, data, label="label")["loss"]]


def of_a_file(data: Path) -> tuple[Any, Any]:
    scorer().save(data.parent / "scorer.keras")
    return predicted(keras.saving.load_model(data.parent / "scorer.keras"), data, scorer())


def of_stitched(data: Path) -> tuple[Any, Any]:
    """The loss of stitched windows of a model that treats each frame alone, and that of `evaluate`."""
    model, windows = compiled(sequential(plain.Dense(CLASSES))), vlpipe.Windows(5, hop=2)
    answers, records = vlpipe.predict(model, data, windows=windows), records_of(data)
    lengths = [len(record["features"]) for record in records]
    frames = vlpipe.stitch(answers, answers.ids, answers.starts, lengths=lengths, windows=windows, weights="mean")
    labels = np.concatenate([record["phones"] for record in records])
    return [cross_entropy(np.concatenate(frames), labels).mean()], [vlpipe.evaluate(model, data, **PHONES)["loss"]]


# Words of the error: what raises it, and what its advice says to do instead: what comes of that, and what has to.
ADVICE: dict[str, tuple[Any, Any]] = {
    "Pass the source and the arguments of make_dataset": (
        lambda data: vlpipe.predict(scorer(), vlpipe.make_dataset(data)),
        lambda data: predicted(scorer(), data, batch_size=3),
    ),
    "which predict and evaluate cannot follow": (
        lambda data: vlpipe.predict(scorer(), data, shuffle=True),
        lambda data: predicted(scorer(), data),
    ),
    "Make it with repeat=False, or pass dataset.take(steps)": (
        lambda data: vlpipe.evaluate(compiled(scorer()), vlpipe.make_dataset(data, label="label", repeat=True)),
        lambda data: loss_of(
            compiled(scorer()),
            data,
            "label",
            vlpipe.make_dataset(data, label="label", batching="same_length", batch_size=1, shuffle=False, repeat=True).take(len(LENGTHS)),
        ),
    ),
    "came with a dataset, which is already made. Pass its source": (
        lambda data: vlpipe.evaluate(compiled(tagger()), vlpipe.make_dataset(data), batch_size=3),
        lambda data: loss_of(compiled(tagger()), data, "phones", batch_size=3),
    ),
    "Leave windows out, or use vlpipe.predict, vlpipe.stitch": (
        lambda data: vlpipe.evaluate(compiled(tagger()), data, windows=5, **PHONES),
        of_stitched,
    ),
    "Pass another source or length_range": (
        lambda data: vlpipe.evaluate(compiled(scorer()), data, label="label", length_range=(100, None), out_of_range="drop"),
        lambda data: loss_of(compiled(scorer()), data, "label", length_range=(1, None)),
    ),
    "is not compiled. Call ": (
        lambda data: vlpipe.evaluate(scorer(), data),
        lambda data: loss_of(compiled(scorer()), data, "label"),
    ),
    "Use vlpipe.predict, and compute from its answers": (
        lambda data: vlpipe.evaluate(compiled(OwnLoss([keras.Input((None, 4)), *scorer().layers])), data),
        lambda data: of_its_answers(OwnLoss([keras.Input((None, 4)), *scorer().layers]), data),
    ),
    "Pass the label that belongs to each output": (
        lambda data: vlpipe.evaluate(compiled(scorer()), data, label="target"),
        lambda data: loss_of(compiled(scorer()), data, "label"),
    ),
    "Use vlpipe.predict, and compute the loss from its answers": (
        lambda data: vlpipe.evaluate(active(), data, label="label"),
        lambda data: of_its_answers(active(), data),
    ),
    "there is no label, expected one for each output": (
        lambda data: vlpipe.evaluate(compiled(tagger()), data, label=False),
        lambda data: loss_of(compiled(tagger()), data, "phones"),
    ),
    "Pass the source, whose index has all lengths": (
        lambda data: vlpipe.evaluate(compiled(tagger()), uneven(data)),
        lambda data: loss_of(compiled(tagger()), data, "phones"),
    ),
    "as the outputs of model * Name them: label=": (
        lambda data: vlpipe.evaluate(compiled(tagger()), data, label=("phones", "label")),
        lambda data: loss_of(compiled(tagger()), data, "phones"),
    ),
    "Load one from a file with": (lambda data: vlpipe.predict("model.keras", data), of_a_file),
    "Build it with stateful=False": (
        lambda data: vlpipe.predict(keras.Sequential([keras.Input((None, 4), batch_size=1), plain.LSTM(3, stateful=True)]), data),
        lambda data: predicted(sequential(plain.LSTM(3, stateful=False)), data),
    ),
    "Name one: features=": (
        lambda data: vlpipe.predict(scorer(), data, features=("features", "phones")),
        lambda data: predicted(scorer(), data, features="features"),
    ),
    "Name the inputs of the model as make_dataset names these": (
        lambda data: vlpipe.predict(named("mel"), data),
        lambda data: ([len(y) for y in vlpipe.predict(named("features"), data)], [len(r["features"]) for r in records_of(data)]),
    ),
    "Pass what the model was trained with: the same features, transform= and layout": (
        lambda data: vlpipe.predict(sequential(plain.Dense(3), width=5), data),
        lambda data: predicted(sequential(plain.Dense(3)), data),
    ),
    "leave records that are too short out": (
        lambda data: vlpipe.predict(sequential(plain.LSTM(3)), with_an_empty_record(data), length_range=(0, None)),
        lambda data: predicted(sequential(plain.LSTM(3)), data, length_range=(1, None)),
    ),
    "Do not reduce the batch axis": (
        lambda data: vlpipe.predict(OneRow(), data),
        lambda data: predicted(sequential(plain.GlobalMaxPooling1D()), data),
    ),
    "begin the model with keras.Input(..., ragged=True) and vlpipe.layers.ToPadded": (
        lambda data: vlpipe.predict(tagger(), data, batching="ragged"),
        lambda data: predicted(ragged(), data, tagger(), batching="ragged"),
    ),
    "Correct the layer that answers with another number": (
        lambda data: vlpipe.predict(sequential(Cut()), data),
        lambda data: predicted(sequential(Counted()), data),
    ),
    "Make it with lengths=True, or pass the source": (
        lambda data: vlpipe.evaluate(compiled(tagger()), vlpipe.make_dataset(data, **PHONES)),
        lambda data: loss_of(
            compiled(sequential(plain.Dense(CLASSES))),
            data,
            "phones",
            vlpipe.make_dataset(data, batch_size=4, lengths=True, **PHONES),
        ),
    ),
    'Pass batching="same_length", which pads nothing': (
        lambda data: vlpipe.predict(Own(), data, batching="pad"),
        lambda data: predicted(Own(), data, batching="same_length"),
    ),
    "Define compute_output_spec, or build the model from": (
        lambda data: vlpipe.predict(Unknown(), data),
        lambda data: predicted(run_eagerly(Told()), data),
    ),
}


def run_eagerly(model: keras.Model) -> keras.Model:
    model.compile(run_eagerly=True)
    return model


@pytest.mark.parametrize("text", ADVICE)
def test_the_advice_of_an_error_works(text: str, source: Path) -> None:  # noqa: F811
    if "ragged" in text and keras.backend.backend() != "tensorflow":
        pytest.skip("no other backend has ragged tensors")
    mistake, advice = ADVICE[text]
    with pytest.raises(vlpipe.ArgumentError, match=re.escape(text).replace(r"\*", ".*")):
        mistake(source)
    got, want = advice(source)
    for mine, expected in zip(got, want, strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-5)


def test_every_error_has_its_advice_here() -> None:
    known = [words(text).split() for text in ADVICE]
    found = {place: texts for place, texts in known_messages()[0].items() if place.startswith("vlpipe/evaluation/")}
    assert len(found) > 20
    assert [texts for texts in found.values() if not any(occurs(some, text) for some in known for text in texts)] == []
