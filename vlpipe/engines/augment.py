"""What `augment` changes, in the graph: the same draws and operations in every engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from vlpipe.engines.splitmix_graph import draws
from vlpipe.planning.plan import Plan
from vlpipe.planning.splitmix import purposes_of
from vlpipe.transforms.augment import masked
from vlpipe.transforms.augmentations import Augmentation, of_stage
from vlpipe.transforms.noise import AddNoise, Noise, with_noise
from vlpipe.transforms.normalize import means
from vlpipe.transforms.waveforms import Gain, amplified, moved

Draws = Callable[[int, Augmentation], tf.Tensor]


class Augmenter:
    """The augmentations of a plan. It holds the noise, which it reads when it is created.

    Attributes:
        changes_samples: there are augmentations of waveforms.
    """

    def __init__(self, plan: Plan) -> None:
        augments = plan.options.augment
        self._seed, self._purposes = plan.options.seed or 0, purposes_of(type(augment).__name__ for augment in augments or ())
        self._samples, self._features = of_stage(augments, "samples"), of_stage(augments, "features")
        self.changes_samples = bool(self._samples)
        self._noises = {position: _loaded(augment) for position, augment in self._samples if isinstance(augment, AddNoise)}

    def samples(self, sequences: tf.RaggedTensor, numbers: tf.Tensor | None, epoch: tf.Tensor) -> tf.RaggedTensor:
        """The waveforms `[B, None]` or `[B, None, 1]`, augmented.

        Args:
            numbers: int64 `[B]`, from which random numbers are drawn.
            epoch: int64 scalar.
        """
        dtype = sequences.dtype
        if any(augment.makes_fractions for _, augment in self._samples):
            # float32 holds integers of 16 bits; the others are computed in float64, as is float64.
            wide = dtype.size > 2 if dtype.is_integer else dtype == tf.float64
            sequences = sequences.with_values(tf.cast(sequences.values, tf.float64 if wide else tf.float32))
        for position, augment in self._samples:
            drawn = draws(self._seed, epoch, self._purposes[position], numbers, augment.draws)
            sequences = sequences.with_values(self._changed(position, augment, sequences, drawn))
        return sequences if dtype.is_integer else sequences.with_values(tf.cast(sequences.values, dtype))

    def _changed(self, position: int, augment: Any, sequences: tf.RaggedTensor, drawn: tf.Tensor) -> tf.Tensor:
        if isinstance(augment, AddNoise):
            return with_noise(augment, self._noises[position], sequences, drawn)
        return amplified(augment, sequences, drawn) if isinstance(augment, Gain) else moved(augment, sequences, drawn)

    def features(self, sequences: tf.RaggedTensor, numbers: tf.Tensor | None, epoch: tf.Tensor) -> tf.RaggedTensor:
        """The features `[B, None, d]`, augmented; arguments as for `samples`."""
        for position, augment in self._features:
            drawn = draws(self._seed, epoch, self._purposes[position], numbers, augment.draws)
            sequences = sequences.with_values(masked(augment, sequences, _fill(sequences, augment.fill), drawn))
        return sequences


def _loaded(augment: AddNoise) -> Noise:
    """The noise as tensors, which the functions of a dataset share."""
    with tf.init_scope(), tf.device("CPU:0"):  # where tf.data runs, even on a machine with a GPU
        return Noise(*map(tf.constant, augment.load()))


def _fill(sequences: tf.RaggedTensor, fill: str) -> tf.Tensor:
    """`[B, d]`: the value of masked frames of each sequence."""
    values = sequences.values
    if fill == "zero":
        return tf.zeros([sequences.nrows(), *values.shape[1:]], values.dtype)
    return tf.cast(means(tf.cast(values, tf.float64), sequences.value_rowids(), sequences.nrows()), values.dtype)
