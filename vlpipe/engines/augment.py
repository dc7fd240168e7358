"""What `augment` changes, in the graph: the same draws and operations in every engine."""

from __future__ import annotations

import functools
import threading
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from vlpipe.audio.augment import Augment
from vlpipe.engines import splitmix_graph
from vlpipe.engines.buffer_pool import aligned
from vlpipe.engines.python_calls import wait_at_exit
from vlpipe.planning.plan import Plan
from vlpipe.planning.splitmix import purposes_of
from vlpipe.storage.schema import Fixed
from vlpipe.transforms.audio_features import WaveformFeatures, scaled
from vlpipe.transforms.augment import masked
from vlpipe.transforms.augmentations import STAGES, of_stage
from vlpipe.transforms.mixup import expanded, mixed, shares
from vlpipe.transforms.noise import AddNoise, Noise, with_noise
from vlpipe.transforms.normalize import means
from vlpipe.transforms.speed import SpeedPerturb, at_speed
from vlpipe.transforms.waveforms import Gain, amplified, moved

ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"  # TensorFlow's name of resources that are freed with their last handle


class Draws(NamedTuple):
    """From what the random numbers of the sequences of a batch are drawn.

    Attributes:
        numbers: int64 `[B]`.
        epoch: int64 scalar.
        speeds: int64 `[B]`, the position of the factor of each in `SpeedPerturb`; None without it.
    """

    numbers: tf.Tensor
    epoch: tf.Tensor
    speeds: tf.Tensor | None = None


