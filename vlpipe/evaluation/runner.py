"""One model on padded batches: which part of a batch it takes, and which part of its answer is real."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from vlpipe.errors import ArgumentError, VlpipeError
from vlpipe.evaluation.batches import Batch
from vlpipe.layers.base import MaskAware
from vlpipe.layers.check import check_model
from vlpipe.layers.frame_count import FrameCount
from vlpipe.layers.timewise import frame_counts

# What the three backends raise where shapes do not fit.
RAW = (ValueError, TypeError, IndexError, RuntimeError, tf.errors.InvalidArgumentError, tf.errors.UnimplementedError)


class Output(NamedTuple):
    """What is known of one output of a model before it runs.

    Attributes:
        name: of the output, in messages.
        shape: of a batch; None where it varies.
        feature: name of the input whose lengths decide about its frames; None: the model has one sequence, or they cannot be followed.
        frames: from the lengths of that input to those of the output; None: the output has no frames, or they cannot be followed.
    """

    name: str
    shape: tuple[int | None, ...]
    feature: str | None
    frames: FrameCount | None

    @property
    def has_frames(self) -> bool:
        """Whether a record has as many answers as its length says; otherwise it has one answer of a fixed shape."""
        return self.frames is not None or None in self.shape[1:]


def is_exact(model: Any) -> bool:
    """Whether no layer lets padding change an answer, as far as the model can be inspected."""
    try:
        return check_model(model).ok
    except ArgumentError:  # a model with a call of its own
        return False


class Runner:
    """Runs a model on batches, with Keras' own `predict_on_batch`, so on any backend.

    Args:
        model: any Keras model. One whose inputs are a dict gets the parts of a batch by key; one with a single input gets the only feature.
    """

    def __init__(self, model: Any) -> None:
        if not isinstance(model, keras.Model):
            raise ArgumentError(
                f"model: came as {type(model).__name__}, expected a Keras model. Load one from a file with keras.saving.load_model(path)."
            )
        self.model = model
        self.name = model.name
        layers = list(model._flatten_layers())  # private, but also finds those in other layers and in a call of the user's
        stateful = [layer.name for layer in layers if getattr(layer, "stateful", False)]
        if stateful:
            raise ArgumentError(
                f'model "{self.name}": its layer "{stateful[0]}" is stateful, so its answer for a record depends on those before it. Build '
                "it with stateful=False."
            )
        # In a graph of Keras, TimeDistributed may answer with the number of frames of an earlier batch.
        self._is_eager = any(isinstance(layer, keras.layers.TimeDistributed) and not isinstance(layer, MaskAware) for layer in layers)
        self._outputs: list[Output] | None = None

    @functools.cached_property
    def inputs(self) -> Any:
        """The symbolic inputs of the model in their structure; None where only its own call knows them."""
        # private, but what Keras itself compares the structure of a batch with
        functional = getattr(self.model, "_functional", None) or self.model
        return getattr(functional, "_inputs_struct", None)

    def taken(self, batch: Batch) -> Any:
        """The parts of a batch that the model takes, in the structure of its inputs.

        Raises:
            ArgumentError: the model has an input that the batch lacks.
        """
        if self.inputs is None:
            return batch.x
        if isinstance(self.inputs, dict):
            return {key: self._part(batch, key) for key in self.inputs}
        if isinstance(self.inputs, (list, tuple)) and len(self.inputs) > 1:
            return [self._part(batch, tensor.name) for tensor in self.inputs]
        if len(batch.features) > 1:
            raise ArgumentError(
                f'model "{self.name}": has one input, but the batches have the features {list(batch.features)}. Name one: features=...'
            )
        feature = next(iter(batch.features.values()))
        return [feature] if isinstance(self.inputs, (list, tuple)) else feature

    def _part(self, batch: Batch, key: str) -> Any:
        if key not in batch.parts:
            raise ArgumentError(
                f'model "{self.name}": its input "{key}" is not among the parts of a batch: {list(batch.parts)}. Name the inputs of the '
                "model as make_dataset names these."
            )
        return batch.parts[key]

    def __call__(self, batch: Batch) -> Any:
        """The answers for a batch, NumPy arrays `[B, ...]` in the structure of the outputs; those of padded frames among them."""
        x = self.taken(batch)
        self._outputs = self._outputs or self._known_outputs(x)
        self._check_ragged(x)
        if keras.backend.backend() != "tensorflow":
            x = keras.tree.map_structure(np.asarray, x)
        try:
            answers = self._answered(x)
        except VlpipeError:
            raise
        except RAW as error:
            refused = f'model "{self.name}": cannot answer a batch of the shape {_shapes(x)} (records of {_lengths(batch)} frames)'
            if self._misfits(x):
                raise ArgumentError(
                    f"{refused}: it takes {_shapes(self.inputs)}. Pass what the model was trained with: the same features, transform= and "
                    "layout."
                ) from error
            raise ArgumentError(
                f"{refused}: {said(error)}. Pass features that fit its inputs, or leave records that are too short out: "
                "length_range=(1, None)."
            ) from error
        # Each replica of a strategy answers the whole batch, and Keras concatenates their answers.
        return keras.tree.map_structure(lambda y: self._real_rows(np.asarray(y), batch.rows), answers)

    def _misfits(self, x: Any) -> bool:
        """Whether a part of a batch has not the shape of its input, as far as the inputs are known."""
        if self.inputs is None:
            return False
        parts, inputs = keras.tree.flatten(x), keras.tree.flatten(self.inputs)
        return any(_differ(part.shape, tensor.shape) for part, tensor in zip(parts, inputs, strict=True))

    def _real_rows(self, answers: np.ndarray, rows: int) -> np.ndarray:
        if answers.ndim < 1 or len(answers) < rows:
            raise ArgumentError(
                f'model "{self.name}": has an answer of shape {_shape(answers.shape)} for a batch of {rows} records, expected a row for '
                "each. Do not reduce the batch axis."
            )
        return answers[:rows]

    def _answered(self, x: Any) -> Any:
        if not self._is_eager:
            return self.model.predict_on_batch(x)
        inputs = keras.tree.map_structure(keras.ops.convert_to_tensor, x)
        return keras.tree.map_structure(keras.ops.convert_to_numpy, self.model(inputs, training=False))

    def _check_ragged(self, x: Any) -> None:
        """Refuse ragged batches for a model that takes dense ones, as far as its inputs can be inspected."""
        if self.inputs is None:
            return
        for part, tensor in zip(keras.tree.flatten(x), keras.tree.flatten(self.inputs), strict=True):
            if isinstance(part, tf.RaggedTensor) and not getattr(tensor, "ragged", False):
                raise ArgumentError(
                    f'model "{self.name}": its input "{tensor.name}" is dense, and batching="ragged" gives it a ragged batch. '
                    "Leave batching out, or begin the model with keras.Input(..., ragged=True) and vlpipe.layers.ToPadded."
                )

    @property
    def outputs(self) -> list[Output]:
        """The outputs, in the order of `keras.tree.flatten`; those of a model with a call of its own are known from the first batch on."""
        if self._outputs is None and self.inputs is not None:
            self._outputs = self._known_outputs(None)
        return self._outputs or []

    @property
    def structure(self) -> Any:
        """The outputs of a model that can be inspected, in their structure."""
        return (getattr(self.model, "_functional", None) or self.model)._outputs_struct

    def frames_of(self, output: Output, answers: np.ndarray, batch: Batch) -> np.ndarray:
        """int64 `[B]`: how many answers of each record are real.

        Raises:
            ArgumentError: the batch is padded, and the model does not tell how its frames follow from those of its input; or it has
                answered with fewer frames than its layers say.
        """
        feature = output.feature if len(batch.frames) > 1 else next(iter(batch.frames), None)
        if output.frames is not None and feature in batch.frames:
            counts: np.ndarray = np.asarray(output.frames(batch.frames[feature]), np.int64)
            wide = batch.features[feature].shape[1]  # of a ragged feature None
            expected = int(counts.max(initial=0) if wide is None else output.frames(np.array([wide]))[0])
            if answers.shape[1] < expected or (wide is not None and answers.shape[1] > max(expected, 1)):
                raise ArgumentError(
                    f'model "{self.name}": output "{output.name}" has {answers.shape[1]} frames for a batch of {wide}, and by its layers '
                    f"{expected}. Correct the layer that answers with another number (output_frames of a layer of your own)."
                )
            return counts
        if batch.is_unpadded:
            return np.full(len(answers), answers.shape[1], np.int64)
        if not batch.frames:
            raise ArgumentError(
                f'model "{self.name}": output "{output.name}" {_shape(output.shape)} has one answer a frame, but the dataset delivers no '
                "lengths. Make it with lengths=True, or pass the source instead of a dataset."
            )
        raise ArgumentError(
            f'model "{self.name}": how many of the {answers.shape[1]} frames of output "{output.name}" are real cannot be known: its '
            'layers cannot be followed, and the batch is padded. Pass batching="same_length", which pads nothing.'
        )

    def _known_outputs(self, x: Any) -> list[Output]:
        if self.inputs is not None:
            functional = getattr(self.model, "_functional", None) or self.model
            names = _keys(self.inputs)
            counts = frame_counts(self.model)
            return [
                Output(name, tuple(y.shape), names[count[0]] if count else None, count[1] if count else None)
                for name, y, count in zip(self._names(len(counts)), functional.outputs, counts, strict=True)
            ]
        specs = keras.tree.map_structure(lambda part: keras.KerasTensor(_open(part), dtype=part.dtype.name), x)
        try:
            symbolic = keras.tree.flatten(self.model.compute_output_spec(specs))
        except Exception as error:  # the user's call may raise anything
            raise ArgumentError(
                f'model "{self.name}": the shape of its output cannot be known for sequences of any length ({error}). Define '
                "compute_output_spec, or build the model from keras.Input and layers."
            ) from error
        return [Output(name, tuple(y.shape), None, None) for name, y in zip(self._names(len(symbolic)), symbolic, strict=True)]

    def _names(self, count: int) -> list[str]:
        names = list(getattr(self.model, "output_names", None) or [])
        return names if len(names) == count else [f"output {number}" for number in range(count)]


def _keys(inputs: Any) -> list[str]:
    """The names of a model's inputs in the order of `model.inputs`: of a dict its keys, which may differ from the names of the tensors."""
    if isinstance(inputs, dict):
        return sorted(inputs)
    return [tensor.name for tensor in keras.tree.flatten(inputs)]


