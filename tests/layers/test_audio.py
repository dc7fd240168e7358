"""`LogMel` and `MFCC` in a model: each waveform has the features that NumPy computes of it alone, whatever the padding."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as plain

import vlpipe
from tests.layers.layers_tools import numpy
from vlpipe import ArgumentError, layers

LENGTHS = [2000, 0, 1, 199, 200, 201, 1234]
SETTINGS: dict[str, Any] = {"sample_rate": 8000, "mels": 20}


def batch_of(lengths: list[int], frames: int, padding: float = np.nan) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    random = np.random.default_rng(0)
    waveforms = [(random.normal(size=n) * 0.1).astype("float32") for n in lengths]
    x = np.full((len(lengths), frames, 1), padding, "float32")
    for row, waveform in enumerate(waveforms):
        x[row, : len(waveform), 0] = waveform
    return {"features": x, "lengths": np.array(lengths, "int32")}, waveforms


@pytest.mark.parametrize("kind", ["LogMel", "MFCC"])
@pytest.mark.parametrize("extra", [0, 1, 777])
def test_the_features_are_those_of_each_waveform_alone(kind: str, extra: int) -> None:
    batch, waveforms = batch_of(LENGTHS, max(LENGTHS) + extra)
    x = layers.LengthMask()(batch)
    layer = getattr(layers, kind)(**SETTINGS)
    features = getattr(vlpipe.audio, kind)(**SETTINGS)
    y, mask = numpy(layer(x)), numpy(keras.src.backend.get_keras_mask(layer(x)))
    assert y.shape == layer.compute_output_shape(batch["features"].shape)
    for row, waveform in enumerate(waveforms):
        should = features(waveform)
        assert mask[row].tolist() == [frame < len(should) for frame in range(y.shape[1])]
        np.testing.assert_allclose(y[row, : len(should)], should, rtol=1e-4, atol=2e-4)
        assert not y[row, len(should) :].any()
        assert layer.output_frames(len(waveform)) == len(should)
    assert layer.output_frames(np.array(LENGTHS)).tolist() == [len(features(waveform)) for waveform in waveforms]
    alone = numpy(getattr(layers, kind)(**SETTINGS)(batch["features"][:1, :2000]))  # without a mask
    np.testing.assert_allclose(alone[0], features(waveforms[0]), rtol=1e-4, atol=2e-4)


def model_of(layer: Any) -> keras.Model:
    inputs = keras.Input((None, 1))
    x = plain.Conv1D(4, 3, padding="same")(layer(inputs))
    return keras.Model(inputs, plain.Dense(2)(plain.GlobalAveragePooling1D()(x)))


def test_a_model_of_waveforms_ignores_padding_and_is_saved_and_trained(tmp_path: Path) -> None:
    model = layers.mask_aware(model_of(layers.LogMel(**SETTINGS, high_hz=3000.0)))
    layers.assert_padding_invariant(model, 1, lengths=[900, 333], padding=[50])
    batch, _ = batch_of([900, 333], 1000)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(loaded(batch)), numpy(model(batch)), rtol=1e-5, atol=1e-6)
    model.compile(optimizer="sgd", loss="mse")
    assert np.isfinite(model.train_on_batch(batch, np.zeros((2, 2), "float32")))
    layer = layers.MFCC(**SETTINGS, coefficients=5)
    assert layers.MFCC.from_config(layer.get_config()).get_config() == layer.get_config()
    check = layers.check_model(layers.mask_aware(model_of(layer)))
    assert check.ok


def test_what_it_refuses() -> None:
    with pytest.raises(ArgumentError, match=r'LogMel ".*": called on \[None, None, 2\], expected waveforms \[B, N, 1\]. Add the last axis'):
        layers.LogMel()(keras.Input((None, 2)))
    with pytest.raises(ArgumentError, match="sample_rate: came as 0"):
        layers.LogMel(sample_rate=0)
    with pytest.raises(ArgumentError, match="coefficients: came as 50"):
        layers.MFCC(coefficients=50)
    inputs = keras.Input((None,))
    with pytest.raises(ArgumentError, match="centres its frames on the padding, compares them with the loudest .*Use vlpipe.layers.LogMel"):
        layers.mask_aware(keras.Model(inputs, plain.MelSpectrogram()(inputs)))
