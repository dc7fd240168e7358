"""Losses with one value for each sequence, of models whose outputs have frames: connectionist temporal classification (CTC)."""

# mypy: disallow-subclassing-any=False
from __future__ import annotations

import functools
import math
from typing import Any

import keras
import numpy as np
from keras import ops

from vlpipe.errors import ArgumentError
from vlpipe.layers.base import count_frames, fill_padding, prefix_mask, registered
from vlpipe.layers.lengths import known
from vlpipe.layers.trial_runs import ExtractMask

try:
    from keras.src.backend.common.symbolic_scope import in_symbolic_scope  # private, but nothing else tells
except ImportError:  # a Keras before this scope, or after it

    def in_symbolic_scope() -> bool:
        return False


NO_ALIGNMENT = 1000.0  # the backends give 700, 100000 and infinity, and gradients that mean nothing


@registered
class SequenceLoss(keras.losses.Loss):
    """Base of the losses that give one value for each sequence, computed from its real frames.

    A subclass defines `per_sequence`. Keras' own losses of this kind get no lengths: they count the padding.

    Raises:
        ArgumentError: the answers carry no mask.

    Example:
        >>> import keras, numpy as np
        >>> import vlpipe.layers as vl
        >>> class SquaredMean(vl.SequenceLoss):
        ...     def per_sequence(self, y_true, y_pred, frames):  # y_pred is 0 in the padding
        ...         mean = keras.ops.sum(y_pred[:, :, 0], axis=1) / keras.ops.cast(frames, "float32")
        ...         return keras.ops.square(mean - y_true)
        >>> model = vl.mask_aware(keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(1, 3, padding="same")]))
        >>> model.compile("sgd", SquaredMean())
        >>> batch = {"features": np.ones((2, 9, 4), "float32"), "lengths": np.array([9, 5])}
        >>> list(model.fit(batch, np.zeros(2, "float32"), verbose=0).history)
        ['loss']
    """

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        mask = ExtractMask()(y_pred)  # on JAX, tensors hold no attribute with it
        if mask is None and in_symbolic_scope():  # only shapes are wanted: `fit` on JAX and PyTorch builds a model without masks
            mask = ops.ones(ops.shape(y_pred)[:2], dtype="bool")
        if mask is None:
            raise ArgumentError(
                f'{type(self).__name__} "{self.name}": the answers of shape {tuple(y_pred.shape)} carry no mask, so their lengths are '
                "unknown; expected an output with frames of a mask-aware model. Compile vlpipe.layers.mask_aware(model) with this loss."
            )
        # Keras would take a mask of `y_pred` for that of the losses, which have no frames.
        return super().__call__(y_true, {"answers": fill_padding(y_pred, mask), "frames": count_frames(mask)}, sample_weight)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        if not isinstance(y_pred, dict):  # vlpipe.evaluate passes each record alone, without its padding
            y_pred = {"answers": y_pred, "frames": ops.full(ops.shape(y_pred)[:1], ops.shape(y_pred)[1], dtype="int32")}
        return self.per_sequence(y_true, y_pred["answers"], ops.cast(y_pred["frames"], "int32"))

    def per_sequence(self, y_true: Any, y_pred: Any, frames: Any) -> Any:
        """Return the losses `[B]` for labels, answers `[B, T, ...]` that are 0 in the padding, and numbers of real frames `[B]` (int32)."""
        raise NotImplementedError(f"{type(self).__name__} has no method per_sequence(y_true, y_pred, frames). Define it.")


