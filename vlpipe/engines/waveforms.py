"""Waveforms as they are stored become those that audio features take: floats in [-1, 1] at the sample rate of the features."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from vlpipe.audio import resample
from vlpipe.engines.python_calls import wait_at_exit
from vlpipe.transforms.audio_features import WaveformFeatures, scaled


def waveforms_of(features: WaveformFeatures, sequences: tf.RaggedTensor) -> tf.RaggedTensor:
    """The waveforms of a batch, `[B, None]` or `[B, None, 1]`, from their samples in the dtype in which they are stored."""
    sequences = sequences.with_values(scaled(sequences.values))
    return _resampled(features, sequences) if features.is_resampled else sequences


def _resampled(features: WaveformFeatures, sequences: tf.RaggedTensor) -> tf.RaggedTensor:
    """Each waveform at the rate of the features, by the same call as in `vlpipe.audio.load`."""

    def resampled(features: WaveformFeatures, values: np.ndarray, splits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        waveforms = [resample(part, features.rate, features.features.sample_rate) for part in np.split(values, splits[1:-1])]
        return np.concatenate(waveforms), np.array([len(waveform) for waveform in waveforms], np.int64)

    call = wait_at_exit(resampled, features)
    values, lengths = tf.numpy_function(call, [sequences.values, sequences.row_splits], [tf.float32, tf.int64], stateful=False)
    values.set_shape([None, *sequences.values.shape[1:]])
    lengths.set_shape(sequences.shape[:1])
    return tf.RaggedTensor.from_row_lengths(values, lengths, validate=False)
