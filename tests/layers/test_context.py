"""`Windows.exact`: the stitched output of windows is that of the whole recording; models without a finite context are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

import vlpipe
from tests.layers.layers_tools import numpy
from vlpipe import Windows
from vlpipe.errors import ArgumentError
from vlpipe.layers import mask_aware
from vlpipe.layers.context import context_of

D = 3


def functional(body: Callable[[Any], Any]) -> Any:
    keras.utils.set_random_seed(1)
    x = keras.Input((None, D))
    return keras.Model(x, body(x))


def causal_tcn(x: Any) -> Any:
    for dilation in (1, 2, 4, 8):
        y = layers.Conv1D(8, 3, dilation_rate=dilation, padding="causal", activation="relu")(x)
        x = layers.Add()([layers.Conv1D(8, 1)(x), y])
    return layers.Dense(4)(x)


def residual(x: Any) -> Any:
    x = layers.Conv1D(8, 5, padding="same")(x)
    for dilation in (1, 3):
        y = layers.BatchNormalization()(layers.Conv1D(8, 4, dilation_rate=dilation, padding="same", activation="relu")(x))
        x = layers.Add()([x, y])
    return layers.Conv1D(4, 3, padding="same")(x)


def u_net(x: Any) -> Any:
    skips = []
    x = layers.Conv1D(6, 3, padding="same", activation="relu")(x)
    for _ in range(2):
        skips.append(x)
        x = layers.Conv1D(6, 3, padding="same", activation="relu")(layers.MaxPooling1D(2)(x))
    for skip in reversed(skips):
        x = layers.Concatenate()([layers.UpSampling1D(2)(x), skip])
        x = layers.Conv1D(6, 3, padding="same", activation="relu")(x)
    return layers.Conv1D(4, 1)(x)


def strided_u_net(x: Any) -> Any:
    y = layers.Conv1D(6, 4, strides=4, padding="same", activation="relu")(x)
    y = layers.Conv1DTranspose(6, 8, strides=4, padding="same")(layers.Conv1D(6, 3, padding="same")(y))
    return layers.Concatenate()([x, y])


def subsampling(x: Any) -> Any:
    x = layers.Conv1D(8, 5, strides=2, padding="same", activation="relu")(x)
    return layers.Conv1D(8, 4, strides=3, padding="same")(layers.AveragePooling1D(3, 1, padding="same")(x))


def valid(x: Any) -> Any:
    x = layers.Conv1D(8, 5, strides=2, activation="relu")(layers.ZeroPadding1D((3, 1))(x))
    return layers.Cropping1D((1, 2))(layers.SeparableConv1D(8, 4)(x))


def upsampled(x: Any) -> Any:
    return layers.Conv1D(4, 3, padding="same")(layers.Conv1DTranspose(4, 5, strides=2)(x))


BODIES = {body.__name__: body for body in (causal_tcn, residual, u_net, strided_u_net, subsampling, valid, upsampled)}
# Recordings that a model takes: whole multiples of its total stride where it merges branches of other strides or aligns to the end.
UNITS = {"u_net": 4, "strided_u_net": 4, "subsampling": 6}


def stitched(model: Any, records: list[np.ndarray], windows: Windows, **arguments: Any) -> list[np.ndarray]:
    found = windows.places(np.array([len(record) for record in records]))
    outputs: dict[int, Any] = {}
    for count in np.unique(found.frames):
        rows = np.flatnonzero(found.frames == count)
        cut = [records[number][first : first + count] for number, first in zip(found.records[rows], found.firsts[rows], strict=True)]
        outputs |= dict(zip(rows.tolist(), numpy(model(np.stack(cut))), strict=True))
    return vlpipe.stitch(
        [outputs[row] for row in sorted(outputs)], found.records, found.firsts, lengths=found.frames, windows=windows, **arguments
    )


def difference(ours: list[np.ndarray], model: Any, records: list[np.ndarray]) -> float:
    whole = [keras.ops.convert_to_numpy(model(record[None]))[0] for record in records]
    assert [y.shape for y in ours] == [y.shape for y in whole]
    return max(float(np.abs(one - other).max()) for one, other in zip(ours, whole, strict=True))


@pytest.mark.parametrize("name", sorted(BODIES))
def test_stitched_is_whole(name: str) -> None:
    model, unit = functional(BODIES[name]), UNITS.get(name, 1)
    random = np.random.default_rng(3)
    context = context_of(model, "test")
    least = (-(-(context.before + context.after) // context.alignment) + 1) * context.alignment
    with pytest.raises(ArgumentError, match=f"Windows.exact: frames came as {least - 1}, but an output frame .* Pass at least {least}"):
        Windows.exact(model, least - 1)
    for frames in (least, 121):
        windows = Windows.exact(model, frames)
        lengths = [30, 60, windows.frames, windows.frames + unit, 3 * windows.frames - unit, int(random.integers(60, 400))]
        records = [random.normal(size=(max(length // unit, 12 // unit) * unit, D)).astype(np.float32) for length in lengths]
        assert difference(stitched(model, records, windows), model, records) < 1e-5, frames


def test_plain_overlapping_windows_are_worse() -> None:
    """Half as long a hop, averaged with Hann weights, is off by a large part of the output; exact windows by rounding errors."""
    records = [np.random.default_rng(0).normal(size=(600, D)).astype(np.float32)]
    for name in ("causal_tcn", "residual", "u_net"):
        model = functional(BODIES[name])
        plain = difference(stitched(model, records, Windows(120, 60), weights="hann"), model, records)
        exact = difference(stitched(model, records, Windows.exact(model, 120)), model, records)
        print(f"{name}: plain {plain:.2e}, exact {exact:.2e}")
        assert exact < 1e-5 < 1e-3 < plain


def test_context_is_no_larger_than_needed() -> None:
    causal, same = (context_of(functional(body), "test") for body in (causal_tcn, residual))
    assert (causal.before, causal.after, causal.alignment) == (30, 0, 1)
    assert (same.before, same.after, same.alignment) == (2 + 1 + 4 + 1, 2 + 2 + 5 + 1, 1)
    assert context_of(functional(u_net), "test").alignment == 4


def test_from_dataset_to_the_output_of_each_record(tmp_path: Path) -> None:
    model = mask_aware(functional(residual))
    records = [np.random.default_rng(n).normal(size=(n, D)).astype(np.float32) for n in (20, 64, 65, 300)]
    vlpipe.write(tmp_path / "data", [{"features": x} for x in records])
    windows = Windows.exact(model, 64)
    for remainder in ("keep", "pad"):
        dataset = vlpipe.make_dataset(
            tmp_path / "data", windows=windows, lengths=True, ids=True, batch_size=3, remainder=remainder, normalize=None
        )
        parts: dict[str, list[Any]] = {"y": [], "id": [], "start": [], "lengths": []}
        for x, *_ in dataset:
            parts["y"] += list(keras.ops.convert_to_numpy(model({"features": x["features"], "lengths": x["lengths"]})))
            for name in ("id", "start", "lengths"):
                parts[name] += x[name].numpy().tolist()
        for lengths in (parts["lengths"], [len(x) for x in records]):
            ours = vlpipe.stitch(parts["y"], parts["id"], parts["start"], lengths=lengths, windows=windows)
            assert difference(ours, functional(residual), records) < 1e-5
    kept = [k for k, (number, start) in enumerate(zip(parts["id"], parts["start"], strict=True)) if (number, start) != (3, windows.hop)]
    some = {name: [values[k] for k in kept] for name, values in parts.items()}
    with pytest.raises(ArgumentError, match="stitch: the record with id 3 has no window with the context of output frame 5"):
        vlpipe.stitch(some["y"], some["id"], some["start"], lengths=some["lengths"], windows=windows)


def test_outputs_of_other_windows_are_refused() -> None:
    """One frame less, one frame later: not what the model makes of these windows."""
    model = functional(valid)
    windows = Windows.exact(model, 60)
    places = windows.places(np.array([200]))
    counts = context_of(model, "test").counts(places.frames)
    outputs = [np.zeros((count, 8), np.float32) for count in counts.tolist()]
    ids, starts = places.records, places.firsts
    (whole,) = vlpipe.stitch(outputs, ids, starts, lengths={0: 200}, windows=windows)
    assert (
        whole.shape == keras.ops.convert_to_numpy(model(np.zeros((1, 200, D), np.float32)))[0].shape
    )  # fewer than 200 / 2: those of the model
    short = [output[:-1] for output in outputs]
    with pytest.raises(
        ArgumentError, match=f"window 0 has {counts[0] - 1} frames; of a window of 60 frames the model of Windows.exact makes"
    ):
        vlpipe.stitch(short, ids, starts, lengths={0: 200}, windows=windows)
    with pytest.raises(ArgumentError, match="stitch: window 0 starts at frame 1, no multiple of 2"):
        vlpipe.stitch(outputs, ids, starts + 1, lengths={0: 201}, windows=windows)


def pooled_gate(x: Any) -> Any:
    return layers.Multiply()([x, layers.Dense(D)(layers.GlobalAveragePooling1D()(x))])


def nested(x: Any) -> Any:
    return keras.Sequential([keras.Input((None, D)), layers.LSTM(4, return_sequences=True)], name="inner")(x)


def unknown(x: Any) -> Any:
    return layers.Lambda(lambda y: keras.ops.cumsum(y, axis=1), name="running")(x)


class Decay(keras.layers.Layer):
    """Each frame is that of the input plus a share of the one before, with a weight that only this layer knows how to use."""

    def build(self, shape: Any) -> None:
        self.share = [self.add_weight(shape=(), initializer="ones", name="share")]

    def call(self, inputs: Any) -> Any:
        return inputs + self.share[0] * keras.ops.pad(inputs[:, :-1], [[0, 0], [1, 0], [0, 0]])


REFUSED: dict[str, tuple[Callable[[Any], Any], str]] = {
    "lstm": (lambda x: layers.LSTM(4, return_sequences=True, name="memory")(x), r'"memory" \(LSTM\) carries a state through all frames'),
    "bidirectional": (lambda x: layers.Bidirectional(layers.GRU(4, return_sequences=True))(x), "carries a state through all frames"),
    "attention": (lambda x: layers.MultiHeadAttention(1, 4, name="look")(x, x), r'"look" \(MultiHeadAttention\) attends to all frames'),
    "gate": (pooled_gate, r"\(GlobalAveragePooling1D\) reduces all frames to one"),
    "group": (lambda x: layers.GroupNormalization(1)(x), "normalizes over all frames"),
    "softmax": (lambda x: layers.Softmax(axis=1)(x), "normalizes over all frames"),
    "lambda": (unknown, r'"running/cumsum.*" \(Cumsum\) accumulates all frames before'),
    "user": (lambda x: Decay(name="decay")(x), r'"decay" \(Decay\) accumulates frames'),
    "last frames": (lambda x: x[:, -5:], r"\(GetItem\) counts frames from the last one"),
    "norm": (lambda x: keras.ops.normalize(x, axis=1), r"\(Normalize\) looks at all frames"),
    "nested": (
        lambda x: keras.Sequential([keras.Input((None, D)), layers.LSTM(4, return_sequences=True)], name="inner")(x),
        r'"inner/lstm',
    ),
}


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_models_that_look_at_all_frames_are_refused_by_name(name: str) -> None:
    body, text = REFUSED[name]
    with pytest.raises(ArgumentError, match=f"Windows.exact: .*{text}"):
        Windows.exact(functional(body), 100)


def test_other_refusals(tmp_path: Path) -> None:
    class Mixed(vlpipe.layers.MaskAware, layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any, mask: Any = None) -> Any:
            return inputs

    with pytest.raises(ArgumentError, match=r"\(Mixed\) does not say how far it looks: it has no method `reach` of its own"):
        Windows.exact(functional(lambda x: Mixed()(x)), 100)
    x = keras.Input((None, D))
    two = keras.Model(x, [layers.Conv1D(2, 1)(x), layers.MaxPooling1D(2)(x)])
    with pytest.raises(ArgumentError, match=r"Windows.exact: the model has outputs of different strides. Expected \[batch, frames"):
        Windows.exact(two, 100)
    tokens = keras.Input((4,))
    with pytest.raises(ArgumentError, match=r"Windows.exact: the model has no output with frames; \"flat\" gives one vector a sequence"):
        Windows.exact(keras.Model(tokens, layers.Dense(2)(tokens), name="flat"), 100)
    vlpipe.write(tmp_path / "data", [{"features": np.zeros((length, D), np.float32)} for length in (12, 121, 120)])
    with pytest.raises(ArgumentError, match=r"windows: 1 records have lengths such as 121, no multiple of 6; .* strides of \"conv1d"):
        vlpipe.plan(tmp_path / "data", windows=Windows.exact(functional(subsampling), 60))