@registered
class CTC(SequenceLoss):
    """Connectionist temporal classification: labels that are shorter than the answers and not aligned to them, as in speech recognition.

    `keras.losses.CTC` takes the padding of a batch for frames; this loss takes the lengths of the answers from their mask, and those of the
    labels from their padding, so that each sequence has the loss that it has alone.

    Args:
        blank: the class that stands for no label; `-1` is the last class.
        label_padding: what labels are padded with behind their end, as in `make_dataset(..., label_padding=-1)`.
        **kwargs: as for `keras.losses.Loss`.

    Shapes: labels `[B, U]`, integers from 0 to C - 1 except `blank`; logits `[B, T, C]`, before any softmax, with their mask. One loss
    for each sequence. A sequence with fewer frames than its labels need (one each, and one between equal neighbors) has no alignment:
    its loss is 1000, without a gradient.

    Raises:
        ArgumentError: the answers carry no mask; a label is `blank`, is not below C or comes after the padding. Inside a graph of
            TensorFlow, a wrong label is a `tf.errors.InvalidArgumentError`; compiled by XLA, the loss is NaN.

    Source: Graves et al., Connectionist temporal classification, ICML 2006.

    Example:
        >>> import keras, numpy as np
        >>> import vlpipe.layers as vl
        >>> letters = keras.Sequential([keras.Input((None, 4)), keras.layers.Conv1D(6, 5, strides=2, padding="same")])
        >>> model = vl.mask_aware(letters)
        >>> model.compile("adam", vl.CTC(blank=-1))  # letters 0 to 4, and class 5 is the blank
        >>> batch = {"features": np.ones((2, 12, 4), "float32"), "lengths": np.array([12, 5])}
        >>> history = model.fit(batch, np.array([[0, 3, 3], [4, -1, -1]]), verbose=0)  # make_dataset pads labels with -1
        >>> bool(np.isfinite(history.history["loss"][0]))
        True
    """

    def __init__(self, blank: int = 0, label_padding: int = -1, name: str = "ctc", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.blank, self.label_padding = blank, label_padding

    def __repr__(self) -> str:
        return f"CTC(blank={self.blank}, label_padding={self.label_padding})"

    def per_sequence(self, y_true: Any, y_pred: Any, frames: Any) -> Any:
        if len(y_true.shape) != 2 or len(y_pred.shape) != 3:
            raise ArgumentError(
                f'CTC "{self.name}": labels of shape {tuple(y_true.shape)} and answers of shape {tuple(y_pred.shape)}; expected [B, U] and '
                "[B, T, C]. The model gives one vector of logits for each frame, and each sequence has its classes as one row."
            )
        blank = self.blank % y_pred.shape[-1]
        labels = ops.cast(y_true, "int32")
        # One column of padding more: a batch without any label has none to gather from.
        labels = ops.pad(labels, [[0, 0], [0, 1]], constant_values=self.label_padding)
        real = labels != self.label_padding
        counts = ops.sum(ops.cast(real, "int32"), axis=1)
        possible = self._possible(labels, real, counts, blank, y_pred.shape[-1])
        labels = ops.where(real, labels, (blank + 1) % y_pred.shape[-1])  # padding is no class, and some backends look it up
        repeats = ops.logical_and(real[:, 1:], labels[:, 1:] == labels[:, :-1])
        aligned = frames >= counts + ops.sum(ops.cast(repeats, "int32"), axis=1)
        counts = ops.where(ops.logical_and(aligned, possible), counts, 0)  # so that no backend meets a row without an alignment
        losses = ops.ctc_loss(labels, y_pred, counts, ops.maximum(frames, 1), mask_index=blank)
        losses = ops.where(frames > 0, losses, ops.zeros_like(losses))
        losses = ops.where(aligned, losses, ops.cast(NO_ALIGNMENT, losses.dtype))
        return ops.where(possible, losses, ops.cast(math.nan, losses.dtype))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "blank": self.blank, "label_padding": self.label_padding}

    def _possible(self, labels: Any, real: Any, counts: Any, blank: int, classes: int) -> Any:
        """Return which rows of labels are possible (booleans `[B]`); refuse the others, where anything can raise."""
        wrong = ops.logical_or(ops.logical_or(labels < 0, labels >= classes), labels == blank)
        wrong = ops.where(real, wrong, prefix_mask(counts, ops.shape(labels)[1]))  # padding before a label
        possible = ops.logical_not(ops.any(wrong, axis=1))
        text = (
            f'CTC "{self.name}": expected classes from 0 to {classes - 1} except the blank, {blank}, and behind them {self.label_padding} '
            "as padding. Pass blank= and label_padding= as the labels have them; blank=-1 is the last class, of labels that begin at 0."
        )
        rows = known(possible)
        if rows is not None and not rows.all():
            row = int(np.flatnonzero(~rows)[0])
            raise ArgumentError(f"{text} Row {row} has the labels {known(labels)[row, :-1].tolist()}.")
        if rows is None and keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(possible), [text, "Received:", labels], summarize=64)]):
                return tf.identity(possible)
        return possible


def check_losses(model: str, compiled: Any, y: Any, y_pred: Any) -> bool:
    """Refuse losses that do not give one value for each frame of an output with frames: padding cannot be left out of their values.

    Args:
        model: name of the model.
        compiled: the losses of the model, as Keras holds them.
        y: labels, in the structure of the outputs.
        y_pred: the outputs.

    Returns:
        Whether an output has a mask: the model that `fit` builds to know the shapes, on JAX and PyTorch, has none.

    Raises:
        ArgumentError: the loss of an output with a mask gives one value for each sequence, or one for the batch.
    """
    masked = False
    for path, loss, *_ in getattr(compiled, "_flat_losses", None) or []:  # private, as in vlpipe/evaluation/losses.py
        try:
            label, answers = (functools.reduce(lambda part, key: part[key], path, structure) for structure in (y, y_pred))
        except (KeyError, IndexError, TypeError):  # labels in another structure, which Keras accepts
            continue
        if loss is None or ExtractMask()(answers) is None:
            continue
        masked = True
        if isinstance(loss, SequenceLoss):
            continue
        values = loss.call(*[ops.convert_to_tensor(part, dtype=loss.dtype) for part in (label, answers)])
        if len(values.shape) < 2:
            each = "for each sequence, [B]" if len(values.shape) else "for the whole batch"
            raise ArgumentError(
                f'Model "{model}": the loss "{loss.name}" gives one value {each}, for answers with frames, {tuple(answers.shape)}; '
                "expected one for each frame, [B, T], so that padding can be left out. Use vlpipe.layers.CTC for keras.losses.CTC; keep "
                "a last axis, [B, T, 1], of answers and labels [B, T]; derive a loss of whole sequences from vlpipe.layers.SequenceLoss."
            )
    return masked