class Augmenter:
    """The augmentations of a plan. It holds the noise, which it reads when it is created.

    Attributes:
        changes_samples: there are augmentations of waveforms.
    """

    def __init__(self, plan: Plan) -> None:
        augments = plan.options.augment
        self._seed, self._purposes = plan.options.seed or 0, purposes_of(type(augment).__name__ for augment in augments or ())
        self._classes = _classes_by_label(plan)
        self._samples, self._features, self._batch = (of_stage(augments, stage) for stage in STAGES)
        self.changes_samples = bool(self._samples)
        self._functions = {position: _Function(augment) for position, augment in self._samples if isinstance(augment, Augment)}
        self._noises = {position: _NoiseInMemory(augment) for position, augment in self._samples if isinstance(augment, AddNoise)}

    def samples(
        self, sequences: tf.RaggedTensor, ids: tf.Tensor, draws: Draws, waveform: WaveformFeatures | None = None
    ) -> tf.RaggedTensor:
        """The waveforms `[B, None]` or `[B, None, 1]`, augmented: floats, or integers if nothing makes fractions of them.

        Args:
            ids: int64 `[B]`, of their records, for errors.
            waveform: the audio features that they are for: they are scaled before, and padded to whole blocks `[B, None, H]` after.
        """
        values, splits, dtype = sequences.values, sequences.row_splits, sequences.dtype
        drawn = [self._drawn(position, augment, draws) for position, augment in self._samples]

        def one(row: tf.Tensor) -> tf.Tensor:
            samples = values[splits[row] : splits[row + 1]]
            samples = self._computable(samples) if waveform is None else scaled(samples)
            for (position, augment), numbers_of in zip(self._samples, drawn, strict=True):
                if isinstance(augment, SpeedPerturb) and draws.speeds is not None:
                    samples = at_speed(augment, samples, draws.speeds[row])
                else:
                    samples = self._changed(position, augment, samples, numbers_of[row], ids[row])
            return samples if waveform is None else waveform.in_blocks(samples)

        # One waveform after another: for a batch at once, every sample needs the number of its row, which takes ten times as long. And the
        # samples of one fit the cache.
        made = scaled(values[:0]) if waveform is not None else self._computable(values[:0])
        dimensions = values.shape[1:] if waveform is None else [waveform.features.hop]
        spec = tf.RaggedTensorSpec([None, *dimensions], made.dtype, ragged_rank=0)
        changed = tf.map_fn(one, tf.range(sequences.nrows()), fn_output_signature=spec)
        if waveform is not None:
            return changed
        values = changed.values if dtype.is_integer else tf.cast(changed.values, dtype)
        return changed.with_values(values) if draws.speeds is not None else sequences.with_values(values)

    def _computable(self, samples: tf.Tensor) -> tf.Tensor:
        """Samples in a dtype that holds what augmentations make of them."""
        if not any(augment.makes_fractions for _, augment in self._samples):
            return samples
        # float32 holds integers of 16 bits; wider ones are computed in float64, as is float64.
        wide = samples.dtype.size > 2 if samples.dtype.is_integer else samples.dtype == tf.float64
        return tf.cast(samples, tf.float64 if wide else tf.float32)

    def _changed(self, position: int, augment: Any, samples: tf.Tensor, drawn: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        if isinstance(augment, Augment):
            return self._functions[position](samples, drawn, number)
        if isinstance(augment, AddNoise):
            return with_noise(augment, self._noises[position].read(), samples, drawn)
        return amplified(augment, samples, drawn) if isinstance(augment, Gain) else moved(augment, samples, drawn)

    def features(self, sequences: tf.RaggedTensor, draws: Draws) -> tf.RaggedTensor:
        """The features `[B, None, d]`, augmented."""
        for position, augment in self._features:
            drawn = self._drawn(position, augment, draws)
            sequences = sequences.with_values(masked(augment, sequences, _fill(sequences, augment.fill), drawn))
        return sequences

    def mixing(self, sequences: tf.RaggedTensor, draws: Draws) -> Mixing | None:
        """How the sequences of a batch are mixed; None if they are not."""
        for position, augment in self._batch:
            drawn = self._drawn(position, augment, draws)
            partners = drawn[:, 0] * sequences.nrows() // 2**32
            has_frames = tf.gather(sequences.row_lengths(), partners) > 0
            return Mixing(partners, tf.where(has_frames, shares(augment, drawn[:, 1]), 1), self._classes)
        return None

    def _drawn(self, position: int, augment: Any, draws: Draws) -> tf.Tensor:
        """int64 `[B, augment.draws]`: random numbers below 2**32."""
        return splitmix_graph.draws(self._seed, draws.epoch, self._purposes[position], draws.numbers, augment.draws)


def _classes_by_label(plan: Plan) -> dict[str, int]:
    """The number of classes of each label that Mixup makes vectors of."""
    fields = plan.index.schema.fields
    return {
        name: classes
        for _, augment in of_stage(plan.options.augment, "batch")
        for name in plan.selection.labels
        if isinstance(field := fields[name], Fixed) and augment.is_class(field) and (classes := augment.classes_in(plan.index))
    }


class Mixing:
    """How the sequences of a batch are mixed.

    Attributes:
        partners: int64 `[B]`, the row of each one's partner.
    """

    def __init__(self, partners: tf.Tensor, share: tf.Tensor, classes: dict[str, int]) -> None:
        self.partners, self._share, self._classes = partners, share, classes

    def frames(self, sequences: tf.RaggedTensor) -> tf.RaggedTensor:
        """The sequences `[B, None, ...]`, mixed."""
        return sequences.with_values(mixed(sequences, self.partners, self._share))

    def labels(self, name: str, labels: tf.Tensor) -> tf.Tensor:
        """The labels `[B, ...]`, mixed: floats, vectors where they are class numbers."""
        if name in self._classes:
            labels = tf.one_hot(labels, self._classes[name], dtype=tf.float32)
        labels = labels if labels.dtype.is_floating else tf.cast(labels, tf.float32)
        share = expanded(tf.cast(self._share, labels.dtype), labels)
        return tf.where(share < 1, share * labels + (1 - share) * tf.gather(labels, self.partners), labels)


class _Function:
    """A function in Python, in the graph."""

    _lock = threading.Lock()  # of all: such functions may use the global state of a random number generator

    def __init__(self, augment: Augment) -> None:
        self._augment = augment

    def __call__(self, samples: tf.Tensor, drawn: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
        result = tf.numpy_function(wait_at_exit(_Function._in_python, self), [samples, drawn, number], samples.dtype, stateful=False)
        return tf.ensure_shape(result, samples.shape)

    def _in_python(self, samples: np.ndarray, drawn: np.ndarray, number: np.ndarray) -> np.ndarray:
        with self._lock:
            return self._augment(samples, drawn, int(number))


_handed_over: dict[int, np.ndarray] = {}


@functools.cache
def _uncopied(dtype: tf.DType) -> Any:
    """A function that takes an array of a dtype from `_handed_over`, by its key, and returns it as a tensor on the same memory.

    `tf.constant` copies it. TensorFlow keeps a function in Python for ever, so that it may hold no array, and there is one for each dtype.
    """

    def take(key: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(lambda key: _handed_over.pop(int(key)), [key], dtype)

    return tf.function(take, autograph=False).get_concrete_function(tf.TensorSpec([], tf.int64))


class _NoiseInMemory:
    """The noise as a resource, which all functions of a dataset share: tf.data copies a constant into the graph of every iterator."""

    def __init__(self, augment: AddNoise) -> None:
        self._dtype = tf.as_dtype(augment.dtype)
        noise = augment.load(aligned(augment.bytes).view(augment.dtype))
        _handed_over[id(self)] = noise.samples
        with tf.init_scope(), tf.device("CPU:0"):  # where tf.data runs, even on a machine with a GPU
            self._table = Noise(noise.samples[:0], *map(tf.constant, noise[1:]))
            self._samples = tf.raw_ops.VarHandleOp(dtype=self._dtype, shape=[augment.samples], shared_name=ANONYMOUS)
            tf.raw_ops.AssignVariableOp(resource=self._samples, value=_uncopied(self._dtype)(np.int64(id(self))))

    def read(self) -> Noise:
        """As tensors of the graph that is traced; nothing is copied."""
        return self._table._replace(samples=tf.raw_ops.ReadVariableOp(resource=self._samples, dtype=self._dtype))


def _fill(sequences: tf.RaggedTensor, fill: str) -> tf.Tensor:
    """`[B, d]`: the value of masked frames of each sequence."""
    values = sequences.values
    if fill == "zero":
        return tf.zeros([sequences.nrows(), *values.shape[1:]], values.dtype)
    return tf.cast(means(tf.cast(values, tf.float64), sequences.value_rowids(), sequences.nrows()), values.dtype)