def _open(part: Any) -> tuple[int | None, ...]:
    """The shape of a part of a batch, with its rows and frames left open."""
    shape = tuple(part.shape)
    return (None, None, *shape[2:]) if len(shape) > 1 else (None,)


def _lengths(batch: Batch) -> str:
    return ", ".join(
        " to ".join(str(n) for n in sorted({int(frames.min()), int(frames.max())})) for frames in batch.frames.values() if len(frames)
    )


def _differ(shape: Any, expected: Any) -> bool:
    """Whether a shape is another than expected; Keras itself adds and removes a last axis of length 1."""
    own, wanted = list(shape), list(expected)
    if abs(len(own) - len(wanted)) == 1:
        min(own, wanted, key=len).append(1)
    return len(own) != len(wanted) or any(None not in pair and pair[0] != pair[1] for pair in zip(own, wanted, strict=True))


def said(error: Exception) -> str:
    """What an error says, without the traceback that TensorFlow puts before it."""
    lines = [line for line in str(error).splitlines() if line and not line[0].isspace()]
    return lines[-1] if lines and "most recent call last" in str(error) else str(error)


def _shapes(parts: Any) -> str:
    return ", ".join(_shape(tuple(part.shape)) for part in keras.tree.flatten(parts))


def _shape(shape: tuple[int | None, ...]) -> str:
    return f"[{', '.join('?' if n is None else str(n) for n in shape)}]"
